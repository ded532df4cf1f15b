/**
 * The latent cache: for each token and layer one row of C + R numbers, the normalised latent c_KV
 * followed by the rotated shared key k_R (rotary channels in interleaved order). For DeepSeek-V3
 * that is 576 numbers where keys and values of 128 heads would be 40,960.
 *
 *   B sequences, T new tokens each, S capacity of a sequence, W = C + R
 *
 * A layer's cache is one tensor [pages, pageSize, W]. With a page table i32 [B, P], token s of
 * sequence b lies in page table[b, ⌊s / pageSize⌋] at s mod pageSize, and S = P · pageSize. Without
 * one, page b is sequence b: the cache is simply [B, S, W].
 *
 * New tokens are aligned to the right: `lengths[b]` counts the tokens of sequence b *including* the
 * T new ones, so that column t holds position lengths[b] − T + t. Columns before position 0 are
 * padding, which is neither stored nor seen. So prompts of unequal length share a batch, a sequence
 * of length 0 is an idle slot, and the last column is always the last token.
 */
import {
  add,
  cast,
  div,
  expandDims,
  iota,
  lt,
  maximum,
  mul,
  rem,
  reshape,
  scatter,
  sub,
  type Tensor,
  take,
  takeAlong,
  where,
  zeros,
} from "@dsv3/tensor";
import type { MlaConfig } from "./config.ts";
import { type RopeTables, ropeTables } from "./rope.ts";

/** Numbers kept for one token in one layer: C + R. */
export function latentWidth(c: MlaConfig): number {
  return c.kvLoraRank + c.qkRopeHeadDim;
}

/** An empty cache of one layer: [pages, pageSize, C + R]. */
export function latentCache(
  c: MlaConfig,
  pages: number,
  pageSize: number,
  dtype: "f32" | "bf16" = "f32",
): Tensor {
  return zeros([pages, pageSize, latentWidth(c)], dtype);
}

/** What all layers share in one step over the cache: where its tokens are, and their rotary angles. */
export type CacheStep = {
  lengths: Tensor; //        i32 [B], new tokens included
  pages: Tensor | null; //   i32 [B, P]
  positions: Tensor; //      i32 [B, T], negative where padding
  rows: Tensor; //           i32 [B T], row of the cache seen as [pages · pageSize, W]; −1 for padding
  rope: RopeTables; //       [B, T, R/2]
};

/**
 * Places T new tokens per sequence. Sequences must fit: lengths[b] ≤ S and, with pages, every page
 * that a new token falls in allocated (entries of pages never reached may hold anything).
 */
export function cacheStep(
  c: MlaConfig,
  cacheShape: readonly number[],
  tokens: number,
  lengths: Tensor,
  pages: Tensor | null = null,
): CacheStep {
  const [, pageSize] = cacheShape as [number, number, number];
  const capacity = pageSize * (pages?.shape[1] ?? 1);
  const batch = lengths.shape[0]!;
  const positions = add(expandDims(sub(lengths, tokens), 1), iota(tokens)); //                [B, T]
  const seen = maximum(positions, 0);
  const page =
    pages === null ? iota([batch, tokens], { axis: 0 }) : takeAlong(pages, div(seen, pageSize)); //                                             [B, T]
  const rows = where(lt(positions, 0), -1, add(mul(page, pageSize), rem(seen, pageSize)));
  const tables = ropeTables(c, capacity);
  const rope = { cos: take(tables.cos, seen), sin: take(tables.sin, seen) }; //          [B, T, R/2]
  return { lengths, pages, positions, rows: reshape(rows, [batch * tokens]), rope };
}

/** The cache with rows [B, T, W] written in its dtype; in place where the old cache is donated or dead. */
export function appendLatents(cache: Tensor, latents: Tensor, step: CacheStep): Tensor {
  const width = cache.shape[2]!;
  const rows = reshape(cache, [-1, width]);
  const updates = cast(reshape(latents, [-1, width]), cache.dtype);
  return reshape(scatter(rows, step.rows, updates, "set"), cache.shape);
}

/** Every sequence's rows laid side by side: [B, S, W]. A view without pages, a gather with them. */
export function gatherLatents(cache: Tensor, step: CacheStep): Tensor {
  if (step.pages === null) return cache;
  const [batch] = step.pages.shape as [number];
  return reshape(take(cache, step.pages), [batch, -1, cache.shape[2]!]);
}
