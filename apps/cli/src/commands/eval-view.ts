/** What `dsv3 eval` shows: scores, their errors, and what others have published. */
import { type EvalResults, publishedScores } from "@dsv3/eval";
import { type Column, renderTable } from "../ui/table.ts";

const COLUMNS: readonly Column[] = [
  { title: "task" },
  { title: "n", align: "right" },
  { title: "shots", align: "right" },
  { title: "metric" },
  { title: "score", align: "right" },
  { title: "stderr", align: "right" },
];

/** Groups first among their tasks; `filter` stands beside the metric where there are several. */
export function scoreTable(results: EvalResults): string {
  const grouped = new Set(Object.values(results.group_subtasks).flat());
  const names = Object.keys(results.results);
  const order = [
    ...names.filter((name) => !grouped.has(name) && !(name in results.group_subtasks)),
    ...Object.entries(results.group_subtasks).flatMap(([group, members]) =>
      // The tasks of a group within another stand under the smaller one.
      [group, ...members.filter((member) => smallest(results, member) === group)],
    ),
  ];
  return renderTable(
    COLUMNS,
    order.flatMap((name) => rows(results, name)),
  );
}

function smallest({ group_subtasks }: EvalResults, task: string): string | undefined {
  const holding = Object.entries(group_subtasks).filter(([, members]) => members.includes(task));
  return holding.toSorted(([, a], [, b]) => a.length - b.length)[0]?.[0];
}

function rows(results: EvalResults, name: string): string[][] {
  const members = results.group_subtasks[name] ?? [name];
  const documents = members.reduce(
    (sum, member) => sum + (results["n-samples"][member]?.effective ?? 0),
    0,
  );
  const shots = results["n-shot"][members[0] ?? name];
  const scores = Object.entries(results.results[name] ?? {}).filter(
    ([key]) => key.includes(",") && !key.includes("_stderr,"),
  );
  return scores.map(([key, value], i) => {
    const [metric = "", filter = ""] = key.split(",");
    const stderr = results.results[name]?.[`${metric}_stderr,${filter}`];
    return [
      i === 0 ? name : "",
      i === 0 ? String(documents) : "",
      i === 0 ? String(shots ?? "") : "",
      filter === "none" ? metric : `${metric} (${filter})`,
      shown(value),
      typeof stderr === "number" ? `± ${shown(stderr)}` : "",
    ];
  });
}

function shown(value: number | string | undefined): string {
  if (typeof value !== "number") return String(value ?? "");
  return Math.abs(value) < 1000 ? value.toFixed(4) : value.toExponential(3);
}

/** Published figures of what was run; empty where nobody published any. */
export function publishedTable(results: EvalResults): string {
  const found = Object.keys(results.results).flatMap((name) =>
    publishedScores(name).map(({ model, percent, setting, source }) => [
      ...[name, model, percent.toFixed(1), setting, source],
    ]),
  );
  if (found.length === 0) return "";
  const columns: Column[] = [
    { title: "published" },
    { title: "model" },
    { title: "%", align: "right" },
    { title: "setting" },
    { title: "source" },
  ];
  return `\n${renderTable(columns, found)}Prompts and models of another kind: to look at, not to compare to the digit.\n`;
}
