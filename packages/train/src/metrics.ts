/** What a step measured, from the device into a line of metrics.jsonl. */
import { disposeTree, memory, type Tensor } from "@dsv3/tensor";
import type { RowSource, Rows } from "./batches.ts";
import type { Progress } from "./checkpoints.ts";
import type { ExpertLoads } from "./run-log.ts";
import type { StepMetrics } from "./step.ts";

/** A line of metrics.jsonl. */
export interface RunMetrics {
  readonly step: number;
  /** 1 for the run's first. */
  readonly phase: number;
  readonly loss: number;
  readonly mainLoss: number;
  readonly mtpLoss: number;
  readonly balanceLoss: number;
  /** Busiest expert over the mean, in the layer where that is largest. */
  readonly expertLoad: number;
  readonly gradNorm: number;
  readonly learningRate: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly modelFlopsPerSecond: number;
  /** Of tensors on the backend, at most so far. */
  readonly peakBytes: number;
  /** Of training so far, waiting for checkpoints left out. */
  readonly seconds: number;
  /** Mean loss of the targets of each source that the step held, where the data names sources. */
  readonly sourceLoss?: Readonly<Record<string, number>>;
  /** What `evaluate` found after the step. */
  readonly evaluation?: Readonly<Record<string, number>>;
}

/** Reads what a step measured, and disposes it; with the load of every expert. */
export async function readStep(
  metrics: StepMetrics,
  rows: readonly Rows[],
  sourceNames: RowSource["sourceNames"],
): Promise<{ measured: Measured; loads: ExpertLoads }> {
  const [loss, mainLoss, mtpLoss, balanceLoss, gradNorm] = (await Promise.all(
    [metrics.loss, metrics.main, metrics.mtp, metrics.balance, metrics.gradNorm].map((t) =>
      t.item(),
    ),
  )) as [number, number, number, number, number];
  const loads = await Promise.all(
    metrics.loads.map(async (load) => Array.from((await load.data()) as Float32Array)),
  );
  const sourceLoss = sourceNames
    ? await lossBySource(sourceNames, rows, metrics.tokenLosses)
    : undefined;
  disposeTree(metrics);
  const losses = { loss, mainLoss, mtpLoss, balanceLoss };
  const expertLoad = busiest(loads);
  return {
    measured: { ...losses, expertLoad, gradNorm, ...(sourceLoss ? { sourceLoss } : {}) },
    loads,
  };
}

type Measured = Pick<
  RunMetrics,
  "loss" | "mainLoss" | "mtpLoss" | "balanceLoss" | "expertLoad" | "gradNorm" | "sourceLoss"
>;

/** A step's line, from what it measured and how long it took. */
export function metricsLine(
  measured: Measured,
  progress: Progress,
  step: {
    readonly phase: number;
    readonly learningRate: number;
    readonly tokens: number;
    readonly seconds: number;
    readonly flopsPerToken: number;
  },
): RunMetrics {
  const { sourceLoss, ...numbers } = measured;
  return {
    step: progress.step,
    phase: step.phase,
    ...numbers,
    learningRate: step.learningRate,
    tokens: progress.tokens,
    tokensPerSecond: step.tokens / step.seconds,
    modelFlopsPerSecond: (step.flopsPerToken * step.tokens) / step.seconds,
    peakBytes: memory().peakBytes,
    seconds: progress.seconds,
    ...(sourceLoss ? { sourceLoss } : {}),
  };
}

/** By their targets, so that every target of an update weighs the same, whatever batch it is in. */
export function sharesOf(rows: readonly Rows[]): number[] {
  const counts = rows.map(({ targets }) => targets.reduce((n, t) => n + (t >= 0 ? 1 : 0), 0));
  const all = counts.reduce((a, b) => a + b, 0);
  return counts.map((n) => (all > 0 ? n / all : 1 / rows.length));
}

async function lossBySource(
  names: readonly string[],
  rows: readonly Rows[],
  losses: readonly Tensor[],
): Promise<Record<string, number>> {
  const sums = names.map(() => ({ nats: 0, targets: 0 }));
  for (const [i, { sources }] of rows.entries()) {
    const nats = (await (losses[i] as Tensor).data()) as Float32Array;
    sources?.forEach((source, at) => {
      const sum = sums[source];
      if (sum === undefined) return;
      sum.nats += nats[at] as number;
      sum.targets++;
    });
  }
  const entries = names.map((name, i) => [name, sums[i] as (typeof sums)[number]] as const);
  return Object.fromEntries(
    entries.flatMap(([name, { nats, targets }]) => (targets > 0 ? [[name, nats / targets]] : [])),
  );
}

function busiest(loads: ExpertLoads): number {
  return loads.reduce((worst, counts) => {
    const mean = counts.reduce((a, b) => a + b, 0) / counts.length;
    return Math.max(worst, Math.max(...counts) / mean);
  }, 1);
}
