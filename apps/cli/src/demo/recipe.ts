/** How the demo trains: all that was tuned, in one place. */
import { type ModelConfig, preset } from "@dsv3/model";
import { FORM_DEFAULTS, type GrpoSettings, type RunSettings } from "@dsv3/train";

/** Special tokens, bytes and merges. */
export const VOCABULARY = 4096;
export const MODEL: ModelConfig = preset("demo");

/** Steps of each part of the model's life. */
export interface Steps {
  readonly preTraining: number;
  readonly fineTuning: number;
  readonly reinforcement: number;
}

type Part = keyof Steps;

/** Steps of each part for one of pre-training, and how much longer one takes: measured on two cores. */
const SHARE: Readonly<Record<Part, number>> = {
  preTraining: 1,
  fineTuning: 0.45,
  reinforcement: 0.05,
};
const LENGTH: Readonly<Record<Part, number>> = {
  preTraining: 1,
  fineTuning: 0.6,
  reinforcement: 12,
};
const PARTS = Object.keys(SHARE) as Part[];

export function stepsFor(preTraining: number): Steps {
  const steps = (part: Part) => Math.max(2, Math.round(preTraining * SHARE[part]));
  return {
    preTraining,
    fineTuning: steps("fineTuning"),
    reinforcement: steps("reinforcement"),
  };
}

/**
 * With half as many steps of fine-tuning the model is hardly ever right, and rewards have nothing to
 * choose from. A slow machine does these too, unless they would take more than a share of the time.
 */
const LEAST_FINE_TUNING = { steps: 320, share: 0.4 } as const;

/** As many steps as fit in so many seconds, where one of pre-training takes `each`. */
export function stepsWithin(seconds: number, each: number): Steps {
  const most = LEAST_FINE_TUNING.share * (seconds / (each * LENGTH.fineTuning));
  const least = Math.min(LEAST_FINE_TUNING.steps, most);
  // Steps of pre-training, each with its share of other parts.
  const steps = (left: number, parts: readonly Part[]) =>
    left / (each * parts.reduce((sum, part) => sum + SHARE[part] * LENGTH[part], 0));
  const whole = (n: number) => Math.max(2, Math.round(n));
  const even = steps(seconds, PARTS);
  if (even * SHARE.fineTuning >= least) return stepsFor(whole(even));
  const left = seconds - least * LENGTH.fineTuning * each;
  const others = steps(left, ["preTraining", "reinforcement"]);
  return { ...stepsFor(whole(others)), fineTuning: whole(least) };
}

/** Seconds that a part should take. */
export function secondsOf(part: Part, steps: Steps, each: number): number {
  return steps[part] * LENGTH[part] * each;
}

const PEAK = 3e-3;
const WARM_UP = 25;

/**
 * Small batches and a long decay: with a few hundred thousand tokens in all, many small updates learn
 * more than few exact ones. Biases of the routers move ten times as fast as in the report, for they
 * have hundreds of steps and not 10⁵ to balance the experts.
 */
export function recipe(steps: number): RunSettings {
  const warmUp = Math.min(WARM_UP, steps);
  const constant = Math.max(0, Math.round(0.3 * steps) - warmUp);
  return {
    steps,
    batch: 4,
    length: 128,
    accumulate: 1,
    learningRate: [
      { shape: "linear", steps: warmUp, to: PEAK },
      { shape: "constant", steps: constant, to: PEAK },
      { shape: "cosine", steps: steps - warmUp - constant, to: 0.05 * PEAK },
    ],
    biasSpeed: 0.01,
    mtpWeight: 0.3,
    balanceWeight: 1e-4,
    seed: 1,
    checkpointEvery: 200,
    keepCheckpoints: 1,
  };
}

/** What it is taught to answer. */
export const TASK = "sort-letters";
/** Examples of it, of which the tokenizer sees some, so that its words and letters are tokens. */
export const EXAMPLES = 10_000;
export const TOKENIZER_EXAMPLES = 2000;
/** Most tokens of an answer; a right one has 11 at most. */
export const ANSWER_TOKENS = 16;

/**
 * Small batches again. The rate stays high to the end: the noise that this leaves in the weights goes
 * when the smaller rate of reinforcement learning follows.
 */
export function fineTuning(steps: number): RunSettings {
  const [rate, warmUp] = [2e-3, Math.min(20, steps)];
  return {
    ...{ steps, batch: 8, length: 64, accumulate: 1, seed: 1 },
    learningRate: [
      { shape: "linear", steps: warmUp, to: rate },
      { shape: "constant", steps: steps - warmUp, to: rate },
    ],
    ...{ biasSpeed: 0.01, mtpWeight: 0, balanceWeight: 1e-4 },
    ...{ checkpointEvery: 200, keepCheckpoints: 1 },
  };
}

/** DAPO's loss; at rates of 3e-4 and more the model lost what it knew. */
export function reinforcement(steps: number): GrpoSettings {
  const [rate, warmUp] = [1.5e-4, Math.min(3, steps)];
  return {
    ...{ steps, questions: 24, group: 8, maxTokens: ANSWER_TOKENS, temperature: 1 },
    ...{ form: "dapo", ...FORM_DEFAULTS.dapo, epochs: 1, updates: 1, batch: 192 },
    ...{ draws: 1, dropCut: false, weightDecay: 0, clip: 1, seed: 1 },
    learningRate: [
      { shape: "linear", steps: warmUp, to: rate },
      { shape: "constant", steps: steps - warmUp, to: rate },
    ],
    ...{ checkpointEvery: 20, keepCheckpoints: 1 },
  };
}

/** Questions of the test split that measure it. */
export const MEASURED = 256;

/** Tokens that measure bits per byte: 40 batches of 8 × 128. */
export const HELD_OUT = { batches: 40, batch: 8, length: 128 } as const;

export const PROMPTS: readonly string[] = [
  "Fellow-citizens of the Senate and House of Representatives:",
  "The people of the United States",
  "The whale",
];
