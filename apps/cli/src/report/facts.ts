/** What a report says in figures, whatever it is written in. */
import { countParameters } from "@dsv3/model";
import type { Machine } from "../runs/machine.ts";
import { mainMetric } from "../runs/series.ts";
import { formatBytes, formatCount, formatDuration, formatNumber } from "../ui/format.ts";
import type { EvaluationRow } from "./evaluations.ts";
import type { Loads, RunData } from "./run-data.ts";

export type Fact = readonly [name: string, value: string];

export function summary({ series, record, totals }: RunData): Fact[] {
  const { steps, plannedSteps } = totals;
  const main = mainMetric(series.names);
  const measured = [...series.names].filter((name) => name.startsWith("evaluation/"));
  return [
    ["steps", plannedSteps === undefined ? `${steps}` : `${steps} of ${plannedSteps}`],
    ...known("tokens", totals.tokens, formatCount),
    ...(main ? known(main, series.last(main), formatNumber) : []),
    ...measured.flatMap((name) =>
      known(name.slice("evaluation/".length), series.last(name), formatNumber),
    ),
    ...parameters(record?.config),
  ];
}

/** Absent for a configuration that is damaged. */
function parameters(config: Parameters<typeof countParameters>[0] | undefined): Fact[] {
  if (config === undefined) return [];
  try {
    const { total, active } = countParameters(config);
    return [["parameters", `${formatCount(total)}, ${formatCount(active)} active`]];
  } catch {
    return [];
  }
}

export function cost({ totals, machine }: RunData, pricePerHour: number | undefined): Fact[] {
  const { seconds, tokens, flops, peakBytes } = totals;
  const rate = (amount: number | undefined) =>
    amount !== undefined && seconds ? amount / seconds : undefined;
  return [
    ...known("time of training", seconds, formatDuration),
    ...known("tokens", tokens, formatCount),
    ...known("tokens per second", rate(tokens), formatCount),
    ...known("operations", flops, (n) => `${n.toExponential(2).replace("e+", "e")} FLOP`),
    ...known("operations per second", rate(flops), (n) => `${formatNumber(n / 1e9)} GFLOP/s`),
    ...known("memory of tensors, at most", peakBytes, formatBytes),
    ...known(
      "price",
      seconds !== undefined && pricePerHour !== undefined
        ? (seconds / 3600) * pricePerHour
        : undefined,
      (price) => `${price.toFixed(2)} at ${pricePerHour} an hour`,
    ),
    ...place(machine),
  ];
}

function place(machine: Machine | undefined): Fact[] {
  if (machine === undefined) return [["machine", "not noted"]];
  const { backend, processor, cores, memoryBytes, system, node } = machine;
  return [
    ["machine", `${processor}, ${cores} cores, ${formatBytes(memoryBytes)}`],
    ["backend", backend],
    ["system", `${system}, Node ${node}`],
  ];
}

function known(name: string, value: number | undefined, format: (n: number) => string): Fact[] {
  return value === undefined ? [] : [[name, format(value)]];
}

/** Every setting by its path: `settings.batch`, `config.hiddenSize`. */
export function configuration({ record }: RunData): Fact[] {
  return record === undefined ? [] : flat("", record);
}

function flat(path: string, value: unknown): Fact[] {
  if (typeof value !== "object" || value === null) return [[path, String(value)]];
  const entries = Object.entries(value);
  if (entries.length === 0) return [[path, Array.isArray(value) ? "none" : "{}"]];
  return entries.flatMap(([name, inner]) => flat(path === "" ? name : `${path}.${name}`, inner));
}

/** Titles of an evaluation table, and its cells. */
export const EVALUATION_TITLES = ["task", "metric", "filter", "shots", "value", "± error"] as const;

export function evaluationCells(row: EvaluationRow): string[] {
  const { task, metric, filter, shots, value, error } = row;
  return [
    ...[task, metric, filter === "none" ? "" : filter, shots === undefined ? "" : `${shots}`],
    Math.abs(value) < 1000 ? value.toFixed(4) : formatNumber(value),
    error === undefined ? "" : error.toFixed(4),
  ];
}

/** The load of each expert over the mean of its layer, over the last tenth of the run. */
export function finalLoads(all: readonly Loads[]): number[][] {
  const layers = all.at(-1)?.loads ?? [];
  const last = all
    .slice(-Math.ceil(all.length / 10))
    .filter(({ loads }) => loads.every((layer, i) => layer.length === layers[i]?.length));
  return layers.map((experts, layer) => {
    const sums = experts.map((_, expert) =>
      last.reduce((sum, { loads }) => sum + (loads[layer]?.[expert] ?? 0), 0),
    );
    return overMean(sums);
  });
}

/** For every layer, by how much the busiest expert is over the mean, along the run: 0 for even loads. */
export function excessOverTime(all: readonly Loads[]): number[][] {
  const layers = all.at(-1)?.loads ?? [];
  return layers.map((_, layer) =>
    all.map(({ loads }) => overMean(loads[layer] ?? []).reduce((a, b) => Math.max(a, b), 1) - 1),
  );
}

function overMean(loads: readonly number[]): number[] {
  const mean = loads.reduce((a, b) => a + b, 0) / loads.length;
  return loads.map((load) => (mean > 0 ? load / mean : 0));
}
