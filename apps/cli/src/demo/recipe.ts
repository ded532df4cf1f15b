/** How the demo trains: all that was tuned, in one place. */
import { type ModelConfig, preset } from "@dsv3/model";
import type { RunSettings } from "@dsv3/train";

/** Special tokens, bytes and merges. */
export const VOCABULARY = 4096;
export const MODEL: ModelConfig = preset("demo");

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

/** Tokens that measure bits per byte: 40 batches of 8 × 128. */
export const HELD_OUT = { batches: 40, batch: 8, length: 128 } as const;

export const PROMPTS: readonly string[] = [
  "Fellow-citizens of the Senate and House of Representatives:",
  "The people of the United States",
  "The whale",
];
