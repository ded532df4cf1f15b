/** For tests: a run so small that a step takes milliseconds even on the reference backend. */
import { type ModelConfig, preset } from "@dsv3/model";
import type { RowSource } from "./batches.ts";
import type { RunSettings } from "./settings.ts";

/** One routed layer and one multi-token prediction module of the smallest sizes. */
export const smallConfig: ModelConfig = {
  ...preset("tiny"),
  vocabSize: 16,
  hiddenSize: 8,
  intermediateSize: 8,
  numHiddenLayers: 1,
  firstKDenseReplace: 0,
  numNextnPredictLayers: 1,
  numAttentionHeads: 1,
  qLoraRank: null,
  kvLoraRank: 4,
  qkNopeHeadDim: 4,
  qkRopeHeadDim: 2,
  vHeadDim: 4,
  moeIntermediateSize: 4,
  nRoutedExperts: 4,
  numExpertsPerTok: 2,
  nGroup: 2,
  topkGroup: 1,
};

export const smallSettings: RunSettings = {
  steps: 6,
  batch: 2,
  length: 6,
  accumulate: 1,
  learningRate: [{ shape: "linear", steps: 2, to: 0.01 }],
  biasSpeed: 0.001,
  mtpWeight: 0.3,
  balanceWeight: 1e-4,
  seed: 5,
  checkpointEvery: 2,
  keepCheckpoints: 2,
};

/** Counts upwards, so that the next token can be learnt. */
export function counting(): RowSource {
  let at = 0;
  return {
    get position() {
      return at;
    },
    seek(position: number) {
      at = position;
    },
    next(rows: number, length: number) {
      const value = (i: number) => (at + i) % 16;
      const inputIds = Int32Array.from({ length: rows * length }, (_, i) => value(i));
      const targets = Int32Array.from({ length: rows * length }, (_, i) => value(i + 1));
      at += rows * length;
      return { inputIds, targets };
    },
  };
}
