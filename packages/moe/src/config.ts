/** What a mixture-of-experts layer is made of: sizes, parameters, initial values. */
import { foldIn, type Mapped, mul, normal, type Tensor, zeros } from "@dsv3/tensor";

/** Sizes and routing rules, by their Hugging Face names in camelCase. */
export interface MoeConfig {
  readonly hiddenSize: number; //          D
  readonly moeIntermediateSize: number; // F, width of one expert
  readonly nRoutedExperts: number; //      E
  readonly nSharedExperts: number; //      every token visits these, as one MLP of width n · F
  readonly numExpertsPerTok: number; //    K
  readonly nGroup: number; //              G, groups of E / G experts (nodes, in the report)
  readonly topkGroup: number; //           M, groups that a token may visit
  readonly scoringFunc: "sigmoid" | "softmax";
  /**
   * How experts are picked: the K best of all (`greedy`), of the M groups with the best single
   * expert (`group_limited_greedy`, DeepSeek-V2), or of the M groups with the best two experts
   * after adding the correction bias (`noaux_tc`, DeepSeek-V3).
   */
  readonly topkMethod: "noaux_tc" | "greedy" | "group_limited_greedy";
  /** Whether the weights of the picked experts are made to sum to 1 before scaling. */
  readonly normTopkProb: boolean;
  readonly routedScalingFactor: number;
}

/** A gated MLP, down(silu(gate x) · up x): the dense layers and the shared experts. */
export type MlpParams = {
  gateProj: Tensor; // [F, D]
  upProj: Tensor; //   [F, D]
  downProj: Tensor; // [D, F]
};

export type MoeParams = {
  gate: Tensor; //                         [E, D] the router; never below f32 in computation
  eScoreCorrectionBias: Tensor | null; //  [E] f32 with noaux_tc: moved by updateBias, not by gradients
  experts: {
    gateProj: Tensor; //                   [E, F, D]
    upProj: Tensor; //                     [E, F, D]
    downProj: Tensor; //                   [E, D, F]
  };
  sharedExperts: MlpParams | null; //      width nSharedExperts · F
};

type Shape = readonly number[];

/** Shapes of an MLP from D to D through `width`; nothing is allocated. */
export function mlpParamShapes(hiddenSize: number, width: number): Mapped<MlpParams, Shape> {
  return {
    gateProj: [width, hiddenSize],
    upProj: [width, hiddenSize],
    downProj: [hiddenSize, width],
  };
}

/** Shapes of every parameter of a mixture-of-experts layer; nothing is allocated. */
export function moeParamShapes(c: MoeConfig): Mapped<MoeParams, Shape> {
  const { nRoutedExperts: E, moeIntermediateSize: F, hiddenSize: D } = c;
  return {
    gate: [E, D],
    eScoreCorrectionBias: c.topkMethod === "noaux_tc" ? [E] : null,
    experts: { gateProj: [E, F, D], upProj: [E, F, D], downProj: [E, D, F] },
    sharedExperts: c.nSharedExperts === 0 ? null : mlpParamShapes(D, c.nSharedExperts * F),
  };
}

/** A fresh f32 MLP, normal with deviation `std`. `key` is a u32 [2] random key. */
export function initMlp(hiddenSize: number, width: number, key: Tensor, std: number): MlpParams {
  const { gateProj, upProj, downProj } = mlpParamShapes(hiddenSize, width);
  return {
    gateProj: mul(normal(foldIn(key, 0), gateProj), std),
    upProj: mul(normal(foldIn(key, 1), upProj), std),
    downProj: mul(normal(foldIn(key, 2), downProj), std),
  };
}

/** A fresh f32 layer: matrices normal with deviation `std`, correction bias 0. */
export function initMoe(c: MoeConfig, key: Tensor, std: number): MoeParams {
  const { gate, eScoreCorrectionBias, experts } = moeParamShapes(c);
  return {
    gate: mul(normal(foldIn(key, 0), gate), std),
    eScoreCorrectionBias: eScoreCorrectionBias && zeros(eScoreCorrectionBias),
    experts: {
      gateProj: mul(normal(foldIn(key, 1), experts.gateProj), std),
      upProj: mul(normal(foldIn(key, 2), experts.upProj), std),
      downProj: mul(normal(foldIn(key, 3), experts.downProj), std),
    },
    sharedExperts:
      c.nSharedExperts === 0
        ? null
        : initMlp(c.hiddenSize, c.nSharedExperts * c.moeIntermediateSize, foldIn(key, 4), std),
  };
}
