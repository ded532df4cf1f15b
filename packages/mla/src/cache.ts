/**
 * The latent cache: for each token and layer one row of C + R numbers, the normalised latent c_KV
 * followed by the rotated shared key k_R (rotary channels in interleaved order). For DeepSeek-V3
 * that is 576 numbers where keys and values of 128 heads would be 40,960.
 *
 *   B sequences, T new tokens each, S capacity of a sequence, W = C + R
 *
 * A layer's cache is [pages, pageSize, W]. With a page table i32 [B, P], token s of
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
  concat,
  type DType,
  dequantize,
  div,
  dtypeBytes,
  expandDims,
  iota,
  lt,
  maximum,
  mul,
  quantizeFp8,
  rem,
  reshape,
  scatter,
  split,
  sub,
  type Tensor,
  take,
  takeAlong,
  where,
  zeros,
} from "@dsv3/tensor";
import type { MlaConfig } from "./config.ts";
import { type RopeTables, ropeTables } from "./rope.ts";

/** What a cache is kept in: numbers of one kind, or the latents in FP8 (see {@link Fp8Latents}). */
export type CacheDtype = "f32" | "bf16" | "fp8";

/** A layer's cache: [pages, pageSize, C + R], or that in three parts. */
export type LatentCache<D extends CacheDtype = CacheDtype> = D extends "fp8" ? Fp8Latents : Tensor;

/**
 * Latents in E4M3 with a scale for every run of 128, as the report quantises activations (arXiv
 * 2412.19437, section 3.3.2), and rotary keys, few and more sensitive, in bf16. Scales are powers of
 * two: what is read back is exact in bf16. 648 bytes a token and layer for DeepSeek-V3, where bf16
 * takes 1,152 (FlashMLA's FP8 cache is made alike, with scales in f32).
 */
export type Fp8Latents = {
  latents: Tensor; // f8e4m3 [pages, pageSize, C]
  scales: Tensor; //  bf16   [pages, pageSize, ⌈C / 128⌉]
  keys: Tensor; //    bf16   [pages, pageSize, R]
};

const SCALED: readonly [number, number] = [1, 128];

/** Numbers kept for one token in one layer: C + R. */
export function latentWidth(c: MlaConfig): number {
  return c.kvLoraRank + c.qkRopeHeadDim;
}

/** Bytes that a cache keeps for one token in one layer. */
export function latentBytes(c: MlaConfig, dtype: CacheDtype): number {
  if (dtype !== "fp8") return latentWidth(c) * dtypeBytes(dtype);
  return c.kvLoraRank + dtypeBytes("bf16") * (scaleCount(c) + c.qkRopeHeadDim);
}

const scaleCount = (c: MlaConfig) => Math.ceil(c.kvLoraRank / SCALED[1]);

/** An empty cache of one layer. */
export function latentCache<D extends CacheDtype = "f32">(
  c: MlaConfig,
  pages: number,
  pageSize: number,
  dtype?: D,
): LatentCache<D>;
export function latentCache(
  c: MlaConfig,
  pages: number,
  pageSize: number,
  dtype: CacheDtype = "f32",
): LatentCache {
  const empty = (width: number, dtype: DType) => zeros([pages, pageSize, width], dtype);
  if (dtype !== "fp8") return empty(latentWidth(c), dtype);
  return {
    latents: empty(c.kvLoraRank, "f8e4m3"),
    scales: empty(scaleCount(c), "bf16"),
    keys: empty(c.qkRopeHeadDim, "bf16"),
  };
}

/** Whether a cache is one in FP8. */
export function isFp8(cache: LatentCache): cache is Fp8Latents {
  return "scales" in cache;
}

/** Pages of a cache in FP8 that a step reads, and each sequence's, counted in these. */
type PagesRead = {
  used: Tensor; //  i32 [U]
  table: Tensor; // i32 [B, P]
};

/** What all layers share in one step over the cache: where its tokens are, and their rotary angles. */
export type CacheStep = {
  lengths: Tensor; //        i32 [B], new tokens included
  pages: Tensor | null; //   i32 [B, P]
  read: PagesRead | null; // for a cache in FP8 in pages
  positions: Tensor; //      i32 [B, T], negative where padding
  rows: Tensor; //           i32 [B T], row of the cache seen as [pages · pageSize, W]; −1 for padding
  rope: RopeTables; //       [B, T, R/2]
};

