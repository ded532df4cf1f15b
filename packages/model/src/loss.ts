/** The training objective: next token, tokens after that (MTP), and balance of experts. */
import { balanceLoss } from "@dsv3/moe";
import {
  add,
  cast,
  crossEntropy,
  div,
  eq,
  ge,
  maximum,
  mul,
  reshape,
  sliceAxis,
  sum,
  type Tensor,
  where,
  zeros,
} from "@dsv3/tensor";
import type { ModelConfig } from "./config.ts";
import { type ForwardOptions, forward } from "./model.ts";
import type { ModelParams } from "./params.ts";

export type Batch = {
  inputIds: Tensor; //  i32 [B, T]
  targets: Tensor; //   i32 [B, T], the token after each; negative where it does not count
  segments?: Tensor; // i32 [B, T], see ForwardOptions
};

export interface LossOptions extends Omit<ForwardOptions, "segments" | "mtp"> {
  /** λ of eq. 25: 0.3, later 0.1 in the report. 0 leaves the MTP modules out. */
  readonly mtpWeight: number;
  /** α of eq. 17: 1e-4 in the report. */
  readonly balanceWeight: number;
}

/** The parts of the loss, unweighted; scalars f32. */
export type LossParts = {
  /** Mean over the targets that count. */
  main: Tensor;
  /** Mean over depths (eq. 24, 25 without λ). */
  mtp: Tensor;
  /** Sum over layers (eq. 17 without α). */
  balance: Tensor;
  /** Tokens per expert, f32 [E], of each layer that routes, MTP modules last. */
  loads: Tensor[];
  /** Cross-entropy of each target, f32 [B, T]; 0 where it does not count. */
  tokens: Tensor;
};

/** The loss to minimise, main + λ mtp + α balance, and its parts, for `valueAndGrad`. */
export function lossFn(
  params: ModelParams,
  batch: Batch,
  c: ModelConfig,
  { mtpWeight, balanceWeight, ...options }: LossOptions,
): [loss: Tensor, parts: LossParts] {
  const { inputIds, targets, segments } = batch;
  const withMtp = mtpWeight > 0 && params.mtp.length > 0;
  const result = forward(params, inputIds, c, {
    ...options,
    segments,
    mtp: withMtp,
    narrowLogits: true,
  });
  // One divisor for all depths, though depth k has k targets less: as eq. 24 is printed.
  const count = maximum(sum(cast(ge(targets, 0), "f32")), 1);
  const crossEntropies = (logits: Tensor, targets: Tensor) =>
    crossEntropy(reshape(logits, [-1, c.vocabSize]), reshape(targets, [-1]));

  const each = crossEntropies(result.logits, targets);
  const main = div(sum(each), count);
  const depths = result.mtpLogits.map((logits, i) =>
    div(sum(crossEntropies(logits, targetsAhead(targets, segments, i + 1))), count),
  );
  const mtp = div(total(depths), Math.max(1, depths.length));
  const balance = total(result.routings.map(({ scores }) => balanceLoss(scores, c)));

  let loss = main;
  if (withMtp) loss = add(loss, mul(mtp, mtpWeight));
  if (balanceWeight > 0) loss = add(loss, mul(balance, balanceWeight));
  const loads = result.routings.map((r) => r.load);
  return [loss, { main, mtp, balance, loads, tokens: reshape(each, targets.shape) }];
}

/** Targets of MTP depth k [B, T − k]: those k positions ahead, if they are in the same segment. */
function targetsAhead(targets: Tensor, segments: Tensor | undefined, k: number): Tensor {
  const T = targets.shape[1]!;
  const ahead = sliceAxis(targets, 1, k, T);
  if (segments === undefined) return ahead;
  return where(eq(sliceAxis(segments, 1, k, T), sliceAxis(segments, 1, 0, T - k)), ahead, -1);
}

function total(terms: readonly Tensor[]): Tensor {
  return terms.reduce((sum, term) => add(sum, term), zeros([]));
}
