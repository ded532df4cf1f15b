/**
 * The model over the paged latent cache, as a few compiled programs: one for each number of tokens
 * of a chunk, one for each number of sequences in a batch: powers of two from the least one on.
 *
 * Rows of a product may be added up in another order when there are few of them. So that a token's
 * logits do not depend, to the last bit, on what is computed beside it, no program has fewer than
 * `LEAST_ROWS` rows: chunks are filled up with tokens before their own (which are computed again to
 * the same values) and batches with idle rows. Attention takes the absorbed form everywhere.
 */
import {
  type CacheDtype,
  forwardCached,
  type LatentCache,
  latentCaches,
  type ModelConfig,
  type ModelParams,
} from "@dsv3/model";
import { type Compiled, compile, disposeTree, reshape, type Tensor, treePaths } from "@dsv3/tensor";
import { BLOCK_TOKENS } from "./blocks.ts";
import { type DrawRow, i32, powerOfTwo, sampleInputs } from "./draw-rows.ts";
import { type GuessFrom, guessAhead } from "./guess.ts";
import { type Placed, place, type Row } from "./place.ts";
import { MAX_LOGPROBS } from "./request.ts";
import {
  type SampleInputs,
  type SampleResult,
  type ScoreResult,
  sampleRows,
  scoreRows,
} from "./sampling.ts";
import type { Chunk } from "./scheduler.ts";
import { type Drawn, readScores, topOf } from "./scores.ts";
import type { Sequence } from "./sequence.ts";

export interface RunnerOptions {
  readonly params: ModelParams;
  readonly config: ModelConfig;
  readonly blocks: number;
  readonly maxContext: number;
  readonly computeDtype: "f32" | "bf16";
  readonly cacheDtype: CacheDtype;
  /** Whether results are the same to the last bit in every batch. */
  readonly batchInvariant: boolean;
  /** Tokens that the model's MTP modules guess ahead; 0: none. */
  readonly ahead: number;
}

/** What a step gave one sequence. */
export interface Progress {
  /** The next token; with speculation perhaps the one after it, too. */
  readonly drawn: readonly Drawn[];
  /** Guesses at the tokens after those; none without speculation. */
  readonly drafts: readonly number[];
}

/** A tile of backend-wasm's products: one row takes as long. */
const LEAST_ROWS = 6;

type Forward = Compiled<
  [params: ModelParams, batch: Placed, caches: LatentCache[], logits: number],
  { logits: Tensor; hidden: Tensor | null; caches: LatentCache[] }
>;

export class Runner {
  readonly #options: RunnerOptions;
  #params: ModelParams;
  readonly #tableWidth: number;
  readonly #forward: Forward;
  readonly #sample: Compiled<
    [logits: Tensor, inputs: SampleInputs, logprobs: number],
    SampleResult
  >;
  readonly #score: Compiled<[logits: Tensor, tokens: Tensor, logprobs: number], ScoreResult>;
  readonly #guess: Compiled<
    [
      params: ModelParams,
      hidden: Tensor,
      batch: Placed,
      from: GuessFrom,
      caches: LatentCache[],
      ahead: number,
    ],
    { tokens: Tensor; caches: LatentCache[] }
  >;
  #caches: LatentCache[];
  /** One for each MTP module that guesses. */
  #mtpCaches: LatentCache[];
  /**
   * Tokens before a row's new ones that are computed with them. Module k read guesses in place of the last
   * k − 1 tokens, and reads them again now that they are certain.
   */
  readonly #again: number;

