/** Results of evaluations, as lm-evaluation-harness lays them out. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { jsonFile } from "../runs/machine.ts";

/**
 * The part of a results file that a report shows. Metrics are named `metric,filter`, their standard
 * errors `metric_stderr,filter` (lm-evaluation-harness, `results_*.json`).
 */
export interface EvaluationResults {
  readonly results: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  readonly "n-shot"?: Readonly<Record<string, unknown>>;
}

/** A number that an evaluation found. */
export interface EvaluationRow {
  readonly task: string;
  readonly metric: string;
  readonly filter: string;
  readonly shots: number | undefined;
  readonly value: number;
  readonly error: number | undefined;
}

const RESULTS = /^results.*\.json$/;
const DEEPEST = 3;
const MOST_FILES = 100;

/** Every results file in a run's folder, its checkpoints left out, the oldest name first. */
export async function findEvaluations(dir: string, depth = 0): Promise<EvaluationResults[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch(() => []);
  const found: EvaluationResults[] = [];
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(dir, entry.name);
    if (entry.isDirectory() && entry.name !== "checkpoints" && depth < DEEPEST) {
      found.push(...(await findEvaluations(path, depth + 1)));
    } else if (entry.isFile() && RESULTS.test(entry.name)) {
      const file = await jsonFile(path);
      if (isResults(file)) found.push(file);
    }
  }
  return found.slice(-MOST_FILES);
}

function isResults(value: unknown): value is EvaluationResults {
  return isRecord(value) && isRecord(value.results) && Object.values(value.results).every(isRecord);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The numbers of results, by task; a task measured again counts as it was last. */
export function evaluationRows(all: readonly EvaluationResults[]): EvaluationRow[] {
  const rows = new Map<string, EvaluationRow>();
  for (const { results, "n-shot": shots } of all) {
    for (const [task, numbers] of Object.entries(results)) {
      for (const [key, value] of Object.entries(numbers)) {
        // Other numbers, such as how many documents there are, have no filter.
        const [metric = "", filter] = key.split(",");
        if (typeof value !== "number" || filter === undefined || metric.endsWith("_stderr"))
          continue;
        const error = numbers[`${metric}_stderr,${filter}`];
        const row = {
          ...{ task, metric, filter, value },
          shots: typeof shots?.[task] === "number" ? shots[task] : undefined,
          error: typeof error === "number" ? error : undefined,
        };
        rows.set(JSON.stringify([task, metric, filter, row.shots]), row);
      }
    }
  }
  return [...rows.values()];
}
