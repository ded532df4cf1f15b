/** The first part of the model's life: prose, token by token. */
import { join } from "node:path";
import { type Corpus, PackedRows } from "@dsv3/data";
import { countParameters, generate, type ModelConfig, type ModelParams } from "@dsv3/model";
import type { Tokenizer } from "@dsv3/tokenizer";
import { bitsPerByte, secondsPerStep } from "@dsv3/train";
import type { Io } from "../io.ts";
import type { Sample } from "../report/run-data.ts";
import { trainWithProgress } from "../run-view.ts";
import { HELD_OUT, PROMPTS, recipe, type Steps, secondsOf, stepsWithin } from "./recipe.ts";
import type { Outcome } from "./reporter.ts";

/** How many steps of everything, and how long one of pre-training takes where time was what was asked for. */
export interface Plan {
  readonly steps: Steps;
  readonly each?: number;
}

/** All that the parts of the demo share. */
export interface Bench {
  readonly io: Io;
  readonly folder: string;
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly corpus: Corpus;
  readonly heldOut: Corpus;
  readonly plan: Plan;
}

const DATA_SEED = 1;

export async function planned(seconds: number, config: ModelConfig, corpus: Corpus): Promise<Plan> {
  const each = await secondsPerStep(config, recipe(1), new PackedRows(corpus, DATA_SEED));
  return { steps: stepsWithin(seconds, each), each };
}

/** A machine that others use too may become slower than it was when it was measured. */
const PATIENCE = 1.4;

/** The world of one part of the demo, which ends it when it takes much longer than was planned. */
export function limited({ io, plan }: Pick<Bench, "io" | "plan">, part: keyof Steps): Io {
  const { steps, each } = plan;
  if (each === undefined) return io;
  const most = PATIENCE * secondsOf(part, steps, each);
  // Compiling takes seconds, however short the training is.
  const late = AbortSignal.timeout(Math.ceil(1000 * Math.max(10, most)));
  return { ...io, signal: AbortSignal.any([io.signal, late]) };
}

/** Trains into a run folder, and measures what it learnt. */
export async function preTrain(
  name: string,
  run: string,
  label: string,
  config: ModelConfig,
  bench: Bench,
): Promise<{ params: ModelParams; outcome: Outcome }> {
  const { io, folder, tokenizer, corpus, heldOut, plan } = bench;
  const result = await trainWithProgress(
    limited(bench, "preTraining"),
    label,
    join(folder, run),
    config,
    recipe(plan.steps.preTraining),
    new PackedRows(corpus, DATA_SEED),
    { source: "demo" },
  );
  const { params, progress, tokensPerSecond } = result;
  const rows = new PackedRows(heldOut, DATA_SEED);
  const options = { ...HELD_OUT, batches: io.signal.aborted ? 1 : HELD_OUT.batches };
  const measured = await bitsPerByte(params, config, rows, tokenizer.byteLengths, options);
  const { total, active } = countParameters(config);
  const outcome = {
    name,
    parameters: total,
    active,
    steps: progress.step,
    tokens: progress.tokens,
    tokensPerSecond,
    bitsPerByte: measured.bitsPerByte,
  };
  return { params, outcome };
}

/** How it goes on from a few beginnings. */
export async function write(
  params: ModelParams,
  config: ModelConfig,
  tokenizer: Tokenizer,
): Promise<Sample[]> {
  const prompts = PROMPTS.map((text) => Array.from(tokenizer.encode(text, { addSpecial: true })));
  const options = { maxNewTokens: 60, temperature: 0.7, topP: 0.9, seed: 1 };
  const made = await generate(params, config, prompts, options);
  return made.map((ids, i) => ({
    prompt: PROMPTS[i] as string,
    text: tokenizer.decode(ids, { skipSpecial: true }),
  }));
}
