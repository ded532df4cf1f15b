/**
 * Multi-head Latent Attention (DeepSeek-V3, arXiv 2412.19437, section 2.1.1, equations 1-11).
 *
 *   B batch, T tokens, S cached tokens, D hidden, H heads, Q query latent, C key-value latent,
 *   N width of q and k without position, R width with (rotary), V width of v
 *
 * Two forms of one function. *Expanded*, for training and prefill: keys and values of every head
 * are made from the latents. *Absorbed*, for decoding: q·(W_UK c) = (W_UKᵀ q)·c, so the queries are
 * brought to the latents instead, all heads share one key of C + R numbers, and W_UV is applied to
 * the mean of the latents. The first does less per query, the second nothing per cached token.
 */
import {
  attention,
  broadcastTo,
  cast,
  concat,
  type Dropout,
  expandDims,
  linear,
  linears,
  matmul,
  permute,
  reshape,
  rmsNorm,
  rotary,
  sliceAxis,
  split,
  type Tensor,
} from "@dsv3/tensor";
import {
  appendLatents,
  type CacheStep,
  gatherLatents,
  type LatentCache,
  readLatents,
} from "./cache.ts";
import type { MlaConfig, MlaParams } from "./config.ts";
import { attentionWithDropout } from "./dropout.ts";
import { type RopeTables, softmaxScale } from "./rope.ts";

/** Of the norms after both down-projections: DeepSeek's and transformers' code have it fixed, whatever `rms_norm_eps` is. */
const LATENT_NORM_EPS = 1e-6;

export interface MlaOptions {
  /** i32 [B, T]: tokens of different numbers do not see each other (packed samples). */
  readonly segments?: Tensor | undefined;
  /** For training: leaves out weights of the attention. None in the report. */
  readonly dropout?: Dropout | undefined;
}

/**
 * Causal attention within the sequence, expanded form.
 * x [B, T, D], rope [T, R/2] or [B, T, R/2] → [B, T, D] in x's dtype.
 */
export function mla(
  p: MlaParams,
  x: Tensor,
  rope: RopeTables,
  c: MlaConfig,
  { segments, dropout }: MlaOptions = {},
): Tensor {
  const { qNope, qRope, cKv, kRope } = projections(p, x, rope, c);
  const { q, k, v } = expanded(p, qNope, qRope, cKv, kRope, c);
  const scale = softmaxScale(c);
  const o = dropout
    ? attentionWithDropout(q, k, v, { scale, segments, dropout })
    : attention(q, k, v, { scale, causal: true, segments }); // eq. 10
  return output(p, o); // eq. 11
}

/**
 * Attention of T new tokens per sequence to all tokens so far, whose latents are in `cache`
 * (layout and alignment: cache.ts). Stores the new latents, and returns the updated cache. Any
 * number of tokens may come at once (chunked prefill), after any number before.
 * `form` is chosen by the number of multiplications unless given.
 */
export function mlaCached<K extends LatentCache>(
  p: MlaParams,
  x: Tensor,
  cache: K,
  step: CacheStep,
  c: MlaConfig,
  form: "expanded" | "absorbed" = cheaperForm(c, x.shape[1]!),
): { output: Tensor; cache: K } {
  const { qNope, qRope, cKv, kRope } = projections(p, x, step.rope, c);
  const stored = appendLatents(cache, concat([cKv, kRope], 2), step);

  let o: Tensor; // [B, T, H, V]
  if (form === "expanded") {
    const seen = cast(gatherLatents(stored, step), x.dtype); // [B, S, C + R]
    const [allKv, allRope] = split(seen, [c.kvLoraRank, c.qkRopeHeadDim], 2) as [Tensor, Tensor];
    const { q, k, v } = expanded(p, qNope, qRope, allKv, allRope, c);
    o = attention(q, k, v, { scale: softmaxScale(c), causal: true, lengths: step.lengths });
  } else {
    o = absorbedAttention(p, qNope, qRope, stored, step, c);
  }
  return { output: output(p, o), cache: stored };
}

/**
 * Whichever form multiplies less for T queries. Per cached token and head, expanding costs C (N + V)
 * and then N + R + V per query; absorbed costs 2 C + R per query. (T = 171 for DeepSeek-V3.)
 */
export function cheaperForm(c: MlaConfig, tokens: number): "expanded" | "absorbed" {
  const { kvLoraRank: C, qkNopeHeadDim: N, qkRopeHeadDim: R, vHeadDim: V } = c;
  return C * (N + V) + tokens * (N + R + V) < tokens * (2 * C + R) ? "expanded" : "absorbed";
}

/**
 * What x is projected to: queries of every head, without position [B, T, H, N] and rotated
 * [B, T, H, R] (eq. 6-9), and what the cache keeps (eq. 1-4), the normalised latent [B, T, C] and
 * the shared rotated key [B, T, R].
 */
