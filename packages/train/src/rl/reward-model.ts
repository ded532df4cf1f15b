/**
 * A reward that is learnt from preferences (section 5.2.1 of the report: a model-based reward, started
 * from the fine-tuned model): a head r = w · h over the hidden state h of a conversation's last token.
 * The model below stays as it is, so that only w is trained, by the Bradley–Terry model of pairs,
 * P(a better than b) = σ(r_a − r_b).
 */
import type { Question, Reply, Reward } from "@dsv3/data";
import { forward, type ModelConfig, type ModelParams } from "@dsv3/model";
import {
  abs,
  add,
  compile,
  disposeTree,
  exp,
  expandDims,
  full,
  log,
  matmul,
  maximum,
  mean,
  mul,
  neg,
  reshape,
  sum,
  type Tensor,
  tensor,
  valueAndGrad,
  zeros,
} from "@dsv3/tensor";
import { encodeChat, type Tokenizer } from "@dsv3/tokenizer";
import { ADAMW, adamw, initMoments, type Moments } from "../adamw.ts";

/** Two replies to one question. */
export interface Preference {
  readonly prompt: string;
  readonly chosen: string;
  readonly rejected: string;
}

export interface RewardModelOptions {
  readonly steps: number;
  readonly learningRate: number;
  /** Pulls w to 0, which keeps rewards small where pairs do not decide. */
  readonly weightDecay: number;
}

/** Conversations that go through the model at once. */
const ROWS = 8;
const ROUND = 16;

export class RewardModel {
  /** w, one number for each of the hidden state. */
  readonly weight: Float32Array;
  readonly #params: ModelParams;
  readonly #tokenizer: Tokenizer;
  readonly #states: (params: ModelParams, ids: Tensor, last: Tensor) => Tensor;
  readonly #dispose: () => void;
  #waiting: { ids: Uint32Array; done(reward: number): void; failed(error: unknown): void }[] = [];

  /** @param params stay the caller's, and must live as long as the reward model */
  constructor(
    params: ModelParams,
    config: ModelConfig,
    tokenizer: Tokenizer,
    weight: Float32Array = new Float32Array(config.hiddenSize),
  ) {
    if (weight.length !== config.hiddenSize) {
      throw new RangeError(
        `the head has ${weight.length} weights, but the model's hidden state ${config.hiddenSize}`,
      );
    }
    const states = compile(
      (p: ModelParams, ids: Tensor, last: Tensor) => {
        const h = forward(p, ids, config).hiddenStates.at(-1) as Tensor; // [N, T, D]
        return sum(mul(h, expandDims(last, 2)), 1); //                      [N, D]
      },
      { name: "lastStates" },
    );
    [this.#params, this.#tokenizer, this.weight] = [params, tokenizer, weight];
    [this.#states, this.#dispose] = [states, () => states.dispose()];
  }

  /**
   * A head trained on pairs, all of them in every step: the loss is convex in w.
   * @throws RangeError without pairs
   */
  static async train(
    params: ModelParams,
    config: ModelConfig,
    tokenizer: Tokenizer,
    pairs: readonly Preference[],
    { steps, learningRate, weightDecay }: RewardModelOptions,
  ): Promise<RewardModel> {
    if (pairs.length === 0) throw new RangeError("no pairs to learn preferences from");
    using model = new RewardModel(params, config, tokenizer);
    const statesOf = (reply: (pair: Preference) => string) =>
      model.#lastStates(pairs.map((pair) => encoded(tokenizer, pair.prompt, reply(pair))));
    const [a, b] = [await statesOf((p) => p.chosen), await statesOf((p) => p.rejected)];
    const D = config.hiddenSize;
    using differences = tensor(
      Float32Array.from(a, (x, i) => x - (b[i] as number)),
      { shape: [pairs.length, D] },
    );
    const program = compile(
      (state: HeadState, x: Tensor) => {
        const [, gradient] = valueAndGrad((w: Tensor) => bradleyTerry(matmul(x, w)))(state.w);
        const step = add(state.step, 1);
        const rate = { step, learningRate: full([], learningRate) };
        const optimizer = { ...ADAMW, weightDecay };
        const moved = adamw({ w: state.w }, { w: gradient }, state.moments, rate, optimizer);
        return { w: moved.params.w, moments: moved.moments, step } as HeadState;
      },
      { name: "rewardHead", donate: [0] },
    );
    const w = zeros([D, 1]);
    let state: HeadState = { w, moments: initMoments({ w }, "f32"), step: zeros([]) };
    for (let i = 0; i < steps; i++) state = program(state, differences);
    const weight = Float32Array.from((await state.w.data()) as Float32Array);
    disposeTree(state);
    program.dispose();
    return new RewardModel(params, config, tokenizer, weight);
  }

  /** What a reply is worth; calls that come together are computed together. */
  score(prompt: string, reply: string): Promise<number> {
    return new Promise((done, failed) => {
      this.#waiting.push({ ids: encoded(this.#tokenizer, prompt, reply), done, failed });
      if (this.#waiting.length === 1) setImmediate(() => this.#flush());
    });
  }

  /** As one of the rewards of reinforcement learning. */
  asReward(): Reward {
    return ({ prompt }: Question, { text }: Reply) => this.score(prompt, text);
  }

  async #flush(): Promise<void> {
    const asked = this.#waiting;
    this.#waiting = [];
    try {
      const states = await this.#lastStates(asked.map(({ ids }) => ids));
      const D = this.weight.length;
      for (const [i, { done }] of asked.entries()) {
        done(this.weight.reduce((r, w, j) => r + w * (states[i * D + j] as number), 0));
      }
    } catch (error) {
      for (const { failed } of asked) failed(error);
    }
  }

  /** Hidden states of the last tokens, row-major [conversations, D]. */
  async #lastStates(all: readonly Uint32Array[]): Promise<Float32Array> {
    const D = this.weight.length;
    const states = new Float32Array(all.length * D);
    const longest = all.reduce((n, ids) => Math.max(n, ids.length), 0);
    const length = Math.ceil(longest / ROUND) * ROUND;
    for (let at = 0; at < all.length; at += ROWS) {
      const some = all.slice(at, at + ROWS);
      const inputIds = new Int32Array(ROWS * length);
      const last = new Float32Array(ROWS * length);
      for (const [i, ids] of some.entries()) {
        inputIds.set(ids, i * length);
        last[i * length + ids.length - 1] = 1;
      }
      using ids = tensor(inputIds, { shape: [ROWS, length], dtype: "i32" });
      using marks = tensor(last, { shape: [ROWS, length] });
      using found = this.#states(this.#params, ids, marks);
      states.set(((await found.data()) as Float32Array).subarray(0, some.length * D), at * D);
    }
    return states;
  }

  [Symbol.dispose](): void {
    this.#dispose();
  }
}

type HeadState = { w: Tensor; moments: Moments<{ w: Tensor }>; step: Tensor };

/** Mean of −log σ(d), without overflow. */
function bradleyTerry(d: Tensor): Tensor {
  const flat = reshape(d, [-1]);
  return mean(add(maximum(neg(flat), 0), log(add(exp(neg(abs(flat))), 1))));
}

function encoded(tokenizer: Tokenizer, prompt: string, reply: string): Uint32Array {
  return encodeChat(tokenizer, [
    { role: "user", content: prompt },
    { role: "assistant", content: reply },
  ]).ids;
}
