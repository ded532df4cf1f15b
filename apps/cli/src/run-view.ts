import { type RunEvents, type RunMetrics, train } from "@dsv3/train";
import type { Io } from "./io.ts";
import { Progress } from "./ui/progress.ts";

/** `train` of @dsv3/train with a progress bar on stderr, stopped by Ctrl-C. */
export async function trainWithProgress(
  io: Io,
  label: string,
  ...[dir, config, settings, data, options]: Parameters<typeof train>
): Promise<Awaited<ReturnType<typeof train>> & { tokensPerSecond: number }> {
  const progress = new Progress(io.stderr, { label, total: settings.steps });
  // A single batch's loss jumps about; a person wants its course.
  let loss: number | undefined;
  let first: RunMetrics | undefined;
  let last: RunMetrics | undefined;
  const events: RunEvents = {
    onWarning: (message) => progress.log(`warning: ${message}`),
    onStep: (m) => {
      loss = loss === undefined ? m.mainLoss : loss + (m.mainLoss - loss) / LOSS_STEPS;
      first ??= m; // This one compiled the program: rates are taken after it.
      last = m;
      progress.update({ done: m.step, loss, tokens: m.tokens });
    },
    signal: io.signal,
  };
  const result = await train(dir, config, settings, data, { ...options, ...events });
  progress.finish();
  const rate = first && last ? (last.tokens - first.tokens) / (last.seconds - first.seconds) : 0;
  return { ...result, tokensPerSecond: Number.isFinite(rate) ? rate : 0 };
}

/** Steps over which the shown loss is smoothed. */
const LOSS_STEPS = 20;