/**
 * Places T new tokens per sequence. Sequences must fit: lengths[b] ≤ S and, with pages, every page
 * that a new token falls in allocated (entries of pages never reached may hold anything).
 *
 * With `used`, i32 [U], page u of the table means page used[u] of the cache. A cache in FP8 cannot be
 * read in place: pages that are used are decoded first, each once; without `used`, those of every
 * entry of the table.
 */
export function cacheStep(
  c: MlaConfig,
  cache: LatentCache,
  tokens: number,
  lengths: Tensor,
  table: Tensor | null = null,
  used: Tensor | null = null,
): CacheStep {
  const pages = table && used ? take(used, table) : table;
  const pageSize = (isFp8(cache) ? cache.keys : cache).shape[1]!;
  const capacity = pageSize * (pages?.shape[1] ?? 1);
  const batch = lengths.shape[0]!;
  const positions = add(expandDims(sub(lengths, tokens), 1), iota(tokens)); //                [B, T]
  const seen = maximum(positions, 0);
  const page =
    pages === null ? iota([batch, tokens], { axis: 0 }) : takeAlong(pages, div(seen, pageSize)); //                                             [B, T]
  const rows = where(lt(positions, 0), -1, add(mul(page, pageSize), rem(seen, pageSize)));
  const tables = ropeTables(c, capacity);
  const rope = { cos: take(tables.cos, seen), sin: take(tables.sin, seen) }; //          [B, T, R/2]
  const read = isFp8(cache) && table ? pagesRead(table, used) : null;
  return { lengths, pages, read, positions, rows: reshape(rows, [batch * tokens]), rope };
}

/** The cache with rows [B, T, W] written as it keeps them; in place where the old cache is donated or dead. */
export function appendLatents<K extends LatentCache>(cache: K, latents: Tensor, step: CacheStep): K;
export function appendLatents(cache: LatentCache, latents: Tensor, step: CacheStep): LatentCache {
  const store = (part: Tensor, rows: Tensor): Tensor => {
    const width = part.shape[2]!;
    const updates = cast(reshape(rows, [-1, width]), part.dtype);
    return reshape(scatter(reshape(part, [-1, width]), step.rows, updates, "set"), part.shape);
  };
  if (!isFp8(cache)) return store(cache, latents);
  const widths = [cache.latents.shape[2]!, cache.keys.shape[2]!];
  const [numbers, keys] = split(latents, widths, 2) as [Tensor, Tensor];
  const { values, scale } = quantizeFp8(numbers, SCALED);
  return {
    latents: store(cache.latents, values),
    scales: store(cache.scales, scale),
    keys: store(cache.keys, keys),
  };
}

function pagesRead(table: Tensor, used: Tensor | null): PagesRead {
  if (used) return { used, table };
  return { used: reshape(table, [table.size]), table: reshape(iota(table.size), table.shape) };
}

/**
 * Rows as attention reads them, in pages of a table or, without one, a page a sequence. A cache in FP8
 * becomes the numbers that it stands for, in bf16.
 */
export function readLatents(
  cache: LatentCache,
  { pages, read }: CacheStep,
): { rows: Tensor; table: Tensor | null } {
  if (!isFp8(cache)) return { rows: cache, table: pages };
  const part = (t: Tensor) => (read ? take(t, read.used) : t);
  const scale = cast(part(cache.scales), "f32");
  const latents = dequantize(part(cache.latents), { scale, block: SCALED });
  const rows = concat([cast(latents, "bf16"), part(cache.keys)], 2);
  return { rows, table: read?.table ?? null };
}

/** Every sequence's rows laid side by side: [B, S, W]. A view without pages, a gather with them. */
export function gatherLatents(cache: LatentCache, step: CacheStep): Tensor {
  const { rows, table } = readLatents(cache, step);
  if (table === null) return rows;
  return reshape(take(rows, table), [table.shape[0]!, -1, rows.shape[2]!]);
}
