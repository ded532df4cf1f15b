/**
 * The model over the paged latent cache, as a few compiled programs: one for each number of tokens
 * of a chunk, one for each number of sequences in a batch, all powers of two.
 *
 * Rows of a product may be added up in another order when there are few of them. So that a token's
 * logits do not depend, to the last bit, on what is computed beside it, no program has fewer than
 * `LEAST_ROWS` rows: chunks are filled up with tokens before their own (which are computed again to
 * the same values) and batches with idle rows. Attention takes the absorbed form everywhere.
 */
import { forwardCached, latentCaches, type ModelConfig, type ModelParams } from "@dsv3/model";
import { type Compiled, compile, disposeTree, squeeze, type Tensor, tensor } from "@dsv3/tensor";
import { BLOCK_TOKENS } from "./blocks.ts";
import { type SampleInputs, type SampleResult, sampleRows, uniformAt } from "./sampling.ts";
import type { Chunk } from "./scheduler.ts";
import type { Sequence } from "./sequence.ts";

export interface RunnerOptions {
  readonly params: ModelParams;
  readonly config: ModelConfig;
  readonly blocks: number;
  readonly maxContext: number;
  readonly computeDtype: "f32" | "bf16";
  readonly cacheDtype: "f32" | "bf16";
  /** Whether results are the same to the last bit in every batch. */
  readonly batchInvariant: boolean;
}

/** A token that was drawn, with what was asked to be known of it. */
export interface Drawn {
  readonly token: number;
  readonly logprob: number;
  /** The most likely tokens in its place, as many as the request asked for. */
  readonly top: readonly { readonly token: number; readonly logprob: number }[];
}

const LEAST_ROWS = 8;

type Forward = Compiled<
  [ids: Tensor, caches: Tensor[], lengths: Tensor, pages: Tensor],
  { logits: Tensor; caches: Tensor[] }
>;

export class Runner {
  readonly #options: RunnerOptions;
  readonly #leastBatch: number;
  readonly #tableWidth: number;
  readonly #forward: Forward;
  readonly #sample: Compiled<
    [logits: Tensor, inputs: SampleInputs, logprobs: number],
    SampleResult
  >;
  #caches: Tensor[];

