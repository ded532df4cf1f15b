/** One training step as one program: forward, backward, clip, optimiser, routing biases. */
import {
  type Batch,
  type LossOptions,
  type LossParts,
  lossFn,
  type ModelConfig,
  type ModelDropout,
  type ModelParams,
} from "@dsv3/model";
import { updateBias } from "@dsv3/moe";
import {
  add,
  cast,
  compile,
  div,
  foldIn,
  key,
  minimum,
  mul,
  reshape,
  sliceAxis,
  sub,
  type Tensor,
  tensor,
  treeMap,
  valueAndGrad,
  zeros,
} from "@dsv3/tensor";
import { type AdamWConfig, adamw, clipByGlobalNorm, initMoments, type Moments } from "./adamw.ts";
import { takesCopies, type WorkingCopies, withCopies, workingCopies } from "./working.ts";

/** Everything that a step changes. */
export type TrainState = {
  params: ModelParams;
  moments: Moments<ModelParams>;
  /** Updates done so far, f32 scalar. */
  step: Tensor;
  /** Moving average of the parameters in f32, where one is kept. */
  ema?: ModelParams;
  /** What steps in bf16 multiply by; the first of them adds it. */
  working?: WorkingCopies;
};

export interface StepOptions {
  readonly loss: LossOptions;
  readonly optimizer: AdamWConfig;
  /** Largest global norm of the gradients: 1 in the report. */
  readonly clip: number;
  /** Leaves out values at random, others for every step and batch; rates as in ModelDropout. */
  readonly dropout?: Omit<ModelDropout, "key"> & { readonly seed: number };
  /**
   * Of the moving average in a state that has one: the mean of the weights so far, until those are as
   * many as the decay averages over, and an exponential average from then on.
   */
  readonly emaDecay?: number;
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

/** The state before the first step, which takes over `params`. */
export function initTrainState(
  params: ModelParams,
  options: { readonly momentDtype?: "f32" | "bf16" | undefined; readonly ema?: boolean } = {},
): TrainState {
  const { momentDtype = "f32", ema = false } = options;
  const state = { params, moments: initMoments(params, momentDtype), step: zeros([]) };
  return ema ? { ...state, ema: treeMap((p) => zeros(p.shape), params) as ModelParams } : state;
}

export type TrainStep = (
  state: TrainState,
  batches: readonly Batch[],
  settings: StepSettings,
) => { state: TrainState; metrics: StepMetrics };

/** Loss and gradients of the batches so far, each by its share. */
type Sums = { metrics: Omit<StepMetrics, "gradNorm" | "tokenLosses">; grads: ModelParams };

/**
 * A compiled step. It takes over the state it is given; several batches accumulate their gradients
 * (each weighs the same unless `shares` says otherwise) before one update. One batch is one program;
 * several are one program for each batch and one for the update, whose size and memory do not depend
 * on their number.
 */
export function trainStep(
  config: ModelConfig,
  options: StepOptions,
): TrainStep & { dispose(): void } {
  const differentiate = valueAndGrad(
    (
      p: ModelParams,
      working: WorkingCopies | undefined,
      b: Batch,
      dropout?: LossOptions["dropout"],
    ) => {
      const weights = working ? withCopies(p, working) : p;
      return lossFn(weights, b, config, { ...options.loss, ...(dropout ? { dropout } : {}) });
    },
    { argnums: [0, 1] },
  );
  const dropoutAt = ({ step }: TrainState, index: Tensor) => {
    if (options.dropout === undefined) return undefined;
    const { seed, ...rates } = options.dropout;
    const ofStep = foldIn(key(seed), cast(step, "i32"));
    return { ...rates, key: foldIn(ofStep, cast(index, "i32")) };
  };
  const gradients = (state: TrainState, batch: Batch, index: Tensor) => {
    const { params, working } = state;
    const dropout = dropoutAt(state, index);
    const [[loss, parts], [own, ofCopies]] = differentiate(params, working, batch, dropout);
    const { tokens, ...losses } = parts;
    // Where a parameter's copy was multiplied by, its gradient came to the copy.
    const placed = ofCopies ? withCopies(params, ofCopies) : params;
    const grads = treeMap(
      (g, p, copied) => cast(copied === p ? g : copied, p.dtype),
      own,
      params,
      placed,
    ) as ModelParams;
    return { metrics: { loss, ...losses }, grads, tokens };
  };

  const whole = compile(
    (state: TrainState, batch: Batch, rates: Tensor) => {
      const { tokens, ...sums } = gradients(state, batch, zeros([]));
      return { ...updated(state, sums, rates, options), tokens };
    },
    { name: "trainStep", donate: [0] },
  );
  const part = compile(
    (state: TrainState, batch: Batch, place: Tensor, before: Sums | null) => {
      const [index, share] = scalars(place) as [Tensor, Tensor];
      const { tokens, ...own } = gradients(state, batch, index);
      const sums = treeMap((t) => mul(t, share), own) as unknown as Sums;
      sums.metrics.loads = own.metrics.loads;
      return { sums: before ? (treeMap((a, b) => add(a, b), before, sums) as Sums) : sums, tokens };
    },
    { name: "accumulate", donate: [3] },
  );
  const update = compile(
    (state: TrainState, sums: Sums, rates: Tensor) => updated(state, sums, rates, options),
    { name: "update", donate: [0, 1] },
  );

  const copy = compile((params: ModelParams) => workingCopies(params), { name: "workingCopies" });

  const run: TrainStep = (before, batches, s) => {
    const lacking = before.working === undefined && takesCopies(before.params, options.loss);
    const state = lacking ? { ...before, working: copy(before.params) } : before;
    using rates = tensor([s.learningRate, s.biasSpeed]);
    const [only] = batches;
    if (only === undefined) throw new RangeError("a training step needs at least one batch");
    if (batches.length === 1) {
      const { tokens, metrics, ...rest } = whole(state, only, rates);
      return { ...rest, metrics: { ...metrics, tokenLosses: [tokens] } };
    }
    let sums: Sums | null = null;
    const tokenLosses = batches.map((batch, i) => {
      using place = tensor([i, s.shares?.[i] ?? 1 / batches.length]);
      const result = part(state, batch, place, sums);
      sums = result.sums;
      return result.tokens;
    });
    const { metrics, ...rest } = update(state, sums as unknown as Sums, rates);
    return { ...rest, metrics: { ...metrics, tokenLosses } };
  };
  return Object.assign(run, {
    dispose: () => {
      for (const program of [whole, part, update, copy]) program.dispose();
    },
  });
}

/** Clips, and moves everything that a step changes. rates: [learning rate, bias speed] */
function updated(state: TrainState, { grads, metrics }: Sums, rates: Tensor, o: StepOptions) {
  const [learningRate, biasSpeed] = scalars(rates) as [Tensor, Tensor];
  const clipped = clipByGlobalNorm(grads, o.clip);
  const step = add(state.step, 1);
  const rate = { step, learningRate };
  const moved = adamw(state.params, clipped.grads, state.moments, rate, o.optimizer);
  const params = balanced(state.params, moved.params, metrics.loads, biasSpeed);
  const next: TrainState = { params, moments: moved.moments, step };
  if (state.working) next.working = workingCopies(params);
  if (state.ema && o.emaDecay !== undefined) {
    const decay = minimum(div(state.step, step), o.emaDecay);
    next.ema = treeMap(
      (mean, p) => add(mul(mean, decay), mul(cast(p, "f32"), sub(1, decay))),
      state.ema,
      params,
    ) as ModelParams;
  }
  return { state: next, metrics: { ...metrics, gradNorm: clipped.norm } };
}

/** The numbers of a vector. */
function scalars(vector: Tensor): Tensor[] {
  return Array.from({ length: vector.size }, (_, i) => reshape(sliceAxis(vector, 0, i, i + 1), []));
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
