/**
 * Text from a model, as token ids: prompts in one batch, prefilled at once, then a token at a time
 * over the latent cache. A simple loop for scripts and the command line.
 */
import type { CacheDtype, LatentCache } from "@dsv3/mla";
import { compile, disposeTree, type Tensor, tensor } from "@dsv3/tensor";
import { type CompressedParams, expandParams } from "./compress.ts";
import type { ModelConfig } from "./config.ts";
import { type CachedOptions, forwardCached, latentCaches } from "./decode.ts";
import type { ComputeDtype } from "./model.ts";
import type { ModelParams } from "./params.ts";
import { randomSource, type SampleOptions, sampleToken } from "./sample.ts";

export interface GenerateOptions extends SampleOptions {
  readonly maxNewTokens: number;
  /** Ids that end a sequence (and are part of it); the config's unless told. */
  readonly stopIds?: readonly number[];
  /** The same seed, prompts and options give the same tokens. */
  readonly seed?: number;
  readonly computeDtype?: ComputeDtype;
  /** Of the latent cache; `computeDtype` unless told. */
  readonly cacheDtype?: CacheDtype;
}

/** Prompt lengths are padded to multiples of this, so that few programs serve all of them. */
const PROMPT_STEP = 16;

/**
 * Continues each prompt. Yields once per step: the new token of every sequence, null once it ended.
 * @param prompts token ids, one or more each; padded on the left where shorter
 * @throws RangeError for ids outside the vocabulary, empty prompts, or more tokens than the context
 */
export async function* generateStream(
  params: ModelParams | CompressedParams,
  c: ModelConfig,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions,
): AsyncGenerator<(number | null)[]> {
  checkPrompts(c, prompts, options);
  if (prompts.length === 0 || options.maxNewTokens === 0) return;
  const stopIds = new Set(options.stopIds ?? c.eosTokenIds);
  const random = randomSource(options.seed ?? 0);
  const { computeDtype = "f32", cacheDtype = computeDtype } = options;

  const longest = Math.max(...prompts.map((p) => p.length));
  const width = Math.ceil(longest / PROMPT_STEP) * PROMPT_STEP;
  const capacity = width + Math.ceil(options.maxNewTokens / PROMPT_STEP) * PROMPT_STEP;
  const run = compile(
    (
      stored: ModelParams | CompressedParams,
      ids: Tensor,
      caches: LatentCache[],
      lengths: Tensor,
    ) => {
      const params = expandParams(stored);
      const settings: CachedOptions = { computeDtype };
      const { logits, caches: updated } = forwardCached(params, ids, caches, lengths, c, settings);
      return { logits, caches: updated };
    },
    { name: "generate", donate: [2] },
  );

  let caches: LatentCache[] = latentCaches(c, prompts.length, capacity, cacheDtype);
  const lengths = Int32Array.from(prompts, (p) => p.length);
  try {
    let next = prompts.map((p) => [...new Array<number>(width - p.length).fill(0), ...p]);
    for (let made = 0; made < options.maxNewTokens; made++) {
      using ids = tensor(Int32Array.from(next.flat()), {
        shape: [next.length, next[0]!.length],
        dtype: "i32",
      });
      using lengthsNow = tensor(lengths, { dtype: "i32" });
      const result = run(params, ids, caches, lengthsNow);
      caches = result.caches;
      using logits = result.logits;
      const values = (await logits.data()) as Float32Array;

      const tokens = prompts.map((_, b) => {
        if (lengths[b] === 0) return null; // ended: an idle row
        const row = values.subarray(b * c.vocabSize, (b + 1) * c.vocabSize);
        const token = sampleToken(row, options, random);
        lengths[b] = stopIds.has(token) ? 0 : lengths[b]! + 1;
        return token;
      });
      yield tokens;
      if (lengths.every((n) => n === 0)) return;
      next = tokens.map((token) => [token ?? 0]);
    }
  } finally {
    disposeTree(caches);
    run.dispose();
  }
}

/** The tokens that {@link generateStream} yields, by sequence, without the prompts. */
export async function generate(
  params: ModelParams | CompressedParams,
  c: ModelConfig,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions,
): Promise<number[][]> {
  const sequences: number[][] = prompts.map(() => []);
  for await (const tokens of generateStream(params, c, prompts, options)) {
    for (const [b, token] of tokens.entries()) if (token !== null) sequences[b]!.push(token);
  }
  return sequences;
}

function checkPrompts(
  c: ModelConfig,
  prompts: readonly (readonly number[])[],
  { maxNewTokens, temperature = 0, topK = 1, topP = 1 }: GenerateOptions,
): void {
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 0) {
    throw new RangeError(`maxNewTokens must be a whole number, is ${maxNewTokens}`);
  }
  if (!(temperature >= 0)) throw new RangeError(`temperature must be 0 or more, is ${temperature}`);
  if (!(topK >= 1)) throw new RangeError(`topK must be 1 or more, is ${topK}`);
  if (!(topP > 0 && topP <= 1)) throw new RangeError(`topP must be above 0, at most 1, is ${topP}`);
  for (const [i, prompt] of prompts.entries()) {
    if (prompt.length === 0)
      throw new RangeError(`prompt ${i} is empty; begin with ${c.bosTokenId}`);
    checkTokenIds(c, prompt, `prompt ${i}`);
    if (prompt.length + maxNewTokens > c.maxPositionEmbeddings) {
      throw new RangeError(
        `prompt ${i} of ${prompt.length} tokens and ${maxNewTokens} new ones exceed the context of ${c.maxPositionEmbeddings}`,
      );
    }
  }
}

/** @throws RangeError naming the first id that is not in the vocabulary */
export function checkTokenIds(c: ModelConfig, ids: ArrayLike<number>, what: string): void {
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!;
    if (!Number.isInteger(id) || id < 0 || id >= c.vocabSize) {
      throw new RangeError(
        `${what}: token ${i} is ${id}, outside the vocabulary of ${c.vocabSize}`,
      );
    }
  }
}
