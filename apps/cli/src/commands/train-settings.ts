/** The settings of a run from the flags of `dsv3 train`. */
import { readFile } from "node:fs/promises";
import {
  deepseekPhases,
  deepseekSchedule,
  type Phase,
  parsePhases,
  type RunSettings,
  sizedRecipe,
} from "@dsv3/train";
import { UsageError } from "../errors.ts";

/** Values of the flags of `dsv3 train` that say how it trains. */
export interface HowArgs {
  readonly size: number | undefined;
  readonly phase: string | undefined;
  readonly tokens: number | undefined;
  readonly extend: string | undefined;
  readonly extendSteps: number;
  readonly steps: number | undefined;
  readonly batch: number | undefined;
  readonly length: number | undefined;
  readonly accumulate: number;
  readonly rampFrom: number | undefined;
  readonly rampSteps: number | undefined;
  readonly learningRate: number | undefined;
  readonly warmUp: number | undefined;
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
  const plans = [args.phase, args.tokens, args.steps].filter((plan) => plan !== undefined);
  if (plans.length > 1) {
    throw new UsageError("--phase, --tokens and --steps all say how long the run is; give one");
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

/** What is trained unless the flags say something else, without `--size`. */
const USUAL = { steps: 1000, batch: 8, length: 128, learningRate: 2e-3, warmUp: 25 };

async function phases(args: HowArgs): Promise<Phase[]> {
  const { accumulate, rampFrom, rampSteps } = args;
  const sized = args.size === undefined ? undefined : sizedRecipe(args.size, args.tokens);
  const usual = sized ? { ...sized, batch: Math.ceil(sized.batch / accumulate) } : USUAL;
  const batch = args.batch ?? usual.batch;
  const length = args.length ?? usual.length;
  const learningRate = args.learningRate ?? usual.learningRate;
  const tokens = args.tokens ?? (args.steps === undefined ? sized?.tokens : undefined);
  const warmUp = args.warmUp ?? (sized ? undefined : USUAL.warmUp);
  if (tokens !== undefined && args.phase === undefined) {
    const sizes = { tokens, batch, length, accumulate, learningRate };
    const extend = longerContexts(args, length);
    return deepseekPhases({ ...sizes, extend, ...(warmUp === undefined ? {} : { warmUp }) });
  }
  if (args.extend !== undefined) {
    throw new UsageError("--extend goes with --tokens or --size; phase files have yarn instead");
  }
  const steps = args.steps ?? USUAL.steps;
  let before: Phase = {
    ...{ steps, batch, length, accumulate },
    ...(rampFrom !== undefined && rampSteps !== undefined
      ? { ramp: { from: rampFrom, steps: rampSteps } }
      : {}),
    learningRate: deepseekSchedule(steps, learningRate, Math.min(warmUp ?? 100, steps)),
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

/** The lengths of `--extend`, each longer than the one before. */
function longerContexts({ extend, extendSteps }: HowArgs, length: number) {
  if (extend === undefined) return [];
  let before = length;
  return extend.split(",").map((text) => {
    const longer = Number(text);
    if (!Number.isSafeInteger(longer) || longer <= before) {
      throw new UsageError(
        `--extend is "${extend}", but must be whole numbers above ${length}, each above the one before`,
      );
    }
    before = longer;
    return { length: longer, steps: extendSteps };
  });
}

/** @throws Error naming a file that is not there or holds no JSON */
export async function readJson(file: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (cause) {
    throw new Error(`cannot read ${file}`, { cause });
  }
}
