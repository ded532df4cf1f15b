/**
 * DeepSeek-V3 (arXiv 2412.19437): the whole forward pass. Attention is in @dsv3/mla (equations
 * 1-11), the mixture of experts in @dsv3/moe (12-20); what is left is here.
 *
 *   B batch, T tokens, D hidden, V vocabulary, k depth of multi-token prediction
 */
import { type MlaParams, mla, type RopeTables, ropeTables } from "@dsv3/mla";
import { type MlpParams, type MoeResult, mlp, moe } from "@dsv3/moe";
import {
  add,
  cast,
  concat,
  type Dropout,
  dropout as dropOut,
  foldIn,
  inFp8,
  linear,
  matmul,
  remat,
  reshape,
  rmsNorm,
  sliceAxis,
  type Tensor,
  take,
  treeMap,
} from "@dsv3/tensor";
import type { ModelConfig } from "./config.ts";
import type { LayerParams, ModelParams, MtpParams } from "./params.ts";
import { ofLayer } from "./rounded.ts";

export type ComputeDtype = "f32" | "bf16";

/**
 * What training computes in: activations in f32 or bf16, or bf16 with the products of all layers in
 * FP8, as the report has it (section 3.3); embedding, head, router, norms and attention stay wider.
 */
export type Precision = ComputeDtype | "fp8";

export interface ForwardOptions {
  /**
   * What activations are kept in, f32 unless told. f32 matrices are rounded to it where they are
   * used; norms, router, softmax and logits are computed in f32 in any case.
   */
  readonly computeDtype?: Precision;
  /** Keeps logits as activations are kept: half the memory for a loss, which computes in f32 with them. */
  readonly narrowLogits?: boolean;
  /** i32 [B, T]: tokens of different numbers do not see each other (packed samples). */
  readonly segments?: Tensor | undefined;
  /** Runs the MTP modules too. */
  readonly mtp?: boolean;
  /**
   * The hidden state that MTP modules are given: before the norm that precedes the head, as the
   * report defines it, or after it, as vLLM and SGLang serve it.
   */
  readonly mtpHidden?: "preNorm" | "postNorm";
  /** Computes each layer again in the backward pass instead of keeping its activations. */
  readonly remat?: boolean;
  /** For training: leaves out values of embeddings and of what attention and MLPs add. */
  readonly dropout?: ModelDropout;
}

/** Dropout throughout the model; none in the report. */
export interface ModelDropout extends Dropout {
  /** Of the attention's weights, 0 unless told. These are then kept, B H T² numbers a layer. */
  readonly attentionRate?: number;
}

export type ForwardResult = {
  /** [B, T, V], f32 unless narrow: position t predicts token t + 1. */
  logits: Tensor;
  /** Depth k at index k − 1, [B, T − k, V]: position t predicts token t + 1 + k. */
  mtpLogits: Tensor[];
  /** The embedding, then every layer's output, the last one after the final norm: [B, T, D] each. */
  hiddenStates: Tensor[];
  /** Router scores f32 [B, T', E] and loads f32 [E] of each layer that routes, MTP modules last. */
  routings: LayerRouting[];
};

export type LayerRouting = { scores: Tensor; load: Tensor };

/** Attention of one layer, with or without a cache. */
export type Attend = (p: MlaParams, x: Tensor) => Tensor;

/** Logits of every position. ids: i32 [B, T], each in [0, V). */
export function forward(
  params: ModelParams,
  ids: Tensor,
  c: ModelConfig,
  options: ForwardOptions = {},
): ForwardResult {
  const { computeDtype = "f32", segments, dropout, mtpHidden = "preNorm" } = options;
  const fp8 = computeDtype === "fp8";
  const kept = fp8 ? "bf16" : computeDtype;
  const logitsDtype = options.narrowLogits ? kept : "f32";
  const rope = ropeTables(c, ids.shape[1]!); // [T, R/2]
  const routings: LayerRouting[] = [];
  const run = options.remat ? remat(causalLayer) : causalLayer;
  const layer = (p: LayerParams, x: Tensor, rope: RopeTables, segments?: Tensor) => {
    const { output, routing } = run(p, x, rope, segments, c, fp8, dropoutOf(++layers));
    if (routing) routings.push(routing);
    return output;
  };
  let layers = 0;
  const dropoutOf = (index: number) => dropout && { ...dropout, key: foldIn(dropout.key, index) };

  const whole = embed(params, ids, kept); // [B, T, D]
  const embedding = dropped(whole, dropoutOf(0), 0);
  const hiddenStates = [embedding];
  let h = embedding;
  for (const p of params.layers) {
    h = layer(p, h, rope, segments);
    hiddenStates.push(h);
  }
  const normed = rmsNorm(h, params.norm, c.rmsNormEps);
  hiddenStates[params.layers.length] = normed;

  // Depth k reads the embeddings of tokens k, k + 1 …, and so has k positions less (eq. 21-23).
  const mtpLogits: Tensor[] = [];
  if (mtpHidden === "postNorm") h = normed;
  for (const [i, p] of (options.mtp ? params.mtp : []).entries()) {
    const T = ids.shape[1]! - (i + 1);
    const first = (t: Tensor, axis: number) => sliceAxis(t, axis, 0, T);
    const ahead = sliceAxis(embedding, 1, i + 1, i + 1 + T);
    const tables = { cos: first(rope.cos, 0), sin: first(rope.sin, 0) };
    const merged = mtpInput(p, first(h, 1), ahead, c, fp8);
    h = layer(p.layer, merged, tables, segments && first(segments, 1));
    const normed = rmsNorm(h, p.sharedHeadNorm, c.rmsNormEps);
    if (mtpHidden === "postNorm") h = normed;
    mtpLogits.push(head(params, normed, logitsDtype)); //                                 eq. 23
  }
  return { logits: head(params, normed, logitsDtype), mtpLogits, hiddenStates, routings };
}

