/**
 * Pre-training into a run folder: run.json (all that is needed to start it again), metrics.jsonl,
 * checkpoints/. A run that was stopped, by whatever, goes on bit for bit as if it had not been.
 */
import { appendFile, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { flopsPerToken, initParams, type ModelConfig } from "@dsv3/model";
import { compile, disposeTree, key, memory, type Tensor, tensor } from "@dsv3/tensor";
import { ADAMW } from "./adamw.ts";
import { listCheckpoints, loadTraining, type Progress, saveTraining } from "./checkpoints.ts";
import { checkSchedule, type Schedule, scheduled } from "./schedule.ts";
import { initTrainState, type TrainState, trainStep } from "./step.ts";

/** Where rows of tokens come from; `PackedRows` of @dsv3/data is one. */
export interface RowSource {
  next(rows: number, length: number): { inputIds: Int32Array; targets: Int32Array };
  /** Plain JSON. */
  readonly position: unknown;
  seek(position: never): void;
}

export interface RunSettings {
  readonly steps: number;
  /** Sequences of a step, and tokens of a sequence. */
  readonly batch: number;
  readonly length: number;
  /** Batches whose gradients are added before an update. */
  readonly accumulate: number;
  readonly learningRate: Schedule;
  /** γ, λ and α of the report (section 4.2). */
  readonly biasSpeed: number;
  readonly mtpWeight: number;
  readonly balanceWeight: number;
  readonly seed: number;
  /** Steps between checkpoints, and how many are kept. */
  readonly checkpointEvery: number;
  readonly keepCheckpoints: number;
}

/** A line of metrics.jsonl. */
export interface RunMetrics {
  readonly step: number;
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
  readonly peakBytes: number;
  readonly seconds: number;
}

export interface RunEvents {
  onStep?(metrics: RunMetrics): void;
  /** A damaged checkpoint was passed over. */
  onWarning?(message: string): void;
  /** Stops after the present step, with a checkpoint. */
  readonly signal?: AbortSignal;
}

export interface RunResult {
  readonly params: TrainState["params"];
  readonly config: ModelConfig;
  readonly progress: Progress;
  readonly finished: boolean;
}

/** A loss or gradient that is no number: the step was not kept. */
export class DivergedError extends Error {
  override name = "DivergedError";
}

/**
 * Trains into `dir`, which must not hold a run yet (or must, with `resume`).
 * @throws Error for a folder in use, settings that make no sense, or another configuration than the
 *   run's; DivergedError when the loss is no longer a number (the last checkpoint stays)
 */
export async function train(
  dir: string,
  config: ModelConfig,
  settings: RunSettings,
  data: RowSource,
  { resume = false, ...events }: RunEvents & { resume?: boolean } = {},
): Promise<RunResult> {
  checkSettings(settings, config);
  const record = `${JSON.stringify({ settings, config }, null, 2)}\n`;
  const saved = await readFile(join(dir, "run.json"), "utf8").catch(() => undefined);
  if (!resume && saved !== undefined) {
    throw new Error(`${dir} holds a run already; resume it, or choose another folder`);
  }
  if (resume && saved === undefined)
    throw new Error(`${dir} holds no run to resume: run.json is missing`);
  if (resume && saved !== record) {
    throw new Error(`${dir}/run.json was written with other settings; resume with the same ones`);
  }
  await mkdir(join(dir, "checkpoints"), { recursive: true });
  if (!resume) await writeFile(join(dir, "run.json"), record, { flag: "wx" });

  const loaded = resume
    ? await loadTraining(dir, (step, why) =>
        events.onWarning?.(`checkpoint step-${step} is passed over: ${why}`),
      )
    : undefined;
  let state = loaded?.state ?? freshState(config, settings.seed);
  let progress: Progress = loaded?.progress ?? {
    step: 0,
    position: data.position,
    tokens: 0,
    seconds: 0,
  };
  data.seek(progress.position as never);
  if (resume) await forgetMetricsAfter(dir, progress.step);

  const step = trainStep(config, {
    loss: { mtpWeight: settings.mtpWeight, balanceWeight: settings.balanceWeight },
    optimizer: ADAMW,
    clip: 1,
  });
  const flops = flopsPerToken(config, {
    context: settings.length / 2,
    training: true,
    mtp: settings.mtpWeight > 0,
  });
  const stopped = () => events.signal?.aborted === true;
  try {
    while (progress.step < settings.steps && !stopped()) {
      const start = performance.now();
      const learningRate = scheduled(settings.learningRate, progress.step);
      const batches = Array.from({ length: settings.accumulate }, () => nextBatch(data, settings));
      const { state: next, metrics } = step(state, batches, {
        learningRate,
        biasSpeed: settings.biasSpeed,
      });
      disposeTree(batches);
      state = next;
      const [loss, mainLoss, mtpLoss, balanceLoss, gradNorm] = await numbers([
        metrics.loss,
        metrics.main,
        metrics.mtp,
        metrics.balance,
        metrics.gradNorm,
      ]);
      const expertLoad = await busiest(metrics.loads);
      disposeTree(metrics);
      if (!Number.isFinite(loss) || !Number.isFinite(gradNorm)) {
        throw new DivergedError(
          `step ${progress.step + 1}: loss ${loss}, gradient norm ${gradNorm}; training stopped, and the last checkpoint (${(await listCheckpoints(dir))[0] ?? "none"}) is kept. Try a lower learning rate`,
        );
      }
      const seconds = (performance.now() - start) / 1e3;
      const tokens = settings.accumulate * settings.batch * settings.length;
      progress = {
        step: progress.step + 1,
        position: data.position,
        tokens: progress.tokens + tokens,
        seconds: progress.seconds + seconds,
      };
      const line: RunMetrics = {
        step: progress.step,
        loss: loss as number,
        mainLoss: mainLoss as number,
        mtpLoss: mtpLoss as number,
        balanceLoss: balanceLoss as number,
        expertLoad,
        gradNorm: gradNorm as number,
        learningRate,
        tokens: progress.tokens,
        tokensPerSecond: tokens / seconds,
        modelFlopsPerSecond: (flops * tokens) / seconds,
        peakBytes: memory().peakBytes,
        seconds: progress.seconds,
      };
      await appendFile(join(dir, "metrics.jsonl"), `${JSON.stringify(line)}\n`);
      events.onStep?.(line);
      const last = progress.step === settings.steps || stopped();
      if (last || progress.step % settings.checkpointEvery === 0) {
        await saveTraining(dir, config, state, progress, settings.keepCheckpoints);
      }
    }
  } catch (error) {
    disposeTree(state);
    throw error;
  } finally {
    step.dispose();
  }
  disposeTree(state.moments);
  state.step.dispose();
  return { params: state.params, config, progress, finished: progress.step >= settings.steps };
}

/** Steps after the checkpoint are done again: their lines go, by writing a new file in place of the old. */
async function forgetMetricsAfter(dir: string, step: number): Promise<void> {
  const file = join(dir, "metrics.jsonl");
  const text = await readFile(file, "utf8").catch(() => "");
  const kept = text.split("\n").filter((line) => {
    const found = /^\{"step":(\d+),.*\}$/.exec(line);
    return found !== null && Number(found[1]) <= step;
  });
  await writeFile(`${file}.new`, kept.map((line) => `${line}\n`).join(""));
  await rename(`${file}.new`, file);
}

function freshState(config: ModelConfig, seed: number): TrainState {
  const init = compile((k: Tensor) => initTrainState(initParams(config, k)), { name: "init" });
  using k = key(seed);
  const state = init(k);
  init.dispose();
  return state;
}

function nextBatch(data: RowSource, { batch, length }: RunSettings) {
  const rows = data.next(batch, length);
  const shape = [batch, length];
  return {
    inputIds: tensor(rows.inputIds, { shape, dtype: "i32" }),
    targets: tensor(rows.targets, { shape, dtype: "i32" }),
  };
}

async function numbers(scalars: readonly Tensor[]): Promise<number[]> {
  return Promise.all(scalars.map((t) => t.item()));
}

async function busiest(loads: readonly Tensor[]): Promise<number> {
  let worst = 1;
  for (const load of loads) {
    const counts = Array.from((await load.data()) as Float32Array);
    const mean = counts.reduce((a, b) => a + b, 0) / counts.length;
    worst = Math.max(worst, Math.max(...counts) / mean);
  }
  return worst;
}

function checkSettings(s: RunSettings, config: ModelConfig): void {
  checkSchedule(s.learningRate, "learningRate");
  for (const name of [
    "steps",
    "batch",
    "length",
    "accumulate",
    "checkpointEvery",
    "keepCheckpoints",
  ] as const) {
    if (!Number.isInteger(s[name]) || s[name] < 1) {
      throw new RangeError(`${name} should be a whole number of 1 or more, got ${s[name]}`);
    }
  }
  if (s.length > config.maxPositionEmbeddings) {
    throw new RangeError(
      `length ${s.length} is over the model's maxPositionEmbeddings of ${config.maxPositionEmbeddings}`,
    );
  }
}
