/** `grpo` of @dsv3/train, watched on stderr, stopped by Ctrl-C; a report stands in the run's folder at the end. */
import { type GrpoMetrics, type GrpoResult, grpo } from "@dsv3/train";
import type { Io } from "../io.ts";
import { writeReport } from "../report/write-report.ts";
import { RunView } from "../run-view.ts";
import { noteMachine } from "../runs/machine.ts";

export interface GrpoOutcome extends GrpoResult {
  /** What the first and the last measurement found, if there were any. */
  readonly before?: Readonly<Record<string, number>>;
  readonly after?: Readonly<Record<string, number>>;
}

export async function grpoWithProgress(
  io: Io,
  label: string,
  ...[dir, config, settings, prompts, options]: Parameters<typeof grpo>
): Promise<GrpoOutcome> {
  const view = new RunView(io, { label, total: settings.steps });
  const measured: Readonly<Record<string, number>>[] = [];
  let stepped = false;
  const result = await grpo(dir, config, settings, prompts, {
    ...options,
    onWarning: (message) => view.log(`warning: ${message}`),
    onStep(metrics: GrpoMetrics, outputs) {
      stepped = true;
      if (metrics.evaluation) measured.push(metrics.evaluation);
      view.step(metrics);
      options.onStep?.(metrics, outputs);
    },
    signal: io.signal,
  }).finally(() => view.finish());
  if (stepped) {
    await noteMachine(dir);
    const { html } = await writeReport(dir);
    io.stderr.write(`report: ${html}\n`);
  }
  const [before] = measured;
  const after = measured.at(-1);
  return { ...result, ...(before ? { before } : {}), ...(after ? { after } : {}) };
}
