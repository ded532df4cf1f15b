/** The model as a policy: log-probabilities of outputs, and a step that makes some more likely. */
import { forward, type ModelConfig, type ModelParams } from "@dsv3/model";
import {
  add,
  compile,
  crossEntropy,
  disposeTree,
  logSumExp,
  mul,
  neg,
  reshape,
  softmax,
  stopGradient,
  sub,
  sum,
  type Tensor,
  tensor,
  treeMap,
  valueAndGrad,
} from "@dsv3/tensor";
import { type AdamWConfig, adamw, clipByGlobalNorm } from "../adamw.ts";
import type { TrainState } from "../step.ts";
import { type GrpoLossOptions, grpoLoss } from "./grpo-loss.ts";

/** Outputs behind their questions, filled up on the right. Rows are outputs. */
export type OutputBatch = {
  inputIds: Tensor; // i32 [N, T]
  /** The token after each, where the policy drew it; −1 elsewhere. i32 [N, T] */
  targets: Tensor;
  /** 1 where targets count, f32 [N, T]. */
  mask: Tensor;
};

/** What the loss needs besides; see GrpoTerms. Without `old`, the policy itself is the old one. */
export type OutputTerms = {
  old?: Tensor; // [N, T]
  ref?: Tensor; // [N, T]
  advantages: Tensor; // [N]
  weights: Tensor; // [N]
};

export interface PolicyOptions {
  readonly loss: GrpoLossOptions;
  readonly temperature: number;
  readonly optimizer: AdamWConfig;
  readonly clip: number;
}

/** Sums over the outputs of an update; scalars. */
export interface UpdateMetrics {
  readonly loss: number;
  readonly kl: number;
  readonly entropy: number;
  readonly clippedLow: number;
  readonly clippedHigh: number;
  readonly gradNorm: number;
}

type Sums = {
  metrics: { loss: Tensor; kl: Tensor; entropy: Tensor; clippedLow: Tensor; clippedHigh: Tensor };
  grads: ModelParams;
};

export interface Policy {
  /** log π of every target, f32 [N, T]; 0 where none is. */
  logProbs(params: ModelParams, batch: OutputBatch): Tensor;
  /** One update from the outputs of all batches, which takes over the state. */
  update(
    state: TrainState,
    batches: readonly { readonly batch: OutputBatch; readonly terms: OutputTerms }[],
    learningRate: number,
  ): Promise<{ state: TrainState; metrics: UpdateMetrics }>;
  dispose(): void;
}

/** The compiled programs. Log-probabilities are those at the temperature that outputs are drawn at. */
export function policy(config: ModelConfig, options: PolicyOptions): Policy {
  const scored = (params: ModelParams, { inputIds, targets, mask }: OutputBatch) => {
    const { logits } = forward(params, inputIds, config); // [N, T, V]
    const scaled = mul(logits, 1 / options.temperature);
    const each = crossEntropy(reshape(scaled, [-1, config.vocabSize]), reshape(targets, [-1]));
    return { logProbs: mul(neg(reshape(each, targets.shape)), mask), scaled };
  };
  const loss = (params: ModelParams, batch: OutputBatch, terms: OutputTerms) => {
    const { logProbs, scaled } = scored(params, batch);
    const { old, ref, advantages, weights } = terms;
    const [value, parts] = grpoLoss(
      {
        ...{ logProbs, oldLogProbs: old ?? stopGradient(logProbs) },
        ...(ref ? { refLogProbs: ref } : {}),
        ...{ mask: batch.mask, advantages, weights },
      },
      options.loss,
    );
    const each = sub(logSumExp(scaled, -1), sum(mul(softmax(scaled, -1), scaled), -1)); // [N, T]
    const entropy = sum(mul(stopGradient(each), batch.mask));
    return [value, { ...parts, entropy }] as [Tensor, typeof parts & { entropy: Tensor }];
  };
  const differentiate = valueAndGrad(loss);

  const score = compile(
    (params: ModelParams, batch: OutputBatch) => scored(params, batch).logProbs,
    { name: "logProbs" },
  );
  const part = compile(
    (params: ModelParams, batch: OutputBatch, terms: OutputTerms, before: Sums | null): Sums => {
      const [[value, parts], grads] = differentiate(params, batch, terms);
      const own = { metrics: { loss: value, ...parts }, grads: grads as unknown as ModelParams };
      return before ? (treeMap((a, b) => add(a, b), before, own) as Sums) : own;
    },
    { name: "policyGradient", donate: [3] },
  );
  const apply = compile(
    (state: TrainState, { grads, metrics }: Sums, learningRate: Tensor) => {
      const clipped = clipByGlobalNorm(grads, options.clip);
      const step = add(state.step, 1);
      const rate = { step, learningRate };
      const moved = adamw(state.params, clipped.grads, state.moments, rate, options.optimizer);
      return { state: { ...moved, step }, metrics: { ...metrics, gradNorm: clipped.norm } };
    },
    { name: "policyUpdate", donate: [0, 1] },
  );

  return {
    logProbs: score,
    async update(state, batches, learningRate) {
      let sums: Sums | null = null;
      for (const { batch, terms } of batches) sums = part(state.params, batch, terms, sums);
      if (sums === null) throw new RangeError("an update needs at least one batch of outputs");
      using rate = tensor(learningRate);
      const { state: next, metrics } = apply(state, sums, rate);
      const names = Object.keys(metrics) as (keyof UpdateMetrics)[];
      const values = await Promise.all(names.map((name) => metrics[name].item()));
      disposeTree(metrics);
      const told = Object.fromEntries(names.map((name, i) => [name, values[i]]));
      return { state: next, metrics: told as unknown as UpdateMetrics };
    },
    dispose() {
      for (const program of [score, part, apply]) program.dispose();
    },
  };
}
