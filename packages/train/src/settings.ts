/** What a run is told: phases one after another, and what holds through all of them. */
import type { ModelConfig, Precision } from "@dsv3/model";
import { z } from "zod";
import type { AdamWConfig } from "./adamw.ts";
import { type Schedule, scheduleSchema } from "./schedule.ts";
import { problemsOf, share, weight, whole } from "./schema.ts";

/** A stretch of training, from one change of the recipe to the next. */
export interface Phase {
  readonly steps: number;
  /** Sequences of a batch, and tokens of a sequence. */
  readonly batch: number;
  readonly length: number;
  /** Batches whose gradients are averaged before an update. */
  readonly accumulate: number;
  /** Starts with `from` batches for an update and grows to `accumulate` linearly over `steps`. */
  readonly ramp?: { readonly from: number; readonly steps: number };
  /** By steps of the phase. */
  readonly learningRate: Schedule;
  /** γ, λ and α of the report (section 4.2). */
  readonly biasSpeed: number;
  readonly mtpWeight: number;
  readonly balanceWeight: number;
  /** Stretches the rotary embedding for a longer context (section 4.3); config.json then says so. */
  readonly yarn?: YarnPhase;
}

/** What `rope_scaling` of config.json becomes; the report has a factor of 40 and the defaults. */
export interface YarnPhase {
  readonly factor: number;
  /** The length of the run's first phase unless told. */
  readonly originalMaxPositionEmbeddings?: number;
  /** 32, 1, 1 and 1 unless told. */
  readonly betaFast?: number;
  readonly betaSlow?: number;
  readonly mscale?: number;
  readonly mscaleAllDim?: number;
}

/** The first phase, what follows it, and what holds throughout. */
export interface RunSettings extends Phase {
  readonly laterPhases?: readonly Phase[];
  /** Of AdamW's moments: f32 unless told; bf16 as in the report (section 3.3.1). */
  readonly momentDtype?: "f32" | "bf16";
  /** AdamW's, the report's unless told. */
  readonly optimizer?: AdamWConfig;
  /** What activations are kept in, see ForwardOptions: f32 unless told. */
  readonly computeDtype?: Precision;
  /** Computes each layer again in the backward pass instead of keeping its activations. */
  readonly remat?: boolean;
  /** Share of the values of every branch left out at random; none in the report. */
  readonly dropout?: number;
  /** Share of the attention's weights left out at random, see ModelDropout; none in the report. */
  readonly attentionDropout?: number;
  /** Keeps an exponential moving average of the weights (section 3.2.3) with this decay. */
  readonly emaDecay?: number;
  readonly seed: number;
  /** Steps between checkpoints, and how many are kept. */
  readonly checkpointEvery: number;
  readonly keepCheckpoints: number;
}

const phaseFields = {
  steps: whole(1),
  batch: whole(1),
  length: whole(1),
  accumulate: whole(1),
  ramp: z.strictObject({ from: whole(1), steps: whole(0) }).optional(),
  learningRate: scheduleSchema,
  biasSpeed: weight,
  mtpWeight: weight,
  balanceWeight: weight,
  yarn: z
    .strictObject({
      factor: weight.min(1, "should be 1 or more"),
      originalMaxPositionEmbeddings: whole(1).optional(),
      betaFast: weight.optional(),
      betaSlow: weight.optional(),
      mscale: weight.optional(),
      mscaleAllDim: weight.optional(),
    })
    .optional(),
};
const phaseSchema = z.strictObject(phaseFields);

const settingsSchema = z.strictObject({
  ...phaseFields,
  laterPhases: z.array(phaseSchema).optional(),
  momentDtype: z.enum(["f32", "bf16"]).optional(),
  optimizer: z
    .strictObject({ beta1: share, beta2: share, eps: weight, weightDecay: weight })
    .optional(),
  computeDtype: z.enum(["f32", "bf16", "fp8"]).optional(),
  remat: z.boolean().optional(),
  dropout: share.optional(),
  attentionDropout: share.optional(),
  emaDecay: share.optional(),
  seed: whole(0),
  checkpointEvery: whole(1),
  keepCheckpoints: whole(1),
});