  constructor(options: RunnerOptions) {
    const { params, config, blocks, computeDtype } = options;
    this.#options = options;
    this.#leastBatch = options.batchInvariant ? LEAST_ROWS : 1;
    this.#tableWidth = Math.ceil(options.maxContext / BLOCK_TOKENS);
    this.#caches = latentCaches(config, blocks, BLOCK_TOKENS, options.cacheDtype);
    this.#forward = compile(
      (ids: Tensor, caches: Tensor[], lengths: Tensor, pages: Tensor) => {
        const settings = { pages, computeDtype, form: "absorbed" } as const;
        const result = forwardCached(params, ids, caches, lengths, config, settings);
        return { logits: squeeze(result.logits, 1), caches: result.caches };
      },
      { name: "serve", donate: [1] },
    );
    this.#sample = compile(sampleRows, { name: "sample" });
  }

  /** Computes a chunk of a prompt. If it ends the sequence's tokens, the next one is drawn. */
  async prefill({ sequence, start, end }: Chunk): Promise<Drawn | null> {
    let logits: Tensor | undefined;
    for (let at = start; at < end; ) {
      const width = chunkWidth(end - at);
      const to = Math.min(end, at + width);
      logits?.dispose();
      logits = this.#run([{ sequence, length: to }], width);
      at = to;
    }
    if (end < sequence.tokens.length) {
      logits?.dispose();
      return null;
    }
    const [drawn] = await this.#draw(logits!, [sequence]);
    return drawn!;
  }

  /** Computes the last token of each sequence, and draws the next one. */
  async decode(sequences: readonly Sequence[]): Promise<Drawn[]> {
    const rows = sequences.map((sequence) => ({ sequence, length: sequence.tokens.length }));
    return this.#draw(this.#run(rows, 1), sequences);
  }

  dispose(): void {
    disposeTree(this.#caches);
    this.#forward.dispose();
    this.#sample.dispose();
  }

  /** Logits f32 [batch, V] after the `width` tokens that end at each row's `length`. */
  #run(rows: readonly { sequence: Sequence; length: number }[], width: number): Tensor {
    const batch = width === 1 ? this.#batch(rows.length) : 1;
    const ids = new Int32Array(batch * width);
    const lengths = new Int32Array(batch);
    const pages = new Int32Array(batch * this.#tableWidth);
    for (const [row, { sequence, length }] of rows.entries()) {
      lengths[row] = length;
      pages.set(sequence.blocks, row * this.#tableWidth);
      const first = Math.max(0, length - width);
      const tokens = sequence.tokens.slice(first, length);
      ids.set(tokens, (row + 1) * width - tokens.length);
    }
    using idsNow = i32(ids, [batch, width]);
    using lengthsNow = i32(lengths, [batch]);
    using pagesNow = i32(pages, [batch, this.#tableWidth]);
    const { logits, caches } = this.#forward(idsNow, this.#caches, lengthsNow, pagesNow);
    this.#caches = caches;
    return logits;
  }

  /** Draws the next token of each sequence from its row of logits, and disposes the logits. */
  async #draw(logits: Tensor, sequences: readonly Sequence[]): Promise<Drawn[]> {
    const [batch] = logits.shape as [number];
    const { vocabSize } = this.#options.config;
    const inputs = sampleInputs(sequences, batch, vocabSize);
    const asked = Math.max(1, ...sequences.map(({ request }) => request.logprobs ?? 0));
    let result: SampleResult | undefined;
    try {
      // A few widths alone, so that requests which ask for 2 and for 3 share a program.
      const width = Math.min(vocabSize, asked === 1 ? 1 : 20);
      result = this.#sample(logits, inputs, width);
      const [tokens, logprobs, topTokens, topLogprobs] = await Promise.all([
        result.token.data(),
        result.logprob.data(),
        result.topTokens.data(),
        result.topLogprobs.data(),
      ]);
      return sequences.map(({ request }, row) => ({
        token: tokens[row]!,
        logprob: logprobs[row]!,
        top: Array.from({ length: request.logprobs ?? 0 }, (_, k) => ({
          token: topTokens[row * width + k]!,
          logprob: topLogprobs[row * width + k]!,
        })),
      }));
    } finally {
      logits.dispose();
      disposeTree(inputs);
      if (result) disposeTree(result);
    }
  }

  #batch(rows: number): number {
    return Math.max(this.#leastBatch, powerOfTwo(rows));
  }
}

/** The largest power of two that fits `tokens`; a remainder below the least width is filled up. */
function chunkWidth(tokens: number): number {
  return Math.max(LEAST_ROWS, 2 ** Math.floor(Math.log2(tokens)));
}

/** The least power of two that is not below n. */
function powerOfTwo(n: number): number {
  return 2 ** Math.ceil(Math.log2(n));
}

function i32(values: Int32Array, shape: readonly number[]): Tensor {
  return tensor(values, { shape, dtype: "i32" });
}

/** What the rows' requests ask of sampling, filled up to `batch` rows with greedy ones. */
function sampleInputs(
  sequences: readonly Sequence[],
  batch: number,
  vocabSize: number,
): SampleInputs {
  const temperature = new Float32Array(batch);
  const uniform = new Float32Array(batch);
  const topK = new Int32Array(batch).fill(vocabSize);
  const topP = new Float32Array(batch).fill(1);
  const minP = new Float32Array(batch);
  const adjustments: Adjustment[] = [];
  let filters = false;
  for (const [row, sequence] of sequences.entries()) {
    const { request, seed, choice, generatedCount } = sequence;
    // The one most likely token needs no drawing.
    temperature[row] = request.topK === 1 ? 0 : (request.temperature ?? 1);
    uniform[row] = uniformAt(seed, choice, generatedCount);
    topK[row] = Math.min(vocabSize, request.topK ?? vocabSize);
    topP[row] = request.topP ?? 1;
    minP[row] = request.minP ?? 0;
    filters ||=
      temperature[row]! > 0 && (topK[row]! < vocabSize || topP[row]! < 1 || minP[row]! > 0);
    for (const adjustment of adjust(sequence)) {
      adjustments.push({ ...adjustment, index: row * vocabSize + adjustment.index });
    }
  }
  return {
    temperature: tensor(temperature),
    uniform: tensor(uniform),
    filters: filters ? { topK: i32(topK, [batch]), topP: tensor(topP), minP: tensor(minP) } : null,
    adjust: adjustments.length > 0 ? adjustTensors(adjustments) : null,
  };
}

interface Adjustment {
  index: number;
  repetition: number;
  bias: number;
}

/** Changes to the logits of single tokens: each token once. */
function* adjust({ request, generated, tokens }: Sequence): Generator<Adjustment> {
  const { presencePenalty = 0, frequencyPenalty = 0, repetitionPenalty = 1, logitBias } = request;
  const touched = new Set<number>(logitBias?.keys());
  if (presencePenalty !== 0 || frequencyPenalty !== 0) {
    for (const token of generated.keys()) touched.add(token);
  }
  const repeated = repetitionPenalty === 1 ? null : new Set(tokens);
  for (const token of repeated ?? []) touched.add(token);
  for (const index of touched) {
    const times = generated.get(index) ?? 0;
    const penalty = times > 0 ? presencePenalty + frequencyPenalty * times : 0;
    const bias = (logitBias?.get(index) ?? 0) - penalty;
    yield { index, repetition: repeated?.has(index) ? repetitionPenalty : 1, bias };
  }
}

/** Padded to a power of two with changes of no token. */
function adjustTensors(adjustments: readonly Adjustment[]): NonNullable<SampleInputs["adjust"]> {
  const length = Math.max(16, powerOfTwo(adjustments.length));
  const index = new Int32Array(length).fill(-1);
  const repetition = new Float32Array(length).fill(1);
  const bias = new Float32Array(length);
  for (const [i, a] of adjustments.entries()) {
    index[i] = a.index;
    repetition[i] = a.repetition;
    bias[i] = a.bias;
  }
  return { index: i32(index, [length]), repetition: tensor(repetition), bias: tensor(bias) };
}
