/** A run's report in Markdown, with the curve of its main metric in braille. */
import { mainMetric } from "../runs/series.ts";
import { brailleChart } from "../ui/chart.ts";
import {
  configuration,
  cost,
  EVALUATION_TITLES,
  evaluationCells,
  type Fact,
  finalLoads,
  summary,
} from "./facts.ts";
import type { RunData } from "./run-data.ts";

export function reportMarkdown(run: RunData, pricePerHour: number | undefined): string {
  const { name, series, samples, evaluations } = run;
  const main = mainMetric(series.names);
  const sections = [
    `# ${inline(name)}`,
    factTable(summary(run)),
    ...(main ? [`## Curve of ${inline(main)}`, fenced(chart(run, main).join("\n"))] : []),
    "## Metrics",
    table(["metric", "first", "least", "greatest", "last"], metricRows(run)),
    ...loads(run),
    ...(samples.length > 0 ? ["## Samples"] : []),
    ...samples.map(({ prompt, text }) => fenced(prompt + text)),
    ...(evaluations.length > 0
      ? ["## Evaluations", table(EVALUATION_TITLES, evaluations.map(evaluationCells))]
      : []),
    "## Cost",
    factTable(cost(run, pricePerHour)),
    ...(run.record ? ["## Configuration", factTable(configuration(run))] : []),
  ];
  return `${sections.join("\n\n")}\n`;
}

function chart({ series }: RunData, metric: string): string[] {
  const points = series.points.flatMap(({ step, values }) => {
    const spread = values.get(metric);
    return spread ? [[step, spread.mean] as const] : [];
  });
  return brailleChart(points, { columns: 80, rows: 12 });
}

function metricRows({ series }: RunData): string[][] {
  return [...series.names].map((name) => {
    const spreads = series.points.flatMap(({ values }) => values.get(name) ?? []);
    const least = spreads.reduce((a, { min }) => Math.min(a, min), Infinity);
    const greatest = spreads.reduce((a, { max }) => Math.max(a, max), -Infinity);
    const ends = [spreads[0]?.mean, least, greatest, spreads.at(-1)?.mean];
    return [name, ...ends.map((value) => String(Number(value?.toPrecision(5))))];
  });
}

function loads(run: RunData): string[] {
  const rows = finalLoads(run.loads).map((layer, i) => [
    `${i + 1}`,
    `${layer.length}`,
    layer.reduce((a, b) => Math.max(a, b), 0).toFixed(2),
    layer.reduce((a, b) => Math.min(a, b), Infinity).toFixed(2),
  ]);
  const titles = ["layer", "experts", "busiest over mean", "idlest over mean"];
  return rows.length > 0 ? ["## Load of the experts", table(titles, rows)] : [];
}

function factTable(facts: readonly Fact[]): string {
  return table(
    ["", ""],
    facts.map(([name, value]) => [name, value]),
  );
}

function table(titles: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.map(inline).join(" | ")} |`;
  return [line(titles), `|${" --- |".repeat(titles.length)}`, ...rows.map(line)].join("\n");
}

/** Text that stays in its cell and is no markup. */
function inline(text: string): string {
  return text.replace(/[\\`*_[\]<>|&]/g, "\\$&").replace(/\s+/g, " ");
}

/** Between fences that are longer than any in the text. */
function fenced(text: string): string {
  const longest = Math.max(2, ...Array.from(text.matchAll(/`+/g), ([run]) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text}\n${fence}`;
}
