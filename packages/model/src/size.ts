/** One dial from a model for a laptop to DeepSeek-V3: every size of the 671B, scaled by its width. */
import { checkConfig, type ModelConfig } from "./config.ts";
import { PRESETS } from "./presets.ts";

/** The size at which the rules give DeepSeek-V3. */
const FULL = 56;
const V3: ModelConfig = PRESETS["deepseek-v3-671b"];

/**
 * DeepSeek-V3 scaled down (or up: size 56 is DeepSeek-V3 before its context is extended):
 *
 * - width 128 per size; layers in the same proportion to it (61 of 7,168), dense ones among them too,
 *   but one at least;
 * - heads as wide as the power of two in an eighth of the width, from 32 to 128, the rotary part half of
 *   that, and as many that they are 16/7 of the width together;
 * - latents of four heads for keys and values, and for queries as many or 3/14 of the width;
 * - experts: 8 per size rounded down to a power of two, in groups of four or more of which a token may
 *   visit half; a token visits a quarter of them, 8 at most, and a shared one;
 * - width of an expert such that those visited make 18/7 of the model's width, in multiples of 64, and
 *   dense layers as wide as all experts that a token visits;
 * - context 128 per size rounded up to a power of two, from 256 to 4,096;
 * - initial weights of 0.006 at full width, by the square root of the width.
 *
 * @param size a whole number of 1 or more
 * @param vocabSize 4,096 per size up to 32,768 unless told
 * @throws RangeError for anything else
 */
export function sizedConfig(
  size: number,
  vocabSize: number = Math.min(32768, 4096 * size),
): ModelConfig {
  if (!Number.isSafeInteger(size) || size < 1 || size > 1024) {
    throw new RangeError(`a size is a whole number from 1 to 1024, got ${size}`);
  }
  const hiddenSize = 128 * size;
  const vHeadDim = Math.min(128, Math.max(32, powerBelow(hiddenSize / 8)));
  const nRoutedExperts = Math.min(256, powerBelow(8 * size));
  const numExpertsPerTok = Math.min(8, nRoutedExperts / 4);
  const nGroup = Math.min(8, nRoutedExperts / 4);
  const visited = numExpertsPerTok + 1;
  const moeIntermediateSize = multiple(64, (18 * hiddenSize) / (7 * visited));
  const kvLoraRank = 4 * vHeadDim;
  return checkConfig({
    ...V3,
    vocabSize,
    hiddenSize,
    numHiddenLayers: Math.ceil((V3.numHiddenLayers * size) / FULL),
    firstKDenseReplace: Math.max(1, Math.round((V3.firstKDenseReplace * size) / FULL)),
    numAttentionHeads: Math.round((16 * hiddenSize) / (7 * vHeadDim)),
    vHeadDim,
    qkNopeHeadDim: vHeadDim,
    qkRopeHeadDim: vHeadDim / 2,
    kvLoraRank,
    qLoraRank: Math.max(kvLoraRank, multiple(64, (3 * hiddenSize) / 14)),
    nRoutedExperts,
    numExpertsPerTok,
    nGroup,
    topkGroup: nGroup / 2,
    moeIntermediateSize,
    intermediateSize: visited * moeIntermediateSize,
    ropeScaling: null,
    maxPositionEmbeddings: Math.min(4096, Math.max(256, 2 * powerBelow(hiddenSize - 1))),
    initializerRange: 0.006 * Math.sqrt(FULL / size),
  });
}

function powerBelow(x: number): number {
  return 2 ** Math.floor(Math.log2(x));
}

function multiple(of: number, x: number): number {
  return of * Math.max(1, Math.round(x / of));
}
