/**
 * The router (DeepSeek-V3, arXiv 2412.19437, equations 13-16, and section 2.1.2 on balancing).
 *
 *   N tokens, D hidden, E experts, K picked per token, G groups, M groups allowed per token
 *
 * Scores are computed in f32 whatever the model computes in: a tie broken by rounding sends a token
 * to another expert.
 */
import {
  add,
  and,
  cast,
  div,
  eq,
  expandDims,
  gt,
  iota,
  lt,
  matmul,
  max,
  mean,
  mul,
  or,
  reshape,
  sigmoid,
  softmax,
  squeeze,
  stopGradient,
  sub,
  sum,
  type Tensor,
  takeAlong,
  topK,
  where,
} from "@dsv3/tensor";
import type { MoeConfig, MoeParams } from "./config.ts";

export type Routing = {
  experts: Tensor; // i32 [N, K], best first
  weights: Tensor; // f32 [N, K]
  scores: Tensor; //  f32 [N, E], affinities before bias and groups
};

/** Picks K experts for each row of x [N, D], and what each counts. */
export function route(p: MoeParams, x: Tensor, c: MoeConfig): Routing {
  const logits = matmul(x, p.gate, { transposeB: true, dtype: "f32" }); // [N, E]
  const scores = c.scoringFunc === "sigmoid" ? sigmoid(logits) : softmax(logits); // eq. 15

  // The bias takes part in the picking (eq. 16) and in nothing else.
  let choice = stopGradient(scores);
  if (p.eScoreCorrectionBias !== null) choice = add(choice, stopGradient(p.eScoreCorrectionBias));
  if (c.topkMethod !== "greedy" && c.nGroup > 1) choice = limitGroups(choice, c);
  const experts = topK(choice, c.numExpertsPerTok).indices; // [N, K]

  let weights = takeAlong(scores, experts); // [N, K]
  if (c.normTopkProb) {
    weights = div(weights, add(sum(weights, 1, { keepDims: true }), 1e-20)); // eq. 13
  }
  return { experts, weights: mul(weights, c.routedScalingFactor), scores };
}

/**
 * Scores [N, E] with −∞ outside the M best groups of each token. Not 0: biased scores may all be
 * negative, and then 0 would win.
 */
function limitGroups(choice: Tensor, c: MoeConfig): Tensor {
  const [N, E] = choice.shape as [number, number];
  const G = c.nGroup;
  const grouped = reshape(choice, [N, G, E / G]);
  const groupScores = c.topkMethod === "noaux_tc" ? sumOfTwoBest(grouped) : max(grouped, 2); // [N, G]
  // A group is kept if fewer than M are better, or as good and before it.
  const [own, other] = [expandDims(groupScores, 2), expandDims(groupScores, 1)];
  const [ownPlace, otherPlace] = [expandDims(iota(G), 1), expandDims(iota(G), 0)];
  const isBetter = or(gt(other, own), and(eq(other, own), lt(otherPlace, ownPlace))); // [N, G, G]
  const kept = lt(sum(cast(isBetter, "f32"), 2), c.topkGroup); // [N, G]
  return reshape(where(expandDims(kept, 2), grouped, -Infinity), [N, E]);
}

/** The two largest along the last axis, added; reductions alone, which fuse, where a top-k would not. */
function sumOfTwoBest(x: Tensor): Tensor {
  const best = max(x, -1, { keepDims: true });
  const isBest = eq(x, best);
  const next = max(where(isBest, -Infinity, x), -1, { keepDims: true });
  const tied = gt(sum(cast(isBest, "f32"), -1, { keepDims: true }), 1);
  return squeeze(add(best, where(tied, best, next)), -1);
}

/**
 * The correction bias after a training step (auxiliary-loss-free balancing): minus `gamma` for
 * experts with more than the mean load of the whole batch, plus `gamma` for those with less.
 * bias [E], load [E] in tokens, both f32.
 */
export function updateBias(bias: Tensor, load: Tensor, gamma: number | Tensor): Tensor {
  const average = mean(load);
  const sign = sub(cast(lt(load, average), "f32"), cast(gt(load, average), "f32"));
  return add(bias, mul(sign, gamma));
}

/**
 * Sequence-wise balance loss (eq. 17-20), without its weight α, averaged over sequences.
 * scores f32 [B, T, E] → scalar; 1 when every expert gets its share, and more the less even.
 * As printed, what counts as picked (f) is the K best scores, without bias or groups.
 */
export function balanceLoss(scores: Tensor, c: MoeConfig): Tensor {
  const [B, T, E] = scores.shape as [number, number, number];
  const K = c.numExpertsPerTok;
  const best = reshape(topK(stopGradient(scores), K).indices, [B, T * K]);
  const picked = cast(eq(expandDims(best, 2), iota(E)), "f32"); // [B, T K, E]
  const f = mul(sum(picked, 1), E / (K * T)); // [B, E]                                  eq. 18
  const affinity = div(scores, sum(scores, 2, { keepDims: true })); // [B, T, E]          eq. 19
  const P = mean(affinity, 1); // [B, E]                                                 eq. 20
  return div(sum(mul(f, P)), B); //                                                      eq. 17
}
