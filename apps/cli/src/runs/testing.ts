import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** For tests: a line of metrics.jsonl, of a loss that falls. */
export function metricsOf(step: number): Record<string, unknown> {
  return {
    ...{ step, phase: 1, loss: 2 + 5 / step, mainLoss: 1 + 5 / step, gradNorm: 1 / step },
    ...{ expertLoad: 1.5, learningRate: 1e-3, tokens: step * 1000, tokensPerSecond: 500 },
    ...{ modelFlopsPerSecond: 2e9, peakBytes: 2 ** 20, seconds: step * 2 },
    ...(step % 10 === 0 ? { evaluation: { bitsPerByte: 3 - step / 100 } } : {}),
  };
}

/** For tests: JSON lines, and text as it is. */
export function lines(values: readonly unknown[]): string {
  return values.map((v) => `${typeof v === "string" ? v : JSON.stringify(v)}\n`).join("");
}

/** For tests: a run's folder with the steps from 1 to `steps`. */
export async function makeRun(dir: string, steps: number): Promise<string> {
  await mkdir(dir, { recursive: true });
  const metrics = Array.from({ length: steps }, (_, i) => metricsOf(i + 1));
  await writeFile(join(dir, "metrics.jsonl"), lines(metrics));
  return dir;
}
