/** The model's weights: one record of tensors, the shapes it has, and how it starts. */
import { initMla, type MlaParams, mlaParamShapes } from "@dsv3/mla";
import {
  initMlp,
  initMoe,
  type MlpParams,
  type MoeParams,
  mlpParamShapes,
  moeParamShapes,
} from "@dsv3/moe";
import { compile, foldIn, type Mapped, mul, normal, ones, type Tensor } from "@dsv3/tensor";
import { isMoeLayer, type ModelConfig } from "./config.ts";

// Shapes: V vocabulary, D hidden.

export type ModelParams = {
  embedTokens: Tensor; // [V, D]
  layers: LayerParams[];
  norm: Tensor; //        [D]
  lmHead: Tensor; //      [V, D]
  /** Multi-token prediction modules, depth 1 first; they share embedding and head with the model. */
  mtp: MtpParams[];
};

export type LayerParams = {
  inputLayernorm: Tensor; //         [D]
  selfAttn: MlaParams;
  postAttentionLayernorm: Tensor; // [D]
  mlp: MlpParams | MoeParams;
};

export type MtpParams = {
  enorm: Tensor; //          [D] of the embedding
  hnorm: Tensor; //          [D] of the hidden state
  ehProj: Tensor; //         [D, 2 D], from [embedding; hidden]: M_k of eq. 21
  layer: LayerParams;
  sharedHeadNorm: Tensor; // [D] before the shared head
};

export type Shape = readonly number[];
export type ParamShapes = Mapped<ModelParams, Shape>;

/** Shapes of every parameter; nothing is allocated, so that 671 billion can be counted anywhere. */
export function paramShapes(c: ModelConfig): ParamShapes {
  const D = c.hiddenSize;
  const layer = (index: number): Mapped<LayerParams, Shape> => ({
    inputLayernorm: [D],
    selfAttn: mlaParamShapes(c),
    postAttentionLayernorm: [D],
    mlp: isMoeLayer(c, index) ? moeParamShapes(c) : mlpParamShapes(D, c.intermediateSize),
  });
  const mtp = (depth: number): Mapped<MtpParams, Shape> => ({
    enorm: [D],
    hnorm: [D],
    ehProj: [D, 2 * D],
    layer: layer(c.numHiddenLayers + depth),
    sharedHeadNorm: [D],
  });
  return {
    embedTokens: [c.vocabSize, D],
    layers: Array.from({ length: c.numHiddenLayers }, (_, i) => layer(i)),
    norm: [D],
    lmHead: [c.vocabSize, D],
    mtp: Array.from({ length: c.numNextnPredictLayers }, (_, k) => mtp(k)),
  };
}

/**
 * Fresh f32 weights: matrices normal with deviation `initializerRange`, norms 1, correction biases 0.
 * `key` is a u32 [2] random key; the same key gives the same weights on every backend.
 */
export function initParams(c: ModelConfig, key: Tensor): ModelParams {
  // As one program: eagerly, every step of the random generator would be an array of its own.
  const init = compile((key: Tensor) => freshParams(c, key), { name: "initParams" });
  try {
    return init(key);
  } finally {
    init.dispose();
  }
}

function freshParams(c: ModelConfig, key: Tensor): ModelParams {
  const D = c.hiddenSize;
  const std = c.initializerRange;
  const matrix = (shape: Shape, key: Tensor) => mul(normal(key, shape), std);
  const layer = (index: number, key: Tensor): LayerParams => ({
    inputLayernorm: ones([D]),
    selfAttn: initMla(c, foldIn(key, 0), std),
    postAttentionLayernorm: ones([D]),
    mlp: isMoeLayer(c, index)
      ? initMoe(c, foldIn(key, 1), std)
      : initMlp(D, c.intermediateSize, foldIn(key, 1), std),
  });
  const mtp = (depth: number, key: Tensor): MtpParams => ({
    enorm: ones([D]),
    hnorm: ones([D]),
    ehProj: matrix([D, 2 * D], foldIn(key, 2)),
    layer: layer(c.numHiddenLayers + depth, key),
    sharedHeadNorm: ones([D]),
  });
  // Keys 0 and 1 for embedding and head, 2 + n for layer n.
  const layerKey = (index: number) => foldIn(key, 2 + index);
  return {
    embedTokens: matrix([c.vocabSize, D], foldIn(key, 0)),
    layers: Array.from({ length: c.numHiddenLayers }, (_, i) => layer(i, layerKey(i))),
    norm: ones([D]),
    lmHead: matrix([c.vocabSize, D], foldIn(key, 1)),
    mtp: Array.from({ length: c.numNextnPredictLayers }, (_, k) =>
      mtp(k, layerKey(c.numHiddenLayers + k)),
    ),
  };
}
