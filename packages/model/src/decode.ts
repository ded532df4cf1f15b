/**
 * The forward pass over latent caches, one per layer: prefill (a prompt at
 * once or in chunks) and decoding (a token at a time, or several to be verified) are one function.
 * Alignment and layout: @dsv3/mla, cache.ts.
 *
 *   B sequences, T new tokens each, D hidden, V vocabulary
 */
import {
  type CacheDtype,
  type CacheStep,
  cacheStep,
  type LatentCache,
  latentCache,
  mlaCached,
} from "@dsv3/mla";
import {
  add,
  expandDims,
  ge,
  iota,
  mul,
  reshape,
  rmsNorm,
  sliceAxis,
  Tensor,
  take,
} from "@dsv3/tensor";
import type { ModelConfig } from "./config.ts";
import { type Attend, type ComputeDtype, decoderLayer, embed, head, mtpInput } from "./model.ts";
import type { LayerParams, ModelParams } from "./params.ts";

/** Empty caches of all layers of the main model; without a page table, `pages` is the batch. */
export function latentCaches<D extends CacheDtype = "f32">(
  c: ModelConfig,
  pages: number,
  pageSize: number,
  dtype?: D,
): LatentCache<D>[] {
  return Array.from({ length: c.numHiddenLayers }, () => latentCache(c, pages, pageSize, dtype));
}

export interface CachedOptions {
  /** Page table i32 [B, P]; without one, page b belongs to sequence b. */
  readonly pages?: Tensor | undefined;
  /** i32 [U]: what the table's pages mean, if given. Of a cache in FP8 only these are decoded. */
  readonly used?: Tensor | null;
  readonly computeDtype?: ComputeDtype;
  /** Form of attention; chosen by the number of multiplications unless given. */
  readonly form?: "expanded" | "absorbed" | undefined;
  /** Logits of the last token only (the default), of all T, of so many last ones, or of column i32 [B]. */
  readonly logits?: "last" | "all" | number | Tensor;
}

export type CachedResult<K extends LatentCache = LatentCache> = {
  logits: Tensor; // f32 [B, as many as asked for, V]
  hidden: Tensor; // [B, T, D] before the final norm, which MTP modules read
  caches: K[]; //    with the new tokens; donate the old ones
};

/**
 * Appends T tokens to each sequence. ids: i32 [B, T], right-aligned; lengths: i32 [B], tokens of
 * each sequence with the new ones. A row whose length is below T has padding on the left, and one
 * of length 0 is idle: neither stores anything there, and its logits mean nothing.
 */
export function forwardCached<K extends LatentCache>(
  params: ModelParams,
  ids: Tensor,
  caches: readonly K[],
  lengths: Tensor,
  c: ModelConfig,
  options: CachedOptions = {},
): CachedResult<K> {
  const step = cacheStep(c, caches[0]!, ids.shape[1]!, lengths, options.pages, options.used);
  const updated: K[] = [];
  let h = embed(params, ids, options.computeDtype); // [B, T, D]
  for (const [i, p] of params.layers.entries()) {
    const { output, cache } = cachedLayer(p, h, caches[i]!, step, c, options);
    h = output;
    updated.push(cache);
  }
  const logits = cachedLogits(params, h, params.norm, c, options);
  return { logits, hidden: h, caches: updated };
}

/**
 * The same for one MTP module, whose cache is its own: `hidden` [B, T, D] of the depth before (of
 * the main model for depth 1), and ids i32 [B, T] of the tokens `depth` places further on.
 * Its logits predict the token after those. `hidden` of the result feeds the next depth.
 */
export function mtpCached<K extends LatentCache>(
  params: ModelParams,
  depth: number,
  hidden: Tensor,
  ids: Tensor,
  cache: K,
  lengths: Tensor,
  c: ModelConfig,
  options: CachedOptions = {},
): { logits: Tensor; hidden: Tensor; cache: K } {
  const p = params.mtp[depth - 1];
  if (p === undefined)
    throw new Error(`no MTP module of depth ${depth}; there are ${params.mtp.length}`);
  const step = cacheStep(c, cache, ids.shape[1]!, lengths, options.pages, options.used);
  const merged = mtpInput(p, hidden, embed(params, ids, options.computeDtype), c);
  const { output, cache: updated } = cachedLayer(p.layer, merged, cache, step, c, options);
  const logits = cachedLogits(params, output, p.sharedHeadNorm, c, options);
  return { logits, hidden: output, cache: updated };
}

function cachedLayer<K extends LatentCache>(
  p: LayerParams,
  x: Tensor,
  cache: K,
  step: CacheStep,
  c: ModelConfig,
  { form }: CachedOptions,
): { output: Tensor; cache: K } {
  let updated = cache;
  const attend: Attend = (p, x) => {
    const result = mlaCached(p, x, cache, step, c, form);
    updated = result.cache;
    return result.output;
  };
  const { output } = decoderLayer(p, x, attend, c, { real: ge(step.positions, 0) });
  return { output, cache: updated };
}

function cachedLogits(
  params: ModelParams,
  h: Tensor,
  norm: Tensor,
  c: ModelConfig,
  { logits = "last" }: CachedOptions,
): Tensor {
  const T = h.shape[1]!;
  let read: Tensor;
  if (logits instanceof Tensor) read = columnOf(h, logits);
  else {
    const count = logits === "last" ? 1 : logits === "all" ? T : Math.min(T, logits);
    read = count === T ? h : sliceAxis(h, 1, T - count, T);
  }
  return head(params, rmsNorm(read, norm, c.rmsNormEps));
}

/** One token of each sequence: of h [B, T, D], those in columns i32 [B], as [B, 1, D]. */
export function columnOf(h: Tensor, column: Tensor): Tensor {
  const [B, T, D] = h.shape as [number, number, number];
  const at = add(mul(iota(B), T), column);
  return expandDims(take(reshape(h, [B * T, D]), at), 1);
}
