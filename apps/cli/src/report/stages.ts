/** The report of a model's life: what several runs, one after another, made of it, on one page. */
import { basename, join, resolve } from "node:path";
import { replaceFile } from "../runs/machine.ts";
import { type EvaluationResults, evaluationRows } from "./evaluations.ts";
import { summary } from "./facts.ts";
import { html } from "./markup.ts";
import { curves, evaluationTable, pageOf, sampleList, tiles } from "./page.ts";
import { readRunData, type Sample } from "./run-data.ts";

export interface Stage {
  readonly title: string;
  /** Its run, under the folder of the report; it holds a report of its own. */
  readonly folder: string;
}

/**
 * Writes report.html into `dir`: what was measured, what the model says, and the curves of each stage.
 * @returns the file
 * @throws Error for a stage without metrics
 */
export async function writeStagesReport(
  dir: string,
  stages: readonly Stage[],
  {
    samples,
    evaluations,
  }: { readonly samples: readonly Sample[]; readonly evaluations: EvaluationResults },
): Promise<string> {
  const sections = await Promise.all(
    stages.map(async ({ title, folder }) => {
      const run = await readRunData(join(dir, folder));
      return html`<section><h2>${title}</h2>${tiles(summary(run))}${curves(run)}</section>`;
    }),
  );
  const body = html`${evaluationTable(evaluationRows([evaluations]))}
${sampleList(samples)}
${sections}`;
  const file = join(dir, "report.html");
  await replaceFile(file, pageOf(basename(resolve(dir)), body));
  return file;
}
