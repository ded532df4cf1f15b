/** Learning rates by step: linear, constant and cosine pieces one after another. */
import { z } from "zod";
import { weight, whole } from "./schema.ts";

/** A piece of a schedule: from `from` (where the piece before ended, unless told) to `to`. */
export interface Piece {
  readonly shape: "constant" | "linear" | "cosine";
  /** Optimiser steps that the piece lasts; the last piece lasts for ever. */
  readonly steps: number;
  readonly to: number;
  readonly from?: number;
}

export type Schedule = readonly Piece[];

/** The value at a step (0 is the first). */
export function scheduled(schedule: Schedule, step: number): number {
  let start = 0;
  let before = 0;
  for (const piece of schedule) {
    const from = piece.from ?? before;
    if (step < start + piece.steps) {
      // The first step of a warm-up already moves: its value is one part of the way.
      const share = (step - start + 1) / piece.steps;
      if (piece.shape === "constant") return piece.to;
      if (piece.shape === "linear") return from + (piece.to - from) * share;
      return piece.to + (from - piece.to) * 0.5 * (1 + Math.cos(Math.PI * share));
    }
    start += piece.steps;
    before = piece.to;
  }
  return before;
}

/** Every piece in order; at least one. */
export const scheduleSchema: z.ZodType = z
  .array(
    z.strictObject({
      shape: z.enum(["constant", "linear", "cosine"]),
      steps: whole(0),
      to: weight,
      from: weight.optional(),
    }),
    "should be a list of pieces, or one number",
  )
  .min(1, "has no pieces; give at least one");

/**
 * The report's shape (section 4.2) over any number of steps: linear warm-up, constant for 68%,
 * cosine to a tenth until 97%, a constant tenth until 99%, and a thirtieth to the end.
 */
export function deepseekSchedule(steps: number, peak: number, warmup: number): Schedule {
  const at = (share: number) => Math.max(warmup, Math.round(steps * share));
  return [
    { shape: "linear", steps: warmup, to: peak },
    { shape: "constant", steps: at(0.68) - warmup, to: peak },
    { shape: "cosine", steps: at(0.97) - at(0.68), to: peak / 10 },
    { shape: "constant", steps: at(0.99) - at(0.97), to: peak / 10 },
    { shape: "constant", steps: Math.max(0, steps - at(0.99)), to: (peak * 7.3) / 220 },
  ];
}

/**
 * Sequences per step while the batch grows linearly over `rampSteps` (section 4.2: 3072 to 15360),
 * in multiples of `multiple`.
 */
export function batchRamp(
  from: number,
  to: number,
  rampSteps: number,
  multiple = 1,
): (step: number) => number {
  return (step) => {
    const share = rampSteps === 0 ? 1 : Math.min(1, step / rampSteps);
    return Math.max(multiple, Math.floor((from + (to - from) * share) / multiple) * multiple);
  };
}

/** The report's shape for supervised fine-tuning (section 5.1): one cosine, 5e-6 to 1e-6. */
export function sftSchedule(steps: number, from = 5e-6, to = 1e-6): Schedule {
  return [{ shape: "cosine", steps, from, to }];
}