/** All phases of a run in order. */
export function phasesOf(settings: RunSettings): readonly Phase[] {
  return [settings, ...(settings.laterPhases ?? [])];
}

/** Steps of all phases together. */
export function totalSteps(settings: RunSettings): number {
  return phasesOf(settings).reduce((sum, { steps }) => sum + steps, 0);
}

/** The phase that a step (0 is the first) belongs to, and the step at which it began. */
export function phaseAt(
  settings: RunSettings,
  step: number,
): { phase: Phase; index: number; start: number } {
  let start = 0;
  const phases = phasesOf(settings);
  for (const [index, phase] of phases.entries()) {
    if (step < start + phase.steps || index === phases.length - 1) return { phase, index, start };
    start += phase.steps;
  }
  throw new RangeError("a run has at least one phase");
}

/** The model as a phase trains it: with the context that its `yarn` gives. */
export function phaseConfig(config: ModelConfig, settings: RunSettings, phase: Phase): ModelConfig {
  if (phase.yarn === undefined) return config;
  const ropeScaling = {
    ...{ originalMaxPositionEmbeddings: settings.length, betaFast: 32, betaSlow: 1 },
    ...{ mscale: 1, mscaleAllDim: 1 },
    ...phase.yarn,
  };
  const context = Math.round(ropeScaling.factor * ropeScaling.originalMaxPositionEmbeddings);
  return {
    ...config,
    ropeScaling,
    maxPositionEmbeddings: Math.max(config.maxPositionEmbeddings, context),
  };
}

/** @throws RangeError for the first setting that makes no sense, with its place */
export function checkSettings(settings: RunSettings, config: ModelConfig): void {
  const [problem] = problemsOf(settingsSchema, settings);
  if (problem !== undefined) throw new RangeError(problem);
  for (const [i, phase] of phasesOf(settings).entries()) {
    const where = i === 0 ? "" : `laterPhases[${i - 1}].`;
    const { ramp, accumulate, length } = phase;
    if (ramp && ramp.from > accumulate) {
      throw new RangeError(
        `${where}ramp starts with ${ramp.from} batches, more than the ${accumulate} (accumulate) it grows to`,
      );
    }
    const { maxPositionEmbeddings } = phaseConfig(config, settings, phase);
    if (length > maxPositionEmbeddings) {
      throw new RangeError(
        `${where}length ${length} is over the model's maxPositionEmbeddings of ${maxPositionEmbeddings}; yarn in the phase stretches it`,
      );
    }
  }
}

/**
 * Reads phases from parsed JSON: one record or a list. A phase takes what it leaves out from the one
 * before it, `before` for the first, but for `steps`, `learningRate` and `ramp`, which each has of its
 * own. A number stands for a constant learning rate.
 * @param file named in errors
 * @throws Error with file and field for what is missing, unknown or of a wrong kind
 */
export function parsePhases(json: unknown, before: Phase, file: string): Phase[] {
  const list = Array.isArray(json) ? json : [json];
  if (list.length === 0) throw new Error(`${file}: an empty list, but expected one phase or more`);
  const phases: Phase[] = [];
  for (const [i, given] of list.entries()) {
    const where = Array.isArray(json) ? `${file}: [${i}]` : file;
    if (given === null || typeof given !== "object" || Array.isArray(given)) {
      throw new Error(`${where}: expected a phase, a record with steps and learningRate`);
    }
    const { batch, length, accumulate, biasSpeed, mtpWeight, balanceWeight, yarn } =
      phases.at(-1) ?? before;
    const inherited = { batch, length, accumulate, biasSpeed, mtpWeight, balanceWeight };
    const rate = (given as Partial<Phase>).learningRate;
    const phase = {
      ...inherited,
      ...(yarn ? { yarn } : {}),
      ...given,
      ...(typeof rate === "number"
        ? { learningRate: [{ shape: "constant", steps: 0, to: rate }] }
        : {}),
    };
    const [problem] = problemsOf(phaseSchema, phase);
    if (problem !== undefined) throw new Error(`${where}: ${problem}`);
    phases.push(phase as Phase);
  }
  return phases;
}
