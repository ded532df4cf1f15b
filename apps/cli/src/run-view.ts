import { type RunEvents, type RunMetrics, totalSteps, train } from "@dsv3/train";
import type { Io } from "./io.ts";
import { writeReport } from "./report/write-report.ts";
import { noteMachine } from "./runs/machine.ts";
import { Progress } from "./ui/progress.ts";

interface Measured {
  readonly tokensPerSecond: number;
  /** The last one. */
  readonly evaluation?: Readonly<Record<string, number>>;
}

/** `train` of @dsv3/train with a progress bar on stderr, stopped by Ctrl-C; a report stands in the run's folder at the end. */
export async function trainWithProgress(
  io: Io,
  label: string,
  ...[dir, config, settings, data, options]: Parameters<typeof train>
): Promise<Awaited<ReturnType<typeof train>> & Measured> {
  const progress = new Progress(io.stderr, { label, total: totalSteps(settings) });
  // A single batch's loss jumps about; a person wants its course.
  let loss: number | undefined;
  let first: RunMetrics | undefined;
  let last: RunMetrics | undefined;
  let evaluation: RunMetrics["evaluation"];
  const events: RunEvents = {
    onWarning: (message) => progress.log(`warning: ${message}`),
    onStep: (m) => {
      loss = loss === undefined ? m.mainLoss : loss + (m.mainLoss - loss) / LOSS_STEPS;
      first ??= m; // This one compiled the program: rates are taken after it.
      last = m;
      evaluation = m.evaluation ?? evaluation;
      progress.update({ done: m.step, loss, tokens: m.tokens });
    },
    signal: io.signal,
  };
  const result = await train(dir, config, settings, data, { ...options, ...events });
  progress.finish();
  if (last) {
    await noteMachine(dir);
    await writeReport(dir);
  }
  const rate = first && last ? (last.tokens - first.tokens) / (last.seconds - first.seconds) : 0;
  const tokensPerSecond = Number.isFinite(rate) ? rate : 0;
  return { ...result, tokensPerSecond, ...(evaluation ? { evaluation } : {}) };
}

/** Steps over which the shown loss is smoothed. */
const LOSS_STEPS = 20;
