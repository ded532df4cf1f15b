/** What a model weighs and costs, from its configuration alone. */

import { type CacheDtype, latentBytes } from "@dsv3/mla";
import type { ModelConfig } from "./config.ts";
import { shapePaths } from "./names.ts";
import { paramShapes, type Shape } from "./params.ts";

export interface ParameterCount {
  /** The main model, with embedding and head: 671,026,419,200 for DeepSeek-V3. */
  readonly total: number;
  /** Of `total`, those that one token's forward pass uses: all but the experts it does not visit. */
  readonly active: number;
  /** `active` without the input embedding, of which a token uses one row. */
  readonly activeWithoutEmbedding: number;
  /** What the MTP modules add of their own. */
  readonly mtp: number;
  /** On disk: `total`, `mtp`, and each MTP layer's copies of embedding and head. */
  readonly stored: number;
}

/** Counts parameters (correction biases included), exactly: sums stay below 2^53. */
export function countParameters(c: ModelConfig): ParameterCount {
  const { mtp: mtpShapes, ...mainShapes } = paramShapes(c);
  const total = sumOf(mainShapes, elements);
  const active = sumOf(mainShapes, (shape, path) => used(shape, path, c));
  const mtp = sumOf(mtpShapes, elements);
  const embedding = c.vocabSize * c.hiddenSize;
  return {
    total,
    active,
    activeWithoutEmbedding: active - embedding,
    mtp,
    stored: total + mtp + 2 * embedding * c.numNextnPredictLayers,
  };
}

/** Bytes of latent cache that one token takes in all layers of the main model: L (C + R) numbers. */
export function cacheBytesPerToken(c: ModelConfig, dtype: CacheDtype = "bf16"): number {
  return c.numHiddenLayers * latentBytes(c, dtype);
}

export interface FlopsOptions {
  /** Tokens that each token attends to, on average: about half the sequence in training. */
  readonly context: number;
  /** Counts the backward pass too: three times the forward. Recomputation is not counted. */
  readonly training?: boolean;
  /** Counts the MTP modules (each with a pass through the shared head). */
  readonly mtp?: boolean;
}

/**
 * Floating-point operations that the model needs for one token, for utilisation figures: two per
 * weight of every matrix that the token meets, and two per multiplication of expanded attention.
 * Norms, activations and softmax are left out, as is usual.
 */
export function flopsPerToken(c: ModelConfig, options: FlopsOptions): number {
  const { embedTokens: _, mtp, ...matrices } = paramShapes(c);
  const multiplied = (shape: Shape, path: string) => (shape.length < 2 ? 0 : used(shape, path, c));
  const depth = options.mtp ? c.numNextnPredictLayers : 0;
  const weights =
    sumOf(matrices, multiplied) +
    (options.mtp ? sumOf(mtp, multiplied) : 0) +
    depth * c.vocabSize * c.hiddenSize;
  const attention =
    (c.numHiddenLayers + depth) *
    c.numAttentionHeads *
    (c.qkNopeHeadDim + c.qkRopeHeadDim + c.vHeadDim) *
    options.context;
  return 2 * (weights + attention) * (options.training ? 3 : 1);
}

function sumOf(shapes: unknown, count: (shape: Shape, path: string) => number): number {
  return shapePaths(shapes).reduce((sum, [path, shape]) => sum + count(shape, path), 0);
}

function elements(shape: Shape): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** Elements of a tensor that one token uses: of stacked experts, those of the ones it visits. */
function used(shape: Shape, path: string, c: ModelConfig): number {
  return path.includes("mlp.experts.")
    ? c.numExpertsPerTok * elements(shape.slice(1))
    : elements(shape);
}
