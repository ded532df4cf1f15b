/**
 * Rotary position embedding with YaRN (Peng et al., arXiv 2309.00071), as DeepSeek-V3 uses it: only
 * the R rotary channels turn, in interleaved pairs, and what YaRN does to attention's temperature
 * goes into the softmax scale. Everything here is computed on the host in float64: at position
 * 160,000 an angle computed in f32 would be off by 0.01.
 */
import { type Tensor, tensor } from "@dsv3/tensor";

export interface RopeConfig {
  readonly qkNopeHeadDim: number;
  readonly qkRopeHeadDim: number;
  readonly ropeTheta: number;
  readonly ropeScaling: YarnScaling | null;
  /** True: a pair is channels 2i and 2i + 1, as in every released checkpoint; false: i and i + R/2. */
  readonly ropeInterleave: boolean;
}

export interface YarnScaling {
  /** How many times longer the context becomes: 40 for DeepSeek-V3. */
  readonly factor: number;
  readonly originalMaxPositionEmbeddings: number;
  /** Pairs that turn more than `betaFast` times within the original context keep their frequency … */
  readonly betaFast: number;
  /** … and those that turn less than `betaSlow` times are slowed down by the whole `factor`. */
  readonly betaSlow: number;
  readonly mscale: number;
  readonly mscaleAllDim: number;
}

/** Cosine and sine of every pair's angle: [T, R/2], or [B, T, R/2] where sequences differ. */
export type RopeTables = { cos: Tensor; sin: Tensor };

/**
 * Radians per position of each of the R/2 pairs: θ^(−2i/R), divided by `factor` where a pair turns
 * slowly, with a linear ramp between (`precompute_freqs_cis` in DeepSeek's inference/model.py).
 */
export function yarnFrequencies(c: RopeConfig): Float64Array {
  const { qkRopeHeadDim: dim, ropeTheta: theta, ropeScaling: yarn } = c;
  const frequencies = Float64Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim));
  if (yarn === null) return frequencies;

  // The (fractional) pair that turns `turns` times within the original context.
  const pairTurning = (turns: number) =>
    (dim * Math.log(yarn.originalMaxPositionEmbeddings / (turns * 2 * Math.PI))) /
    (2 * Math.log(theta));
  const low = Math.max(Math.floor(pairTurning(yarn.betaFast)), 0);
  const high = Math.min(Math.ceil(pairTurning(yarn.betaSlow)), dim - 1);
  const width = low === high ? 0.001 : high - low;
  return frequencies.map((f, i) => {
    const slowed = Math.min(Math.max((i - low) / width, 0), 1);
    return f * (1 - slowed) + (f / yarn.factor) * slowed;
  });
}

/** YaRN's √t = 0.1 m ln s + 1, for context factor s and weight m. */
function yarnMscale(factor: number, m: number): number {
  return factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1;
}

/**
 * What scores are multiplied by before the softmax: (N + R)^−½, times mscale² under YaRN: once for
 * the query, once for the key, and nowhere else. 0.1352 for DeepSeek-V3.
 */
export function softmaxScale(c: RopeConfig): number {
  const scale = (c.qkNopeHeadDim + c.qkRopeHeadDim) ** -0.5;
  if (c.ropeScaling === null) return scale;
  return scale * yarnMscale(c.ropeScaling.factor, c.ropeScaling.mscaleAllDim) ** 2;
}

/**
 * Length that the tables give a rotated pair: the ratio of the two mscales, 1 in every released
 * configuration because they are equal (DeepSeek's `modeling_deepseek.py`).
 */
function magnitude({ ropeScaling: yarn }: RopeConfig): number {
  if (yarn === null) return 1;
  return yarnMscale(yarn.factor, yarn.mscale) / yarnMscale(yarn.factor, yarn.mscaleAllDim);
}

/** Tables for positions 0 … length − 1, each [length, R/2] in f32. Inside `compile` they are constants. */
export function ropeTables(c: RopeConfig, length: number): RopeTables {
  const frequencies = yarnFrequencies(c);
  const pairs = frequencies.length;
  const cos = new Float32Array(length * pairs);
  const sin = new Float32Array(length * pairs);
  const m = magnitude(c);
  for (let t = 0; t < length; t++) {
    for (let i = 0; i < pairs; i++) {
      const angle = t * frequencies[i]!;
      cos[t * pairs + i] = Math.cos(angle) * m;
      sin[t * pairs + i] = Math.sin(angle) * m;
    }
  }
  const shape = [length, pairs];
  return { cos: tensor(cos, { shape }), sin: tensor(sin, { shape }) };
}
