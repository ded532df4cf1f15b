/** Everything that a run's folder tells about it. */
import { basename, join, resolve } from "node:path";
import { type RunRecord, totalSteps } from "@dsv3/train";
import { JsonLines } from "../runs/json-lines.ts";
import { jsonFile, type Machine } from "../runs/machine.ts";
import { Series } from "../runs/series.ts";
import { type EvaluationRow, evaluationRows, findEvaluations } from "./evaluations.ts";

/** What a model wrote. */
export interface Sample {
  readonly prompt: string;
  readonly text: string;
}

/** Tokens that each expert of each routed layer took in one step. */
export interface Loads {
  readonly step: number;
  readonly loads: readonly (readonly number[])[]; // [layers][experts]
}

export interface RunData {
  readonly name: string;
  readonly record: RunRecord | undefined;
  readonly machine: Machine | undefined;
  readonly series: Series;
  readonly loads: readonly Loads[];
  readonly evaluations: readonly EvaluationRow[];
  readonly samples: readonly Sample[];
  readonly totals: Totals;
}

export interface Totals {
  readonly steps: number;
  /** Of the run's settings, where it has any. */
  readonly plannedSteps: number | undefined;
  readonly tokens: number | undefined;
  readonly seconds: number | undefined;
  readonly flops: number | undefined;
  readonly peakBytes: number | undefined;
}

const POINTS = 600;

/** @throws Error when the folder holds no metrics */
export async function readRunData(dir: string): Promise<RunData> {
  const series = new Series(POINTS);
  const flops = new FlopCount();
  await new JsonLines(join(dir, "metrics.jsonl")).read(
    (line) => {
      series.add(line);
      flops.add(line);
    },
    () => {},
  );
  if (series.points.length === 0) {
    throw new Error(`${dir} holds no run with metrics: metrics.jsonl is missing or empty`);
  }
  const loads: Loads[] = [];
  await new JsonLines(join(dir, "loads.jsonl")).read(
    (line) => {
      if (isLoads(line)) loads.push(line);
    },
    () => {},
  );
  const record = asRecord(await jsonFile(join(dir, "run.json")));
  const samples = await jsonFile(join(dir, "samples.json"));
  const last = series.points.at(-1);
  return {
    name: basename(resolve(dir)),
    record,
    machine: asMachine(await jsonFile(join(dir, "machine.json"))),
    series,
    loads,
    evaluations: evaluationRows(await findEvaluations(dir)),
    samples: Array.isArray(samples) ? samples.filter(isSample) : [],
    totals: {
      steps: last?.step ?? 0,
      plannedSteps: record ? totalSteps(record.settings) : undefined,
      tokens: last?.tokens,
      seconds: last?.seconds,
      flops: flops.total > 0 ? flops.total : undefined,
      peakBytes: series.last("peakBytes"),
    },
  };
}

/** Operations of the run's steps, from their rates and how long they took. */
class FlopCount {
  total = 0;
  #seconds = 0;

  add(line: unknown): void {
    const { modelFlopsPerSecond, seconds } = (line ?? {}) as Record<string, unknown>;
    if (typeof seconds !== "number" || typeof modelFlopsPerSecond !== "number") return;
    this.total += modelFlopsPerSecond * Math.max(0, seconds - this.#seconds);
    this.#seconds = seconds;
  }
}

function isLoads(line: unknown): line is Loads {
  const { step, loads } = (line ?? {}) as Partial<Loads>;
  return (
    Number.isFinite(step) &&
    Array.isArray(loads) &&
    loads.length > 0 &&
    loads.every((layer) => Array.isArray(layer) && layer.length > 0 && layer.every(Number.isFinite))
  );
}

function isSample(value: unknown): value is Sample {
  const { prompt, text } = (value ?? {}) as Partial<Sample>;
  return typeof prompt === "string" && typeof text === "string";
}

function asRecord(value: unknown): RunRecord | undefined {
  const { settings } = (value ?? {}) as Partial<RunRecord>;
  return typeof settings?.steps === "number" ? (value as RunRecord) : undefined;
}

function asMachine(value: unknown): Machine | undefined {
  const { backend, processor } = (value ?? {}) as Partial<Machine>;
  return typeof backend === "string" && typeof processor === "string"
    ? (value as Machine)
    : undefined;
}