/** One layer over whole sequences, with all it needs as arguments, so that it can be recomputed. */
function causalLayer(
  p: LayerParams,
  x: Tensor,
  rope: RopeTables,
  segments: Tensor | undefined,
  c: ModelConfig,
  fp8: boolean,
  dropout?: ModelDropout,
): { output: Tensor; routing: LayerRouting | null } {
  const rate = dropout?.attentionRate ?? 0;
  const ofWeights = dropout && rate > 0 ? { rate, key: foldIn(dropout.key, 2) } : undefined;
  const attend: Attend = (p, x) => mla(p, x, rope, c, { segments, dropout: ofWeights });
  const { output, routed } = decoderLayer(p, x, attend, c, { fp8, dropout });
  if (routed === null) return { output, routing: null };
  const scores = reshape(routed.routing.scores, [...x.shape.slice(0, 2), c.nRoutedExperts]);
  return { output, routing: { scores, load: routed.load } };
}

/** Rows of the embedding: ids i32 [B, T] → [B, T, D]. */
export function embed(params: ModelParams, ids: Tensor, dtype: ComputeDtype = "f32"): Tensor {
  return cast(take(params.embedTokens, ids), dtype);
}

interface LayerOptions {
  readonly fp8?: boolean;
  readonly dropout?: Dropout | undefined;
  /** bool [B, T]: false where there is padding, which experts skip. */
  readonly real?: Tensor;
}

/** One transformer block: x [B, T, D] → [B, T, D] in x's dtype, and what the router did. */
export function decoderLayer(
  params: LayerParams,
  x: Tensor,
  attend: Attend,
  c: ModelConfig,
  { fp8 = false, dropout, real }: LayerOptions,
): { output: Tensor; routed: MoeResult | null } {
  const p = inDtype(params, x, fp8);
  const attended = attend(p.selfAttn, rmsNorm(x, p.inputLayernorm, c.rmsNormEps));
  const u = add(x, dropped(attended, dropout, 0));
  const z = rmsNorm(u, p.postAttentionLayernorm, c.rmsNormEps);
  const routed = "experts" in p.mlp ? moe(p.mlp, z, c, real) : null;
  const added = routed ? routed.output : mlp(p.mlp as MlpParams, z);
  return { output: add(u, dropped(added, dropout, 1)), routed };
}

/** x with some values left out; `place` tells draws under one key apart. */
function dropped(x: Tensor, dropout: Dropout | undefined, place: number): Tensor {
  if (dropout === undefined) return x;
  return dropOut(x, { rate: dropout.rate, key: foldIn(dropout.key, place) });
}

/**
 * M_k [RMSNorm(Emb); RMSNorm(h)] (eq. 21): what an MTP module's block starts from. The released
 * weights want the embedding first, the other way round than the equation is printed.
 */
export function mtpInput(
  p: MtpParams,
  h: Tensor,
  embedding: Tensor,
  c: ModelConfig,
  fp8 = false,
): Tensor {
  const e = rmsNorm(embedding, p.enorm, c.rmsNormEps);
  const both = concat([e, rmsNorm(h, p.hnorm, c.rmsNormEps)], 2); // [B, T, 2 D]
  return linear(both, fp8 ? inFp8(p.ehProj) : narrow(p.ehProj, h)); // [B, T, D]
}

/** Logits [B, T, V] of normalised hidden states [B, T, D]. */
export function head(params: ModelParams, normed: Tensor, dtype: ComputeDtype = "f32"): Tensor {
  return matmul(normed, narrow(params.lmHead, normed), { transposeB: true, dtype });
}

/**
 * A layer's matrices in the dtype of x, if that is narrower than theirs, or to be multiplied in FP8;
 * the router stays in f32.
 */
function inDtype(p: LayerParams, x: Tensor, fp8: boolean): LayerParams {
  const matrix = (w: Tensor) => (fp8 ? inFp8(w) : narrow(w, x));
  const rounded = new Set(ofLayer(p).flat());
  return treeMap((w) => (rounded.has(w) ? matrix(w) : w), p);
}

/** f32 weights in the dtype of x. Weights stored narrower stay: matrix products mix dtypes. */
function narrow(w: Tensor, x: Tensor): Tensor {
  return w.dtype === "f32" ? cast(w, x.dtype) : w;
}
