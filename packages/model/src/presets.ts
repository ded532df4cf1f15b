/** Named configurations: two that were released, two that a laptop can train. */
import { checkConfig, type ModelConfig } from "./config.ts";

const DEEPSEEK_YARN = {
  factor: 40,
  originalMaxPositionEmbeddings: 4096,
  betaFast: 32,
  betaSlow: 1,
} as const;

/** DeepSeek-V3's rules, which its small relatives here share. */
const V3_RULES = {
  modelType: "deepseek_v3",
  numNextnPredictLayers: 1,
  rmsNormEps: 1e-6,
  ropeTheta: 10000,
  ropeScaling: null,
  ropeInterleave: true,
  nSharedExperts: 1,
  scoringFunc: "sigmoid",
  topkMethod: "noaux_tc",
  normTopkProb: true,
  routedScalingFactor: 2.5,
  bosTokenId: 0,
  eosTokenIds: [1],
} as const;

export type PresetName = "tiny" | "demo" | "deepseek-v3-671b" | "deepseek-v2-lite-16b";

export const PRESETS: Readonly<Record<PresetName, ModelConfig>> = {
  /** Every part of the model at a size for tests: 0.2 M parameters. */
  tiny: {
    ...V3_RULES,
    vocabSize: 256,
    hiddenSize: 64,
    intermediateSize: 96,
    numHiddenLayers: 3,
    firstKDenseReplace: 1,
    numAttentionHeads: 4,
    qLoraRank: 32,
    kvLoraRank: 32,
    qkNopeHeadDim: 16,
    qkRopeHeadDim: 8,
    vHeadDim: 16,
    moeIntermediateSize: 32,
    nRoutedExperts: 8,
    numExpertsPerTok: 3,
    nGroup: 4,
    topkGroup: 2,
    maxPositionEmbeddings: 128,
    initializerRange: 0.08,
  },

  /** Learns English prose on two CPU cores in minutes. The dense layer is as wide as all experts that a token visits. */
  demo: {
    ...V3_RULES,
    vocabSize: 4096,
    hiddenSize: 192,
    intermediateSize: 480,
    numHiddenLayers: 4,
    firstKDenseReplace: 1,
    numAttentionHeads: 6,
    qLoraRank: 96,
    kvLoraRank: 64,
    qkNopeHeadDim: 32,
    qkRopeHeadDim: 16,
    vHeadDim: 32,
    moeIntermediateSize: 96,
    nRoutedExperts: 16,
    numExpertsPerTok: 4,
    nGroup: 4,
    topkGroup: 2,
    maxPositionEmbeddings: 1024,
    initializerRange: 0.02,
  },

  /** DeepSeek-V3, V3-0324, R1 and V3.1 (huggingface.co/deepseek-ai/DeepSeek-V3, config.json). */
  "deepseek-v3-671b": {
    ...V3_RULES,
    vocabSize: 129280,
    hiddenSize: 7168,
    intermediateSize: 18432,
    numHiddenLayers: 61,
    firstKDenseReplace: 3,
    numAttentionHeads: 128,
    qLoraRank: 1536,
    kvLoraRank: 512,
    qkNopeHeadDim: 128,
    qkRopeHeadDim: 64,
    vHeadDim: 128,
    ropeScaling: { ...DEEPSEEK_YARN, mscale: 1, mscaleAllDim: 1 },
    moeIntermediateSize: 2048,
    nRoutedExperts: 256,
    numExpertsPerTok: 8,
    nGroup: 8,
    topkGroup: 4,
    maxPositionEmbeddings: 163840,
    initializerRange: 0.02,
  },

  /** DeepSeek-V2-Lite (huggingface.co/deepseek-ai/DeepSeek-V2-Lite, config.json). */
  "deepseek-v2-lite-16b": {
    ...V3_RULES,
    modelType: "deepseek_v2",
    vocabSize: 102400,
    hiddenSize: 2048,
    intermediateSize: 10944,
    numHiddenLayers: 27,
    numNextnPredictLayers: 0,
    firstKDenseReplace: 1,
    numAttentionHeads: 16,
    qLoraRank: null,
    kvLoraRank: 512,
    qkNopeHeadDim: 128,
    qkRopeHeadDim: 64,
    vHeadDim: 128,
    // biome-ignore lint/suspicious/noApproximativeNumericConstant: as published
    ropeScaling: { ...DEEPSEEK_YARN, mscale: 0.707, mscaleAllDim: 0.707 },
    moeIntermediateSize: 1408,
    nRoutedExperts: 64,
    nSharedExperts: 2,
    numExpertsPerTok: 6,
    nGroup: 1,
    topkGroup: 1,
    scoringFunc: "softmax",
    topkMethod: "greedy",
    normTopkProb: false,
    routedScalingFactor: 1,
    maxPositionEmbeddings: 163840,
    initializerRange: 0.02,
    bosTokenId: 100000,
    eosTokenIds: [100001],
  },
};

/** The configuration of that name. @throws Error listing the names there are */
export function preset(name: string): ModelConfig {
  if (!Object.hasOwn(PRESETS, name)) {
    throw new Error(`no preset "${name}"; there are ${Object.keys(PRESETS).join(", ")}`);
  }
  return PRESETS[name as PresetName];
}

/**
 * The same model with a dense MLP in place of every mixture of experts (MTP modules too), of the
 * common width that makes the parameters active per token as nearly equal as can be.
 */
export function denseVariant(c: ModelConfig): ModelConfig {
  const dense = Math.min(c.firstKDenseReplace, c.numHiddenLayers);
  const routing = c.numHiddenLayers - dense;
  // In a layer, width w costs 3 w D parameters; the router costs E D, and its bias E.
  const visited = (c.numExpertsPerTok + c.nSharedExperts) * c.moeIntermediateSize;
  const router = (c.nRoutedExperts * (c.hiddenSize + 1)) / (3 * c.hiddenSize);
  const width = (dense * c.intermediateSize + routing * (visited + router)) / c.numHiddenLayers;
  return checkConfig({
    ...c,
    firstKDenseReplace: c.numHiddenLayers + c.numNextnPredictLayers,
    intermediateSize: Math.round(width),
  });
}
