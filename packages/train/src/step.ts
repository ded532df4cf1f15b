/** One training step as one program: forward, backward, clip, optimiser, routing biases. */
import {
  type Batch,
  type LossOptions,
  type LossParts,
  lossFn,
  type ModelConfig,
  type ModelParams,
} from "@dsv3/model";
import { updateBias } from "@dsv3/moe";
import {
  add,
  type Compiled,
  compile,
  mul,
  reshape,
  sliceAxis,
  type Tensor,
  tensor,
  treeMap,
  valueAndGrad,
  zeros,
} from "@dsv3/tensor";
import { type AdamWConfig, adamw, clipByGlobalNorm, initMoments, type Moments } from "./adamw.ts";

/** Everything that a step changes. */
export type TrainState = {
  params: ModelParams;
  moments: Moments<ModelParams>;
  /** Updates done so far, f32 scalar. */
  step: Tensor;
};

export interface StepOptions {
  readonly loss: LossOptions;
  readonly optimizer: AdamWConfig;
  /** Largest global norm of the gradients: 1 in the report. */
  readonly clip: number;
}

/** What a step measures; scalars f32. */
export type StepMetrics = Omit<LossParts, "tokens"> & {
  loss: Tensor;
  /** Before clipping. */
  gradNorm: Tensor;
  /** Cross-entropy of each target, of each batch: f32 [B, T]. */
  tokenLosses: Tensor[];
};

/** What changes from step to step without changing the program. */
export interface StepSettings {
  readonly learningRate: number;
  /** γ, the speed of the routing biases: 0.001 in the report, 0 at the end. */
  readonly biasSpeed: number;
  /** What each batch weighs in loss and gradients, 1 together; all the same unless told. */
  readonly shares?: readonly number[];
}

export function initTrainState(
  params: ModelParams,
  momentDtype: "f32" | "bf16" = "f32",
): TrainState {
  return { params, moments: initMoments(params, momentDtype), step: zeros([]) };
}

export type TrainStep = (
  state: TrainState,
  batches: readonly Batch[],
  settings: StepSettings,
) => { state: TrainState; metrics: StepMetrics };

/**
 * A compiled step. It takes over the state it is given; several batches accumulate their gradients
 * (each weighs the same unless `shares` says otherwise) before one update.
 */
export function trainStep(
  config: ModelConfig,
  options: StepOptions,
): TrainStep & { dispose(): void } {
  const program = compile(
    (state: TrainState, batches: Batch[], settings: Tensor) => {
      const setting = (i: number) => reshape(sliceAxis(settings, 0, i, i + 1), []);
      const shares = batches.map((_, i) => setting(2 + i));
      const { metrics, grads } = accumulate(state.params, batches, shares, config, options.loss);
      const clipped = clipByGlobalNorm(grads, options.clip);
      const step = add(state.step, 1);
      const rates = { step, learningRate: setting(0) };
      const next = adamw(state.params, clipped.grads, state.moments, rates, options.optimizer);
      const params = balanced(state.params, next.params, metrics.loads, setting(1));
      const measured: StepMetrics = { ...metrics, gradNorm: clipped.norm };
      return { state: { params, moments: next.moments, step }, metrics: measured };
    },
    { name: "trainStep", donate: [0] },
  ) as Compiled<
    [TrainState, readonly Batch[], Tensor],
    { state: TrainState; metrics: StepMetrics }
  >;
  const run = (state: TrainState, batches: readonly Batch[], s: StepSettings) => {
    const shares = s.shares ?? batches.map(() => 1 / batches.length);
    using settings = tensor([s.learningRate, s.biasSpeed, ...shares]);
    return program(state, batches, settings);
  };
  return Object.assign(run, { dispose: () => program.dispose() });
}

/** Loss and gradients over batches, by their shares; loads add up. */
function accumulate(
  params: ModelParams,
  batches: readonly Batch[],
  shares: readonly Tensor[],
  config: ModelConfig,
  options: LossOptions,
): { metrics: Omit<StepMetrics, "gradNorm">; grads: ModelParams } {
  const differentiate = valueAndGrad((p: ModelParams, b: Batch) => lossFn(p, b, config, options));
  const results = batches.map((b, i) => {
    const [[loss, parts], grads] = differentiate(params, b);
    return { loss, parts, grads: grads as unknown as ModelParams, share: shares[i] as Tensor };
  });
  const first = results[0];
  if (first === undefined) throw new RangeError("a training step needs at least one batch");
  const tokenLosses = results.map((r) => r.parts.tokens);
  if (results.length === 1) {
    const { main, mtp, balance, loads } = first.parts;
    const metrics = { loss: first.loss, main, mtp, balance, loads, tokenLosses };
    return { metrics, grads: first.grads };
  }
  const mean = (pick: (r: (typeof results)[number]) => Tensor) =>
    results.map((r) => mul(pick(r), r.share)).reduce((a, b) => add(a, b));
  return {
    metrics: {
      loss: mean((r) => r.loss),
      main: mean((r) => r.parts.main),
      mtp: mean((r) => r.parts.mtp),
      balance: mean((r) => r.parts.balance),
      loads: first.parts.loads.map((_, l) =>
        results.map((r) => r.parts.loads[l] as Tensor).reduce((a, b) => add(a, b)),
      ),
      tokenLosses,
    },
    grads: results
      .map(({ grads, share }) => treeMap((g) => mul(g, share), grads) as unknown as ModelParams)
      .reduce((a, b) => treeMap((x, y) => add(x, y), a, b) as unknown as ModelParams),
  };
}

/**
 * The parameters after an update, with the routing biases moved by load instead of by gradients
 * (section 2.1.2 of the report). Layers route in order, multi-token prediction modules last.
 */
function balanced(
  before: ModelParams,
  after: ModelParams,
  loads: readonly Tensor[],
  speed: Tensor,
): ModelParams {
  let routed = 0;
  const layer = <L extends ModelParams["layers"][number]>(old: L, fresh: L): L => {
    if (!("eScoreCorrectionBias" in old.mlp)) return fresh;
    const load = loads[routed++];
    const bias = old.mlp.eScoreCorrectionBias;
    const moved = bias && load ? updateBias(bias, load, speed) : bias;
    return { ...fresh, mlp: { ...fresh.mlp, eScoreCorrectionBias: moved } };
  };
  return {
    ...after,
    layers: after.layers.map((fresh, i) => layer(before.layers[i] as typeof fresh, fresh)),
    mtp: after.mtp.map((fresh, i) => ({
      ...fresh,
      layer: layer((before.mtp[i] as typeof fresh).layer, fresh.layer),
    })),
  };
}
