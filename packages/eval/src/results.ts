/** Results in the layout of lm-evaluation-harness, so that its readers read them. */
import { groupScore } from "./metrics.ts";
import type { Task } from "./task.ts";
import type { TaskGroup } from "./tasks/group.ts";

export interface MetricScore {
  readonly name: string;
  readonly filter: string;
  readonly higherIsBetter: boolean;
  readonly value: number;
  readonly stderr: number | null;
}

/** What came of one task. */
export interface TaskScores {
  readonly task: Task;
  /** Documents of its split, and how many of them were scored. */
  readonly original: number;
  readonly effective: number;
  readonly fewShot: number;
  readonly metrics: readonly MetricScore[];
}

/** Scores by `metric,filter`, and their errors by `metric_stderr,filter`: "N/A" where none is known. */
export type ScoreTable = Readonly<Record<string, number | string>>;

export interface EvalResults {
  /** By task, and by group. */
  readonly results: Readonly<Record<string, ScoreTable>>;
  readonly groups?: Readonly<Record<string, ScoreTable>>;
  readonly group_subtasks: Readonly<Record<string, readonly string[]>>;
  readonly configs: Readonly<Record<string, object>>;
  readonly versions: Readonly<Record<string, number>>;
  readonly "n-shot": Readonly<Record<string, number>>;
  readonly higher_is_better: Readonly<Record<string, Readonly<Record<string, boolean>>>>;
  readonly "n-samples": Readonly<Record<string, { original: number; effective: number }>>;
  readonly config: { readonly limit: number | null };
  /** Seconds since 1970. */
  readonly date: number;
  readonly total_evaluation_time_seconds: string;
}

const named = <T>(list: readonly T[], entry: (one: T) => readonly [string, unknown]) =>
  Object.fromEntries(list.map(entry));

export function harnessResults(
  scores: readonly TaskScores[],
  groups: readonly TaskGroup[],
  { limit, seconds }: { limit?: number; seconds: number },
): EvalResults {
  const tasks = scores.map(({ task }) => task);
  const grouped = named(groups, (group) => [group.name, groupTable(group, scores)]);
  return {
    results: {
      ...named(scores, ({ task, metrics }) => [task.name, table(task.name, metrics)]),
      ...grouped,
    } as EvalResults["results"],
    ...(groups.length > 0 ? { groups: grouped as EvalResults["results"] } : {}),
    group_subtasks: named(groups, ({ name, members }) => [
      name,
      members,
    ]) as EvalResults["group_subtasks"],
    configs: named(scores, (one) => [one.task.name, taskConfig(one)]) as EvalResults["configs"],
    versions: named([...tasks, ...groups], ({ name, version }) => [
      name,
      version,
    ]) as EvalResults["versions"],
    "n-shot": named(scores, ({ task, fewShot }) => [task.name, fewShot]) as EvalResults["n-shot"],
    higher_is_better: named(scores, ({ task, metrics }) => [
      task.name,
      named(metrics, ({ name, higherIsBetter }) => [name, higherIsBetter]),
    ]) as EvalResults["higher_is_better"],
    "n-samples": named(scores, ({ task, original, effective }) => [
      task.name,
      { original, effective },
    ]) as EvalResults["n-samples"],
    config: { limit: limit ?? null },
    date: Date.now() / 1000,
    total_evaluation_time_seconds: String(seconds),
  };
}

function table(alias: string, metrics: readonly Omit<MetricScore, "higherIsBetter">[]): ScoreTable {
  const cells = metrics.flatMap(({ name, filter, value, stderr }) => [
    [`${name},${filter}`, value],
    [`${name}_stderr,${filter}`, stderr ?? "N/A"],
  ]);
  return { alias, ...Object.fromEntries(cells) };
}

/** Every metric that all members have. */
function groupTable(
  { name, members, bySize }: TaskGroup,
  scores: readonly TaskScores[],
): ScoreTable {
  const parts = scores.filter(({ task }) => members.includes(task.name));
  const [first] = parts;
  const metrics = (first?.metrics ?? []).flatMap(({ name, filter }) => {
    const same = parts.flatMap(({ metrics, effective }) =>
      metrics
        .filter((one) => one.name === name && one.filter === filter)
        .map(({ value, stderr }) => ({ value, stderr, size: effective })),
    );
    return same.length === parts.length ? [{ name, filter, ...groupScore(same, bySize) }] : [];
  });
  return table(name, metrics);
}

function taskConfig({ task, fewShot }: TaskScores): object {
  const { name, kind, dataset, split, description, version } = task;
  return {
    task: name,
    dataset_path: dataset.path,
    ...(dataset.config === undefined ? {} : { dataset_name: dataset.config }),
    output_type: kind,
    test_split: split,
    ...(task.fewShot
      ? { fewshot_split: task.fewShot.split, fewshot_config: { sampler: task.fewShot.sampler } }
      : {}),
    ...(description === undefined ? {} : { description }),
    num_fewshot: fewShot,
    fewshot_delimiter: "\n\n",
    target_delimiter: " ",
    metadata: { version },
  };
}
