/** How a run goes, as lines for a terminal of a given size. */
import type { ExpertLoads } from "@dsv3/train";
import { mainMetric, type Series } from "../runs/series.ts";
import { brailleChart } from "./chart.ts";
import {
  displayWidth,
  formatBytes,
  formatCount,
  formatDuration,
  formatNumber,
  truncate,
} from "./format.ts";
import type { Pace } from "./pace.ts";
import { percent, progressBar } from "./progress.ts";
import type { styler } from "./style.ts";

export interface PanelState {
  readonly label: string;
  readonly done: number;
  readonly total: number;
  readonly series: Series;
  readonly loads: ExpertLoads;
  readonly pace: Pace;
}

export interface PanelSize {
  readonly columns: number;
  readonly rows: number;
}

/** A terminal smaller than this shows a line instead. */
export const LEAST: PanelSize = { columns: 40, rows: 12 };

/** Lines of the curve, at most. */
const CURVE_ROWS = 9;
const MOST_LAYERS = 4;
const FACT_LINES = 2;

/** Lines that a terminal of the size holds, none of them as wide as it is. */
export function panelLines(
  state: PanelState,
  { columns, rows }: PanelSize,
  style: ReturnType<typeof styler>,
): string[] {
  // One column stays free: some terminals wrap when the last one is written.
  const width = Math.min(columns - 1, 160);
  const experts = expertLines(state.loads, width, rows >= 20 ? MOST_LAYERS : 1);
  const facts = flow(factsOf(state), width).slice(0, FACT_LINES);
  const others = 2 + facts.length + experts.length;
  const curve = Math.min(CURVE_ROWS, Math.max(3, rows - 2 - others));
  return [
    headOf(state, width),
    ...curveOf(state.series, width, curve).map((line) => style("cyan", line)),
    ...facts,
    ...experts.map((line) => style("dim", line)),
  ];
}

function headOf({ label, done, total, pace }: PanelState, width: number): string {
  const left = pace.secondsFor(total - done);
  const parts = [
    percent(done, total).trim(),
    ...(Number.isNaN(left) || done >= total ? [] : [`${formatDuration(left)} left`]),
    `step ${done}/${total}`,
  ];
  const room = width - displayWidth([label, "", ...parts].join("  "));
  const bar = room >= LEAST_BAR ? [progressBar(done, total, Math.min(room, 24))] : [];
  return truncate([label, ...bar, ...parts].join("  "), width);
}

const LEAST_BAR = 6;

function curveOf(series: Series, columns: number, rows: number): string[] {
  const main = mainMetric(series.names);
  const points = series.points.flatMap(({ step, values }) => {
    const spread = main === undefined ? undefined : values.get(main);
    return spread ? [[step, spread.mean] as const] : [];
  });
  return brailleChart(withoutStart(points), { columns, rows });
}

/** Held within what came after the first tenth: the first steps would leave no height for the others. */
function withoutStart(points: readonly (readonly [number, number])[]) {
  if (points.length < CLIPPED_FROM) return points;
  const later = points.slice(points.length / 10).map(([, y]) => y);
  const least = later.reduce((a, b) => Math.min(a, b));
  const greatest = later.reduce((a, b) => Math.max(a, b));
  return points.map(([x, y]) => [x, Math.min(Math.max(y, least), greatest)] as const);
}

const CLIPPED_FROM = 40;

/** Metrics that are shown, in this order, and how; the names of others are long and their values many. */
const SHOWN: readonly (readonly [metric: string, name: string, format: (n: number) => string])[] = [
  ["reward", "reward", formatNumber],
  ["mainLoss", "loss", formatNumber],
  ["learningRate", "learning rate", formatNumber],
  ["gradNorm", "gradient norm", formatNumber],
  ["expertLoad", "busiest expert", (n) => `${n.toFixed(2)}× the mean`],
  ["kl", "KL", formatNumber],
  ["entropy", "entropy", formatNumber],
  ["completions/mean_length", "length of answers", formatNumber],
  ["modelFlopsPerSecond", "computing", (n) => `${formatNumber(n / 1e9)} GFLOP/s`],
  ["peakBytes", "memory", formatBytes],
];

function factsOf({ series, pace }: PanelState): string[] {
  const facts = SHOWN.flatMap(([metric, name, format]) => {
    const value = series.last(metric);
    return value === undefined ? [] : [`${name} ${format(value)}`];
  });
  if (pace.tokenRate > 0) facts.splice(2, 0, `${formatCount(pace.tokenRate)} tokens/s`);
  const measured = [...series.names].flatMap((name) =>
    name.startsWith("evaluation/")
      ? [`${name.slice("evaluation/".length)} ${formatNumber(series.last(name) ?? Number.NaN)}`]
      : [],
  );
  return [...facts, ...measured];
}

/** As many on a line as it holds. */
function flow(parts: readonly string[], width: number): string[] {
  const lines: string[] = [];
  for (const part of parts) {
    const joined = `${lines.at(-1)} · ${part}`;
    if (lines.length > 0 && displayWidth(joined) <= width) lines[lines.length - 1] = joined;
    else lines.push(truncate(part, width));
  }
  return lines;
}

const LEVELS = "▁▂▃▄▅▆▇█";

/**
 * A row of bars for a layer: the load of each expert, or of neighbours together where there are more
 * of them than columns; half height is the mean. Of many layers, those with the busiest experts.
 */
function expertLines(loads: ExpertLoads, width: number, most: number): string[] {
  const layers = loads.flatMap((experts, i) => {
    const mean = experts.reduce((a, b) => a + b, 0) / experts.length;
    const relative = experts.map((load) => (mean > 0 ? load / mean : 0));
    const busiest = relative.reduce((a, b) => Math.max(a, b), 0);
    return mean > 0 ? [{ number: i + 1, relative, busiest }] : [];
  });
  return layers
    .toSorted((a, b) => b.busiest - a.busiest)
    .slice(0, most)
    .toSorted((a, b) => a.number - b.number)
    .map(({ number, relative, busiest }) => {
      const [title, end] = [`experts ${String(number).padStart(2)} `, ` ${busiest.toFixed(2)}×`];
      const each = Math.ceil(relative.length / (width - title.length - end.length));
      const bars = Array.from({ length: Math.ceil(relative.length / each) }, (_, i) => {
        const greatest = relative.slice(i * each, (i + 1) * each).reduce((a, b) => Math.max(a, b));
        return LEVELS[Math.min(7, Math.floor(greatest * 4))];
      });
      return `${title}${bars.join("")}${end}`;
    });
}
