/** The settings of a run from the flags of `dsv3 train`. */
import { readFile } from "node:fs/promises";
import {
  deepseekPhases,
  deepseekSchedule,
  type Phase,
  parsePhases,
  type RunSettings,
} from "@dsv3/train";
import { UsageError } from "../errors.ts";

/** Values of the flags of `dsv3 train` that say how it trains. */
export interface HowArgs {
  readonly phase: string | undefined;
  readonly tokens: number | undefined;
  readonly steps: number;
  readonly batch: number;
  readonly length: number;
  readonly accumulate: number;
  readonly rampFrom: number | undefined;
  readonly rampSteps: number | undefined;
  readonly learningRate: number;
  readonly warmUp: number;
  readonly biasSpeed: number;
  readonly mtpWeight: number;
  readonly balanceWeight: number;
  readonly moments: "f32" | "bf16";
  readonly precision: "f32" | "bf16" | "fp8";
  readonly remat: boolean;
  readonly dropout: number;
  readonly ema: number | undefined;
  readonly seed: number;
  readonly checkpointEvery: number;
  readonly keep: number;
}

/** The settings that the flags ask for. @throws UsageError for flags that contradict each other */
export async function settingsOf(args: HowArgs): Promise<RunSettings> {
  if ((args.rampFrom === undefined) !== (args.rampSteps === undefined)) {
    throw new UsageError("--ramp-from and --ramp-steps belong together");
  }
  if (args.phase !== undefined && args.tokens !== undefined) {
    throw new UsageError("--phase and --tokens both say what the phases are; give one");
  }
  const [first, ...laterPhases] = await phases(args);
  return {
    ...(first as Phase),
    ...(laterPhases.length > 0 ? { laterPhases } : {}),
    momentDtype: args.moments,
    ...(args.precision === "f32" ? {} : { computeDtype: args.precision }),
    ...(args.remat ? { remat: true } : {}),
    ...(args.dropout > 0 ? { dropout: args.dropout } : {}),
    ...(args.ema === undefined ? {} : { emaDecay: args.ema }),
    seed: args.seed,
    checkpointEvery: args.checkpointEvery,
    keepCheckpoints: args.keep,
  };
}

async function phases(args: HowArgs): Promise<Phase[]> {
  const { steps, warmUp, batch, length, accumulate, rampFrom, rampSteps, learningRate } = args;
  if (args.tokens !== undefined) {
    return deepseekPhases({
      ...{ tokens: args.tokens, batch, length, accumulate, learningRate, warmUp },
    });
  }
  let before: Phase = {
    ...{ steps, batch, length, accumulate },
    ...(rampFrom !== undefined && rampSteps !== undefined
      ? { ramp: { from: rampFrom, steps: rampSteps } }
      : {}),
    learningRate: deepseekSchedule(steps, learningRate, Math.min(warmUp, steps)),
    biasSpeed: args.biasSpeed,
    mtpWeight: args.mtpWeight,
    balanceWeight: args.balanceWeight,
  };
  if (args.phase === undefined) return [before];
  const all: Phase[] = [];
  for (const file of args.phase.split(",")) {
    all.push(...parsePhases(await readJson(file), before, file));
    before = all.at(-1) as Phase;
  }
  return all;
}

/** @throws Error naming a file that is not there or holds no JSON */
export async function readJson(file: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (cause) {
    throw new Error(`cannot read ${file}`, { cause });
  }
}