  constructor(options: RunnerOptions) {
    const { config, blocks, computeDtype, cacheDtype, ahead } = options;
    this.#options = options;
    this.#params = options.params;
    this.#tableWidth = Math.ceil(options.maxContext / BLOCK_TOKENS);
    this.#caches = latentCaches(config, blocks, BLOCK_TOKENS, cacheDtype);
    const modules = Math.min(ahead, options.params.mtp.length);
    const mtpConfig = { ...config, numHiddenLayers: modules };
    this.#mtpCaches = latentCaches(mtpConfig, blocks, BLOCK_TOKENS, cacheDtype);
    this.#again = Math.max(0, modules - 1);
    this.#forward = compile(
      (
        params: ModelParams,
        { ids, lengths, pages, used }: Placed,
        caches: LatentCache[],
        logits: number,
      ) => {
        const settings = { pages, used, computeDtype, form: "absorbed", logits } as const;
        const result = forwardCached(params, ids, caches, lengths, config, settings);
        return {
          logits: reshape(result.logits, [-1, config.vocabSize]),
          hidden: ahead > 0 ? result.hidden : null,
          caches: result.caches,
        };
      },
      { name: "serve", donate: [2] },
    );
    this.#guess = compile(
      (
        params: ModelParams,
        hidden: Tensor,
        batch: Placed,
        from: GuessFrom,
        caches: LatentCache[],
        n: number,
      ) => guessAhead(params, hidden, batch, from, caches, n, config, computeDtype),
      { name: "guess", donate: [4] },
    );
    this.#sample = compile(sampleRows, { name: "sample" });
    this.#score = compile(scoreRows, { name: "score" });
  }

  /** Computes a chunk of a prompt. If it ends the sequence's tokens, the next one is drawn. */
  async prefill({ sequence, start, end }: Chunk): Promise<Progress | null> {
    for (let at = start; at < end; ) {
      const width = chunkWidth(end - at);
      at = Math.min(end, at + width);
      const row = { sequence, more: [], end: at };
      const count = sequence.scores ? width : LEAST_ROWS;
      const all = width + this.#again;
      const { logits, hidden } = this.#run([row], 1, all, count);
      if (sequence.scores) await this.#scorePrompt(sequence, sequence.scores, logits, at);
      const last = at === sequence.tokens.length;
      const drawn: Drawn[] = [];
      if (last) {
        const before = new Array<null>(count - 1).fill(null);
        const rows = await this.#draw(logits, [...before, { sequence, after: [] }]);
        drawn.push(rows.at(-1)!);
      } else logits.dispose();
      const more = drawn.map(({ token }) => token);
      const guessRow = { sequence, more, end: at };
      const [drafts = []] = await this.#guessNext(hidden, [guessRow], [0], 1, all);
      if (last) return { drawn, drafts };
    }
    return null;
  }

  /**
   * Computes the last token of each sequence and draws the next one. A sequence's drafts are computed
   * along, and the token after each drawn: it counts if those before it turn out to be the drafts.
   * So speculation changes the pace of an answer, never the answer, sampled or not. A draft is taken as
   * often as in rejection sampling (arXiv 2211.17192): the draws are of the model, and a guess that is
   * one token for certain is accepted there, too, with the probability that the model gives it.
   */
  async decode(sequences: readonly Sequence[]): Promise<Progress[]> {
    const { batchInvariant, ahead } = this.#options;
    const width = ahead + 1;
    const all = width + this.#again;
    const least = batchInvariant ? Math.ceil(LEAST_ROWS / width) : 1;
    const batch = Math.max(least, powerOfTwo(sequences.length));
    const rows = sequences.map((sequence): Row => {
      const more = sequence.drafts;
      return { sequence, more, end: sequence.tokens.length + more.length };
    });
    const { logits, hidden } = this.#run(rows, batch, all, width);
    // Columns before a row's last token are not new: they are not drawn from.
    const drawRows = rows.flatMap(({ sequence, more }): (DrawRow | null)[] => [
      ...new Array<null>(ahead - more.length).fill(null),
      ...Array.from({ length: more.length + 1 }, (_, i) => ({ sequence, after: more.slice(0, i) })),
    ]);
    const drawn = await this.#draw(logits, drawRows);
    const newly = rows.map(({ more }, row) =>
      drawn.slice((row + 1) * width - 1 - more.length, (row + 1) * width),
    );
    /** How many of them count: all up to the first that is not as it was guessed. */
    const counts = rows.map(({ more }, row) => {
      const wrong = more.findIndex((draft, i) => newly[row]![i]!.token !== draft);
      return wrong < 0 ? more.length + 1 : wrong + 1;
    });
    const guessRows = rows.map(({ sequence, end }, row): Row => {
      return { sequence, more: newly[row]!.map(({ token }) => token), end };
    });
    const refused = counts.map((count, row) => newly[row]!.length - count);
    const drafts = await this.#guessNext(hidden, guessRows, refused, batch, all);
    return newly.map((drawn, row) => ({
      drawn: drawn.slice(0, counts[row]),
      drafts: drafts[row] ?? [],
    }));
  }

  /**
   * Weights for the steps to come; what was computed with the old ones is not to be read again.
   * @throws Error naming the first tensor whose name or shape is not that of the old weights
   */
  setParams(params: ModelParams): void {
    const kinds = (tree: ModelParams) =>
      treePaths(tree)
        .map(([path, t]) => `${path} ${t.dtype} [${t.shape}]`)
        .sort();
    const [old, now] = [kinds(this.#params), kinds(params)];
    const at = Array.from({ length: Math.max(old.length, now.length) }, (_, i) => i).find(
      (i) => old[i] !== now[i],
    );
    if (at !== undefined) {
      const [expected, found] = [old[at], now[at]].map((kind) => kind ?? "no more weights");
      throw new Error(`the new weights have ${found} where the engine's have ${expected}`);
    }
    this.#params = params;
  }

  dispose(): void {
    disposeTree(this.#caches);
    disposeTree(this.#mtpCaches);
    this.#forward.dispose();
    this.#guess.dispose();
    this.#sample.dispose();
    this.#score.dispose();
  }

  /** Logits f32 [batch · count, V] after the last `count` tokens of each row's `width`. */
  #run(
    rows: readonly Row[],
    batch: number,
    width: number,
    count: number,
  ): { logits: Tensor; hidden: Tensor | null } {
    const placed = this.#place(rows, batch, width, 0);
    const { logits, hidden, caches } = this.#forward(this.#params, placed, this.#caches, count);
    disposeTree(placed);
    this.#caches = caches;
    return { logits, hidden };
  }

  /**
   * Guesses of the MTP modules for each row, the first from the hidden state of its last certain token,
   * which stands `refused` columns before its last, and the token after it. None without speculation.
   */
  async #guessNext(
    hidden: Tensor | null,
    rows: readonly Row[],
    refused: readonly number[],
    batch: number,
    width: number,
  ): Promise<number[][]> {
    if (hidden === null) return [];
    const placed = this.#place(rows, batch, width, 1);
    const perRow = (value: (row: Row, i: number) => number) =>
      i32(
        Int32Array.from({ length: batch }, (_, i) => (rows[i] ? value(rows[i], i) : 0)),
        [batch],
      );
    const from: GuessFrom = {
      column: perRow((_, i) => width - 1 - refused[i]!),
      length: perRow(({ end }, i) => end - refused[i]!),
      room: perRow(({ sequence }) => sequence.blocks.length * BLOCK_TOKENS),
    };
    const { ahead } = this.#options;
    const { tokens, caches } = this.#guess(
      this.#params,
      hidden,
      placed,
      from,
      this.#mtpCaches,
      ahead,
    );
    this.#mtpCaches = caches;
    hidden.dispose();
    disposeTree([placed, from]);
    const guesses = Array.from((await tokens.data()) as Int32Array);
    tokens.dispose();
    return rows.map((_, i) => guesses.slice(i * ahead, (i + 1) * ahead));
  }

  /** Fills in what rows of logits, the last of them after place `end` − 1, say of the prompt's next tokens. */
  async #scorePrompt(
    { tokens, promptLength, request }: Sequence,
    scores: (Drawn | null)[],
    logits: Tensor,
    end: number,
  ): Promise<void> {
    const rows = logits.shape[0]!;
    const first = end - rows + 1;
    const targets = Int32Array.from({ length: rows }, (_, row) => tokens[first + row] ?? 0);
    const width = this.#topWidth(request.promptLogprobs ?? 0);
    const ids = i32(targets, [rows]);
    const result = this.#score(logits, ids, width);
    const read = await readScores(result);
    ids.dispose();
    disposeTree(result);
    for (let row = Math.max(0, 1 - first); row < rows && first + row < promptLength; row++) {
      const top = topOf(read, row, width, request.promptLogprobs ?? 0);
      scores[first + row] = { token: targets[row]!, logprob: read.logprobs[row]!, top };
    }
  }

  /** A few widths alone, so that requests which ask for 2 and for 3 share a program. */
  #topWidth(asked: number): number {
    return Math.min(this.#options.config.vocabSize, asked <= 1 ? 1 : MAX_LOGPROBS);
  }

  #place(rows: readonly Row[], batch: number, width: number, shift: 0 | 1): Placed {
    const decoded = this.#options.cacheDtype === "fp8";
    return place(rows, { batch, width, shift, tableWidth: this.#tableWidth, decoded });
  }

  /** Draws from rows of logits, and disposes them. Rows of null, and those past the end, mean nothing. */
  async #draw(logits: Tensor, rows: readonly (DrawRow | null)[]): Promise<Drawn[]> {
    const { vocabSize } = this.#options.config;
    const inputs = sampleInputs(rows, logits.shape[0]!, vocabSize);
    const asked = Math.max(0, ...rows.map((row) => row?.sequence.request.logprobs ?? 0));
    const width = this.#topWidth(asked);
    let result: SampleResult | undefined;
    try {
      result = this.#sample(logits, inputs, width);
      const [tokens, scores] = await Promise.all([result.token.data(), readScores(result)]);
      return rows.map((drawRow, row) => ({
        token: tokens[row]!,
        logprob: scores.logprobs[row]!,
        top: topOf(scores, row, width, drawRow?.sequence.request.logprobs ?? 0),
      }));
    } finally {
      logits.dispose();
      disposeTree(inputs);
      if (result) disposeTree(result);
    }
  }
}

/** The largest power of two that fits `tokens`; a remainder below the least width is filled up. */
function chunkWidth(tokens: number): number {
  return Math.max(LEAST_ROWS, 2 ** Math.floor(Math.log2(tokens)));
}
