/** What all experiments share: their flags, runs that can be resumed, and how results are told. */
import { existsSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { cudaAvailable, cudaBackend } from "@dsv3/backend-cuda";
import { wasmBackend } from "@dsv3/backend-wasm";
import { countParameters, type ModelConfig, type Precision } from "@dsv3/model";
import { type Backend, disposeTree, setBackend } from "@dsv3/tensor";
import {
  type Evaluate,
  type RowSource,
  type RunMetrics,
  type RunSettings,
  totalSteps,
  train,
} from "@dsv3/train";

export interface Options {
  readonly backend: "cuda" | "wasm";
  /** Where runs, curves and results go. Runs that are there go on, or are taken as they are. */
  readonly out: string;
  readonly text: readonly string[];
  /** A minute on a processor: to see that everything works. */
  readonly quick: boolean;
  readonly steps: number | undefined;
  readonly seed: number;
  readonly precision: Precision;
}

export interface Experiment {
  readonly name: string;
  /** Trains what is compared and returns the table's rows; the first names the columns. */
  run(options: Options): Promise<readonly (readonly string[])[]>;
}

/** Runs an experiment as a program: flags from `argv`, a table at the end. */
export async function main(experiment: Experiment, argv = process.argv.slice(2)): Promise<void> {
  const { values } = parseArgs({
    args: argv,
    options: {
      backend: { type: "string", default: "auto" },
      out: { type: "string", default: `runs/experiments/${experiment.name}` },
      text: { type: "string", default: "" },
      quick: { type: "boolean", default: false },
      steps: { type: "string" },
      seed: { type: "string", default: "1" },
      precision: { type: "string" },
    },
  });
  const choice = values.backend === "auto" ? (cudaAvailable() ? "cuda" : "wasm") : values.backend;
  if (choice !== "cuda" && choice !== "wasm") {
    throw new Error(`--backend is "${choice}"; expected cuda, wasm or auto`);
  }
  const precision = values.precision ?? (choice === "cuda" ? "bf16" : "f32");
  if (precision !== "bf16" && precision !== "f32" && precision !== "fp8") {
    throw new Error(`--precision is "${precision}"; expected f32, bf16 or fp8`);
  }
  const options: Options = {
    backend: choice,
    out: values.out,
    text: values.text === "" ? [] : values.text.split(","),
    quick: values.quick,
    steps: values.steps === undefined ? undefined : whole(values.steps, "--steps"),
    seed: whole(values.seed, "--seed"),
    precision,
  };
  const backend: Backend = choice === "cuda" ? await cudaBackend() : await wasmBackend();
  const began = performance.now();
  try {
    setBackend(backend);
    await mkdir(options.out, { recursive: true });
    const rows = await experiment.run(options);
    const seconds = ((performance.now() - began) / 1000).toFixed(0);
    console.log(`\n${experiment.name} on ${backend.name}, ${precision}, ${seconds} s\n`);
    console.log(markdown(rows));
  } finally {
    backend.dispose();
  }
}

function whole(text: string, flag: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new Error(`${flag} is "${text}"; expected a whole number of 1 or more`);
  }
  return value;
}

/** One of the models or recipes that an experiment compares. */
export interface Variant {
  readonly name: string;
  readonly config: ModelConfig;
  readonly settings: RunSettings;
}

export interface Outcome {
  readonly name: string;
  readonly parameters: number;
  readonly active: number;
  readonly tokens: number;
  readonly seconds: number;
  readonly tokensPerSecond: number;
  readonly curve: readonly RunMetrics[];
}

/** Trains into OUT/NAME, going on with what is there, and writes the curve to OUT/NAME.json. */
export async function trainVariant(
  { name, config, settings }: Variant,
  { out, precision }: Options,
  data: RowSource,
  evaluate: Evaluate,
): Promise<Outcome> {
  const run = join(out, name);
  let shown = 0;
  const steps = totalSteps(settings);
  const result = await train(run, config, { ...settings, computeDtype: precision }, data, {
    resume: existsSync(join(run, "run.json")),
    evaluate,
    onWarning: (message) => console.log(`${name}: warning: ${message}`),
    onStep(m) {
      const now = performance.now();
      if (now - shown < 5000 && m.evaluation === undefined && m.step !== steps) return;
      shown = now;
      const measured = Object.entries(m.evaluation ?? {}).map(
        ([what, value]) => `, ${what} ${value.toFixed(4)}`,
      );
      console.log(
        `${name}: step ${m.step}/${steps}, loss ${m.mainLoss.toFixed(4)}${measured.join("")}, ` +
          `${Math.round(m.tokensPerSecond).toLocaleString("en")} tokens/s`,
      );
    },
  });
  disposeTree([result.params, result.ema]);
  const curve = (await readFile(join(run, "metrics.jsonl"), "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as RunMetrics);
  const { total, active } = countParameters(config);
  const [first, last] = [curve[0], curve.at(-1)] as [RunMetrics, RunMetrics];
  const outcome: Outcome = {
    ...{ name, parameters: total, active, tokens: last.tokens, seconds: last.seconds, curve },
    // The first step compiled the program.
    tokensPerSecond: (last.tokens - first.tokens) / (last.seconds - first.seconds),
  };
  await writeFile(join(out, `${name}.json`), JSON.stringify({ ...outcome, config, settings }));
  return outcome;
}

/** A measurement of the last evaluation. */
export function final(outcome: Outcome, what: string): number {
  return evaluations(outcome, what).at(-1)?.[1] ?? Number.NaN;
}

/** [step, value] of every evaluation. */
export function evaluations(outcome: Outcome, what: string): [step: number, value: number][] {
  return outcome.curve.flatMap(({ step, evaluation }) =>
    evaluation?.[what] === undefined ? [] : [[step, evaluation[what]] as [number, number]],
  );
}

/** Mean of a metric over the last tenth of the steps, which single steps are too noisy for. */
export function settled(outcome: Outcome, metric: "mainLoss" | "mtpLoss" | "expertLoad"): number {
  const tail = outcome.curve.slice(Math.floor(0.9 * outcome.curve.length));
  return tail.reduce((sum, m) => sum + m[metric], 0) / tail.length;
}

/** What every table says of a run. */
export const SIZES = ["run", "parameters", "active", "tokens", "tokens/s"] as const;

export function sizes(o: Outcome): string[] {
  const millions = (n: number) => `${(n / 1e6).toFixed(1)}M`;
  const rate = Math.round(o.tokensPerSecond).toLocaleString("en");
  return [o.name, millions(o.parameters), millions(o.active), millions(o.tokens), rate];
}

/** A table, its first row the head. */
export function markdown([head, ...rows]: readonly (readonly string[])[]): string {
  if (head === undefined) return "";
  const width = head.map((_, i) => Math.max(...[head, ...rows].map((r) => (r[i] ?? "").length)));
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, i) => cell.padEnd(width[i] as number)).join(" | ")} |`;
  return [line(head), line(width.map((w) => "-".repeat(w))), ...rows.map(line)].join("\n");
}