function projections(p: MlaParams, x: Tensor, rope: RopeTables, c: MlaConfig) {
  const [B, T] = x.shape as [number, number];
  const { kvLoraRank: C, qkNopeHeadDim: N, qkRopeHeadDim: R } = c;
  const first = "qProj" in p ? p.qProj : p.qAProj;
  const [qOrLatent, down] = linears(x, [first, p.kvAProjWithMqa]) as [Tensor, Tensor];

  const q =
    "qProj" in p ? qOrLatent : linear(rmsNorm(qOrLatent, p.qALayernorm, LATENT_NORM_EPS), p.qBProj);
  const heads = reshape(q, [B, T, c.numAttentionHeads, N + R]);
  const [qNope, qRope] = split(heads, [N, R], 3) as [Tensor, Tensor];

  const [cKv, kRope] = split(down, [C, R], 2) as [Tensor, Tensor];
  return {
    qNope,
    qRope: rotate(qRope, rope, c),
    cKv: rmsNorm(cKv, p.kvALayernorm, LATENT_NORM_EPS),
    kRope: reshape(rotate(reshape(kRope, [B, T, 1, R]), rope, c), [B, T, R]),
  };
}

/**
 * Turns the pairs of x [B, T, H, R]. Channels that come as two halves are interleaved first, and
 * stay so: queries and keys are permuted alike, which no dot product can tell.
 */
function rotate(x: Tensor, rope: RopeTables, c: MlaConfig): Tensor {
  if (c.ropeInterleave) return rotary(x, rope);
  const [B, T, H, R] = x.shape as [number, number, number, number];
  const pairs = permute(reshape(x, [B, T, H, 2, R / 2]), [0, 1, 2, 4, 3]);
  return rotary(reshape(pairs, [B, T, H, R]), rope);
}

/** Queries, keys and values of every head, the last two from the latents (eq. 3, 5). */
function expanded(
  p: MlaParams,
  qNope: Tensor, //  [B, T, H, N]
  qRope: Tensor, //  [B, T, H, R]
  cKv: Tensor, //    [B, S, C]
  kRope: Tensor, //  [B, S, R]
  c: MlaConfig,
): { q: Tensor; k: Tensor; v: Tensor } {
  const [B, S, R] = kRope.shape as [number, number, number];
  const H = c.numAttentionHeads;
  const kv = reshape(linear(cKv, p.kvBProj), [B, S, H, c.qkNopeHeadDim + c.vHeadDim]);
  const [kNope, v] = split(kv, [c.qkNopeHeadDim, c.vHeadDim], 3) as [Tensor, Tensor];
  const q = concat([qNope, qRope], 3); //                                               [B, T, H, N + R]
  const k = concat([kNope, broadcastTo(expandDims(kRope, 2), [B, S, H, R])], 3); //     [B, S, H, N + R]
  return { q, k, v };
}

/** The same from the cache alone, without making any head's keys or values: [B, T, H, V]. */
function absorbedAttention(
  p: MlaParams,
  qNope: Tensor, // [B, T, H, N]
  qRope: Tensor, // [B, T, H, R]
  cache: LatentCache,
  step: CacheStep,
  c: MlaConfig,
): Tensor {
  const { kvLoraRank: C, qkNopeHeadDim: N, vHeadDim: V } = c;
  const [B, T, H] = qNope.shape as [number, number, number];
  const kvB = reshape(p.kvBProj, [H, N + V, C]);
  const qLatent = byHead(qNope, (q) => matmul(q, sliceAxis(kvB, 1, 0, N))); //          [B, T, H, C]
  const q = concat([qLatent, qRope], 3); //                                         [B, T, H, C + R]

  const { rows, table } = readLatents(cache, step);
  const k = expandDims(rows, 2); //                                     [pages, pageSize, 1, C + R]
  const v = sliceAxis(k, 3, 0, C); //                                       [pages, pageSize, 1, C]
  const o = attention(q, k, v, {
    scale: softmaxScale(c),
    causal: true,
    lengths: step.lengths,
    ...(table && { pages: { table, pageSize: rows.shape[1]! } }),
  }); //                                                                                [B, T, H, C]
  return byHead(o, (u) => matmul(u, sliceAxis(kvB, 1, N, N + V), { transposeB: true }));

  /** Applies f, which maps [H, B T, a] to [H, B T, b], to x [B, T, H, a]. */
  function byHead(x: Tensor, f: (x: Tensor) => Tensor): Tensor {
    const y = f(permute(reshape(x, [B * T, H, -1]), [1, 0, 2]));
    return reshape(permute(y, [1, 0, 2]), [B, T, H, -1]);
  }
}

/** u = W_O [o_1; …; o_H] (eq. 11). */
function output(p: MlaParams, o: Tensor): Tensor {
  const [B, T, H, V] = o.shape as [number, number, number, number];
  return linear(reshape(o, [B, T, H * V]), p.oProj);
}
