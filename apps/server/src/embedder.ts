/** Texts as vectors: the model's last hidden states, pooled. */
import { setImmediate as nextTask } from "node:timers/promises";
import { forward, type ModelConfig, type ModelParams } from "@dsv3/model";
import { QueueFullError } from "@dsv3/serve";
import { type Compiled, cast, compile, matmul, reshape, type Tensor, tensor } from "@dsv3/tensor";

/**
 * `mean` averages the states of all tokens; `last` takes the last token's, for models that were taught
 * to put the meaning of a text there.
 */
export type Pooling = "mean" | "last";

export interface EmbedderOptions {
  readonly params: ModelParams;
  readonly config: ModelConfig;
  /** `mean` unless given. */
  readonly pooling?: Pooling;
  /** Most tokens of one text. */
  readonly maxContext: number;
  /** Texts that may wait; one more is refused with a QueueFullError. */
  readonly maxQueued: number;
}

/** Programs are made for a few lengths alone: texts are filled up to the next power of two. */
const LEAST_TOKENS = 16;

export class Embedder {
  readonly dimensions: number;
  readonly maxContext: number;
  readonly #pooling: Pooling;
  readonly #maxQueued: number;
  readonly #pool: Compiled<[ids: Tensor, weights: Tensor], Tensor>;
  /** One text after another: each has all cores. */
  #turn: Promise<unknown> = Promise.resolve();
  #queued = 0;
  #disposed = false;

  constructor({ params, config, pooling = "mean", maxContext, maxQueued }: EmbedderOptions) {
    this.dimensions = config.hiddenSize;
    this.maxContext = maxContext;
    this.#pooling = pooling;
    this.#maxQueued = maxQueued;
    this.#pool = compile(
      (ids: Tensor, weights: Tensor) => {
        const states = forward(params, ids, config).hiddenStates.at(-1)!; // [1, T, D]
        return matmul(weights, reshape(cast(states, "f32"), [-1, config.hiddenSize])); // [1, D]
      },
      { name: "embed" },
    );
  }

  /**
   * The vectors of texts, f32 of `dimensions` each, not brought to any length. They depend on their
   * own text alone.
   * @param texts token ids, from 1 to `maxContext` each, all in the vocabulary
   * @throws QueueFullError if too many wait; the signal's reason
   */
  async embed(texts: readonly ArrayLike<number>[], signal: AbortSignal): Promise<Float32Array[]> {
    if (this.#queued + texts.length > this.#maxQueued) throw new QueueFullError(this.#maxQueued);
    this.#queued += texts.length;
    try {
      return await Promise.all(texts.map((ids) => this.#inTurn(ids, signal)));
    } finally {
      this.#queued -= texts.length;
    }
  }

  /** Texts that wait fail; the one at work ends. */
  async dispose(): Promise<void> {
    this.#disposed = true;
    await this.#turn;
    this.#pool.dispose();
  }

  #inTurn(ids: ArrayLike<number>, signal: AbortSignal): Promise<Float32Array> {
    const done = this.#turn.then(async () => {
      // Others get their turn between two texts, and so do clients that leave.
      await nextTask();
      signal.throwIfAborted();
      if (this.#disposed) throw new Error("the embedder was disposed");
      return this.#one(ids);
    });
    this.#turn = done.catch(() => {});
    return done;
  }

  async #one(ids: ArrayLike<number>): Promise<Float32Array> {
    const { length } = ids;
    const width = Math.max(LEAST_TOKENS, 2 ** Math.ceil(Math.log2(length)));
    // A token does not see those after it, so that what fills a text up changes nothing before it.
    const filled = new Int32Array(width);
    filled.set(ids);
    const weights = new Float32Array(width);
    if (this.#pooling === "last") weights[length - 1] = 1;
    else weights.fill(1 / length, 0, length);
    const inputs = [
      tensor(filled, { shape: [1, width], dtype: "i32" }),
      tensor(weights, { shape: [1, width] }),
    ] as const;
    const pooled = this.#pool(...inputs);
    for (const input of inputs) input.dispose();
    const vector = await pooled.data();
    pooled.dispose();
    return Float32Array.from(vector);
  }
}
