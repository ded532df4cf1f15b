/** The report of a run: report.html and report.md in its folder. */
import { join } from "node:path";
import { replaceFile } from "../runs/machine.ts";
import type { EvaluationResults } from "./evaluations.ts";
import { reportMarkdown } from "./markdown.ts";
import { reportPage } from "./page.ts";
import { readRunData, type Sample } from "./run-data.ts";

export interface ReportOptions {
  /** What the model wrote, kept in samples.json for later reports. */
  readonly samples?: readonly Sample[];
  /** What was measured, kept in results-run.json beside the results files that the folder has. */
  readonly evaluations?: EvaluationResults;
  /** Of the machine, in any currency. */
  readonly pricePerHour?: number;
}

/**
 * Writes a run's report from what its folder holds, metrics.jsonl at least.
 * @returns the files written
 * @throws Error when the folder holds no metrics
 */
export async function writeReport(
  dir: string,
  { samples, evaluations, pricePerHour }: ReportOptions = {},
): Promise<{ html: string; markdown: string }> {
  const keep = (name: string, value: unknown) =>
    replaceFile(join(dir, name), `${JSON.stringify(value, null, 2)}\n`);
  if (samples) await keep("samples.json", samples);
  if (evaluations) await keep("results-run.json", evaluations);
  const run = await readRunData(dir);
  const files = { html: join(dir, "report.html"), markdown: join(dir, "report.md") };
  await replaceFile(files.html, reportPage(run, pricePerHour));
  await replaceFile(files.markdown, reportMarkdown(run, pricePerHour));
  return files;
}
