/** The report's recipe for pre-training and context extension (sections 4.2 and 4.3), scaled. */
import type { Phase } from "./settings.ts";

export interface RecipeOptions {
  /** Of pre-training: 14.8T in the report. Extensions of the context come on top. */
  readonly tokens: number;
  /** Sequences of a batch, batches for an update at full size, tokens of a sequence. */
  readonly batch: number;
  readonly accumulate: number;
  readonly length: number;
  /** At its peak: 2.2e-4 in the report. */
  readonly learningRate: number;
  /** Steps to the peak: the report's share of all, or 100 or a twentieth of a short run, unless told. */
  readonly warmUp?: number;
  /** Longer contexts to learn in turn: 32K and 128K in the report, 1,000 steps each. */
  readonly extend?: readonly { readonly length: number; readonly steps: number }[];
}

/** Trillions of tokens at which the report changes something. */
const REPORT = { ramp: 0.469, peak: 10, decay: 14.3, tenth: 14.633, all: 14.8 } as const;
/** Batches of 3,072 sequences grow to 15,360. */
const FIRST_BATCH = 3072 / 15360;
/** 2,000 of all steps: 0.469T tokens in growing batches, the rest in batches of 15,360 × 4,096. */
const WARM_UP =
  2000 / ((REPORT.ramp * 1e12 * (2 / (1 + FIRST_BATCH)) + (14.8 - 0.469) * 1e12) / (15360 * 4096));
/** A factor of 40 for a context 32 times as long. */
const YARN_MARGIN = 40 / 32;

/**
 * Phases with everything that the report changes at the same share of all tokens: the batch grows
 * from a fifth (by whole batches of an update), the rate is constant, falls to a tenth along a cosine
 * and ends at a thirtieth, λ goes from 0.3 to 0.1 when it starts to fall, γ from 0.001 to 0 when it
 * has fallen; then the context is extended by YaRN with as many tokens a step as before.
 */
export function deepseekPhases(o: RecipeOptions): Phase[] {
  const { batch, length, accumulate, learningRate: peak } = o;
  const share = (trillions: number) => trillions / REPORT.all;
  const full = batch * accumulate * length; // tokens of a step at full size
  const from = Math.max(1, Math.round(accumulate * FIRST_BATCH));
  const meanShare = (from / accumulate + 1) / 2;
  const stepsOf = (tokens: number) => Math.max(1, Math.round(tokens / full));
  const rampSteps = from < accumulate ? stepsOf((o.tokens * share(REPORT.ramp)) / meanShare) : 0;
  const inRamp = rampSteps * meanShare * full;
  const atPeak = rampSteps + stepsOf(o.tokens * share(REPORT.peak) - inRamp);
  const falling = stepsOf(o.tokens * share(REPORT.decay - REPORT.peak));
  const atTenth = stepsOf(o.tokens * share(REPORT.tenth - REPORT.decay));
  const atLast = stepsOf(o.tokens * share(REPORT.all - REPORT.tenth));
  const all = atPeak + falling + atTenth + atLast;
  const usual = Math.max(Math.ceil(WARM_UP * all), Math.min(100, Math.ceil(all / 20)));
  const warmUp = Math.min(atPeak, o.warmUp ?? usual);
  const last = (peak * 7.3) / 220;
  const sizes = { batch, length, accumulate, balanceWeight: 1e-4 };
  const phases: Phase[] = [
    {
      ...{ steps: atPeak, ...sizes, biasSpeed: 0.001, mtpWeight: 0.3 },
      ...(rampSteps > 0 ? { ramp: { from, steps: rampSteps } } : {}),
      learningRate: [
        { shape: "linear", steps: warmUp, to: peak },
        { shape: "constant", steps: atPeak - warmUp, to: peak },
      ],
    },
    {
      ...{ steps: falling, ...sizes, biasSpeed: 0.001, mtpWeight: 0.1 },
      learningRate: [{ shape: "cosine", steps: falling, from: peak, to: peak / 10 }],
    },
    {
      ...{ steps: atTenth + atLast, ...sizes, biasSpeed: 0, mtpWeight: 0.1 },
      learningRate: [
        { shape: "constant", steps: atTenth, to: peak / 10 },
        { shape: "constant", steps: atLast, to: last },
      ],
    },
  ];
  const longest = Math.max(...(o.extend ?? []).map((e) => e.length));
  for (const longer of o.extend ?? []) {
    phases.push({
      ...{ steps: longer.steps, ...sizes, biasSpeed: 0, mtpWeight: 0.1 },
      length: longer.length,
      batch: Math.max(1, Math.round((batch * length) / longer.length)),
      learningRate: [{ shape: "constant", steps: longer.steps, to: last }],
      yarn: {
        factor: (YARN_MARGIN * longest) / length,
        originalMaxPositionEmbeddings: length,
      },
    });
  }
  return phases;
}
