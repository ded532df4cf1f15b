/**
 * The objective of group relative policy optimisation, in the five forms that are in use. A group is
 * G outputs o_i to one question q with rewards R_i; its mean is the baseline, so that no critic is
 * needed. With π the policy that is trained, π_old the one that wrote the outputs, π_ref the one to
 * stay near, and clip(ρ) = clip(ρ, 1 − ε_low, 1 + ε_high), what is minimised is
 *
 *     L = −Σ_i w_i Σ_u [ min(ρ_u A_i, clip(ρ_u) A_i) − β KL_u ],    KL = e^d − d − 1,  d = log π_ref − log π
 *
 * over units u, which are whole outputs or their tokens:
 *
 *     form            unit     ρ_u                             w_i             A_i
 *     deepseek-v3     output   π(o_i|q) / π_old(o_i|q)         1 / N           (R_i − mean) / std
 *     deepseek-math   token    π(o_it|…) / π_old(o_it|…)       1 / (N |o_i|)   (R_i − mean) / std
 *     dapo            token    the same                        1 / Σ_j |o_j|   (R_i − mean) / std
 *     dr-grpo         token    the same                        1 / (N L_max)   R_i − mean
 *     gspo            output   (π / π_old)^(1 / |o_i|)         1 / N           (R_i − mean) / std
 *
 * N counts the outputs of an update, of all its groups. Sources: DeepSeek-V3's report, eq. 26–28, which
 * prints ratio and KL of whole outputs; DeepSeekMath (arXiv 2402.03300), eq. 3 and 4; DAPO (2503.14476),
 * eq. 8; Dr. GRPO (2503.20783), section 3; GSPO (2507.18071), eq. 5 and 7, whose KL here is the mean
 * over tokens, as it prints none.
 */
import {
  and,
  cast,
  div,
  exp,
  expandDims,
  gt,
  lt,
  maximum,
  minimum,
  mul,
  neg,
  sub,
  sum,
  type Tensor,
} from "@dsv3/tensor";

export const GRPO_FORMS = ["deepseek-v3", "deepseek-math", "dapo", "dr-grpo", "gspo"] as const;
export type GrpoForm = (typeof GRPO_FORMS)[number];

export interface GrpoLossOptions {
  readonly form: GrpoForm;
  readonly clipLow: number;
  readonly clipHigh: number;
  /** β; 0 leaves the reference out. */
  readonly beta: number;
}

/** Outputs as the loss sees them; f32. Rows are outputs, columns places of tokens. */
export type GrpoTerms = {
  /** log π of the tokens that were drawn, to be differentiated [N, T]. */
  logProbs: Tensor;
  /** log π_old, a constant [N, T]. */
  oldLogProbs: Tensor;
  /** log π_ref, a constant; needed with β [N, T]. */
  refLogProbs?: Tensor;
  /** 1 where the policy drew the token, 0 in questions and padding [N, T]. */
  mask: Tensor;
  /** A_i [N]. */
  advantages: Tensor;
  /** w_i, see {@link outputWeights} [N]. */
  weights: Tensor;
};

/** Scalars f32 beside the loss; sums, so that those of several batches can be added. */
export type GrpoParts = {
  /** KL of single tokens to the reference, summed; 0 without β. */
  kl: Tensor;
  /** Units whose ratio was clipped: below with A < 0, above with A > 0. */
  clippedLow: Tensor;
  clippedHigh: Tensor;
};

/** The loss of the outputs, and what of it is watched. */
export function grpoLoss(
  terms: GrpoTerms,
  { form, clipLow, clipHigh, beta }: GrpoLossOptions,
): [loss: Tensor, parts: GrpoParts] {
  const { logProbs, oldLogProbs, refLogProbs, mask, advantages, weights } = terms;
  const perOutput = isPerOutput(form);
  const masked = (t: Tensor) => mul(t, mask);
  const overOutput = (t: Tensor) => sum(masked(t), 1); // [N, T] → [N]
  const lengths = maximum(sum(mask, 1), 1); // [N]
  const unit = (t: Tensor) => {
    if (!perOutput) return masked(t); //                                  [N, T]
    return form === "gspo" ? div(overOutput(t), lengths) : overOutput(t); // [N]
  };
  const perUnit = (t: Tensor) => (perOutput ? t : expandDims(t, 1));
  const units = perOutput ? minimum(sum(mask, 1), 1) : mask;
  const A = perUnit(advantages);

  const ratio = exp(unit(sub(logProbs, oldLogProbs)));
  const clipped = minimum(maximum(ratio, 1 - clipLow), 1 + clipHigh);
  let gain = minimum(mul(ratio, A), mul(clipped, A));
  let kl: Tensor = sum(mul(mask, 0));
  if (beta > 0) {
    if (refLogProbs === undefined) throw new Error("beta needs refLogProbs, and they are missing");
    const ofTokens = masked(k3(sub(refLogProbs, logProbs)));
    const ofUnits =
      form === "deepseek-v3"
        ? k3(unit(sub(refLogProbs, logProbs)))
        : form === "gspo"
          ? div(sum(ofTokens, 1), lengths)
          : ofTokens;
    gain = sub(gain, mul(ofUnits, beta));
    kl = sum(ofTokens);
  }
  const loss = neg(sum(mul(mul(gain, units), perUnit(weights))));
  const count = (hit: Tensor) => sum(mul(cast(hit, "f32"), units));
  return [
    loss,
    {
      kl,
      clippedLow: count(and(lt(ratio, 1 - clipLow), lt(A, 0))),
      clippedHigh: count(and(gt(ratio, 1 + clipHigh), gt(A, 0))),
    },
  ];
}

/** e^d − d − 1: never negative, and in the mean over π the divergence KL(π ‖ π_ref) (eq. 27). */
function k3(d: Tensor): Tensor {
  return sub(sub(exp(d), d), 1);
}

/** Whether ratios are of whole outputs and not of tokens. */
export function isPerOutput(form: GrpoForm): boolean {
  return form === "deepseek-v3" || form === "gspo";
}

/**
 * w_i of the outputs of one update.
 * @param lengths tokens of each; 0 for outputs that do not count, whose weight is 0
 * @param limit L_max, the longest that an output may be
 */
export function outputWeights(form: GrpoForm, lengths: readonly number[], limit: number): number[] {
  const outputs = lengths.length;
  const tokens = lengths.reduce((a, b) => a + b, 0);
  return lengths.map((length) => {
    if (length === 0) return 0;
    if (form === "deepseek-math") return 1 / (outputs * length);
    if (form === "dapo") return 1 / tokens;
    if (form === "dr-grpo") return 1 / (outputs * limit);
    return 1 / outputs;
  });
}

/** Keeps an advantage finite where rewards hardly differ. */
const EPS = 1e-4;

/** A_i of one group: rewards less their mean, over their unbiased deviation but for Dr. GRPO. */
export function groupAdvantages(form: GrpoForm, rewards: readonly number[]): number[] {
  const { mean, std } = spread(rewards);
  return rewards.map((r) => (form === "dr-grpo" ? r - mean : (r - mean) / (std + EPS)));
}

/** Mean and unbiased standard deviation; 0 and 0 of nothing. */
export function spread(values: readonly number[]): { mean: number; std: number } {
  if (values.length === 0) return { mean: 0, std: 0 };
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const squares = values.reduce((sum, v) => sum + (v - mean) ** 2, 0);
  return { mean, std: Math.sqrt(squares / Math.max(1, values.length - 1)) };
}
