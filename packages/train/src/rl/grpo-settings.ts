/** What a run of reinforcement learning is told. */
import { z } from "zod";
import { type Schedule, scheduleSchema } from "../schedule.ts";
import { problemsOf, weight, whole } from "../schema.ts";
import { GRPO_FORMS, type GrpoForm } from "./grpo-loss.ts";

export interface GrpoSettings {
  /** Times that outputs are drawn and learnt from. */
  readonly steps: number;
  /** Questions of a step, and outputs to each (G). */
  readonly questions: number;
  readonly group: number;
  /** Most tokens of an output. */
  readonly maxTokens: number;
  readonly temperature: number;
  readonly form: GrpoForm;
  /** ε below and above. */
  readonly clipLow: number;
  readonly clipHigh: number;
  /** β, the weight of the KL to the model that the run started from; 0 needs no reference. */
  readonly beta: number;
  /** Times over the outputs of a step, and updates of each time. */
  readonly epochs: number;
  readonly updates: number;
  /** Most outputs that go through the model at once; more accumulate their gradients. */
  readonly batch: number;
  /**
   * DAPO's dynamic sampling: groups whose rewards are all the same teach nothing, and are replaced by
   * those of other questions, drawn at most so many times in all. 1 keeps whatever comes.
   */
  readonly draws: number;
  /** DAPO's overlong filtering: outputs that were cut at `maxTokens` are not learnt from. */
  readonly dropCut: boolean;
  readonly learningRate: Schedule;
  readonly weightDecay: number;
  /** Largest global norm of the gradients. */
  readonly clip: number;
  readonly seed: number;
  readonly checkpointEvery: number;
  readonly keepCheckpoints: number;
}

/** The clipping and β of each form's own paper; the report gives none, so those of DeepSeekMath. */
export const FORM_DEFAULTS: Readonly<
  Record<GrpoForm, Pick<GrpoSettings, "clipLow" | "clipHigh" | "beta">>
> = {
  "deepseek-v3": { clipLow: 0.2, clipHigh: 0.2, beta: 0.04 },
  "deepseek-math": { clipLow: 0.2, clipHigh: 0.2, beta: 0.04 },
  dapo: { clipLow: 0.2, clipHigh: 0.28, beta: 0 },
  "dr-grpo": { clipLow: 0.2, clipHigh: 0.2, beta: 0 },
  gspo: { clipLow: 3e-4, clipHigh: 4e-4, beta: 0 },
};

const positive = weight.refine((n) => n > 0, { error: () => "should be a number above 0" });

const schema = z.strictObject({
  steps: whole(1),
  questions: whole(1),
  group: whole(2),
  maxTokens: whole(1),
  temperature: positive,
  form: z.enum(GRPO_FORMS),
  clipLow: weight,
  clipHigh: weight,
  beta: weight,
  epochs: whole(1),
  updates: whole(1),
  batch: whole(1),
  draws: whole(1),
  dropCut: z.boolean(),
  learningRate: scheduleSchema,
  weightDecay: weight,
  clip: positive,
  seed: whole(0),
  checkpointEvery: whole(1),
  keepCheckpoints: whole(1),
});

/** @throws RangeError for the first setting that makes no sense, with its place */
export function checkGrpoSettings(settings: GrpoSettings): void {
  const [problem] = problemsOf(schema, settings);
  if (problem !== undefined) throw new RangeError(problem);
  const { updates, questions, group } = settings;
  if (updates > questions * group) {
    throw new RangeError(
      `updates is ${updates}, more than the ${questions * group} outputs of a step (questions × group)`,
    );
  }
}
