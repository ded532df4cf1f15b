/**
 * Training into a run folder, from nothing or from a model: run.json (all that is needed to start it again), metrics.jsonl,
 * checkpoints/. A run that was stopped, by whatever, goes on bit for bit as if it had not been.
 */
import { appendFile, mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { flopsPerToken, initParams, type ModelConfig, type ModelParams } from "@dsv3/model";
import { compile, disposeTree, key, memory, type Tensor } from "@dsv3/tensor";
import { ADAMW } from "./adamw.ts";
import { batchOf, nextBatch, type RowSource, type Rows } from "./batches.ts";
import { listCheckpoints, loadTraining, type Progress, saveTraining } from "./checkpoints.ts";
import { batchRamp, checkSchedule, type Schedule, scheduled } from "./schedule.ts";
import { initTrainState, type TrainState, trainStep } from "./step.ts";

export interface RunSettings {
  readonly steps: number;
  /** Sequences of a step, and tokens of a sequence. */
  readonly batch: number;
  readonly length: number;
  /** Batches whose gradients are averaged before an update. */
  readonly accumulate: number;
  /** Starts with `from` batches for an update and grows to `accumulate` linearly over `steps`. */
  readonly ramp?: { readonly from: number; readonly steps: number };
  readonly learningRate: Schedule;
  /** γ, λ and α of the report (section 4.2). */
  readonly biasSpeed: number;
  readonly mtpWeight: number;
  readonly balanceWeight: number;
  /** Of AdamW's moments: f32 unless told; bf16 as in the report (section 3.3.1). */
  readonly momentDtype?: "f32" | "bf16";
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
  /** Of tensors on the backend, at most so far. */
  readonly peakBytes: number;
  /** Of training so far, waiting for checkpoints left out. */
  readonly seconds: number;
  /** Mean loss of the targets of each source that the step held, where the data names sources. */
  readonly sourceLoss?: Readonly<Record<string, number>>;
}

/** What run.json holds. */
export interface RunRecord {
  readonly settings: RunSettings;
  readonly config: ModelConfig;
  /** What the caller needs to find the same data again; plain JSON. */
  readonly source: unknown;
}

export interface RunOptions extends RunEvents {
  /** Goes on with the run in the folder, from its newest whole checkpoint. */
  readonly resume?: boolean;
  /** Weights to start from, which the run takes over; fresh ones unless given. Not called to resume. */
  readonly initial?: () => Promise<ModelParams>;
  /** See RunRecord. */
  readonly source?: unknown;
  /** Files that go into the run's folder and into each checkpoint, such as tokenizer.json. */
  readonly extraFiles?: Readonly<Record<string, Uint8Array>>;
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
 * What a run was started with.
 * @throws Error when the folder holds no run, or run.json is damaged
 */
export async function readRun(dir: string): Promise<RunRecord> {
  const file = join(dir, "run.json");
  const text = await readFile(file, "utf8").catch((cause) => {
    throw new Error(`${dir} holds no run to resume: run.json is missing`, { cause });
  });
  try {
    return JSON.parse(text) as RunRecord;
  } catch (cause) {
    throw new Error(`${file} is damaged: it is no JSON`, { cause });
  }
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
  { resume = false, initial, source = null, extraFiles = {}, ...events }: RunOptions = {},
): Promise<RunResult> {
  checkSettings(settings, config);
  if (resume) await checkSameRun(dir, { settings, config, source });
  else await startRun(dir, { settings, config, source }, extraFiles);

  const loaded = resume
    ? await loadTraining(dir, (step, why) =>
        events.onWarning?.(`checkpoint step-${step} is passed over: ${why}`),
      )
    : undefined;
  let state =
    loaded?.state ??
    (initial
      ? initTrainState(await initial(), settings.momentDtype)
      : freshState(config, settings));
  let progress: Progress = loaded?.progress ?? {
    step: 0,
    position: data.position,
    tokens: 0,
    seconds: 0,
  };
  data.seek(progress.position as never);
  if (resume) await forgetMetricsAfter(dir, progress.step);

  const step = compiledStep(config, settings);
  const flops = flopsPerToken(config, {
    context: settings.length / 2,
    training: true,
    mtp: settings.mtpWeight > 0,
  });
  const { accumulate, ramp } = settings;
  const batchesAt = ramp ? batchRamp(ramp.from, accumulate, ramp.steps) : () => accumulate;
  const stopped = () => events.signal?.aborted === true;
  try {
    while (progress.step < settings.steps && !stopped()) {
      const start = performance.now();
      const learningRate = scheduled(settings.learningRate, progress.step);
      const rows = Array.from({ length: batchesAt(progress.step) }, () =>
        data.next(settings.batch, settings.length),
      );
      const batches = rows.map((r) => batchOf(r, [settings.batch, settings.length]));
      const { state: next, metrics } = step(state, batches, {
        learningRate,
        biasSpeed: settings.biasSpeed,
        shares: sharesOf(rows),
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
      const sourceLoss = data.sourceNames
        ? await lossBySource(data.sourceNames, rows, metrics.tokenLosses)
        : undefined;
      disposeTree(metrics);
      if (!Number.isFinite(loss) || !Number.isFinite(gradNorm)) {
        throw new DivergedError(
          `step ${progress.step + 1}: loss ${loss}, gradient norm ${gradNorm}; training stopped, and the last checkpoint (${(await listCheckpoints(dir))[0] ?? "none"}) is kept. Try a lower learning rate`,
        );
      }
      const seconds = (performance.now() - start) / 1e3;
      const tokens = batches.length * settings.batch * settings.length;
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
        ...(sourceLoss ? { sourceLoss } : {}),
      };
      await appendFile(join(dir, "metrics.jsonl"), `${JSON.stringify(line)}\n`);
      events.onStep?.(line);
      const last = progress.step === settings.steps || stopped();
      if (last || progress.step % settings.checkpointEvery === 0) {
        await saveTraining(dir, config, state, progress, settings.keepCheckpoints, extraFiles);
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

/**
 * Seconds that a step takes on this machine, measured on a fresh model that is thrown away: for
 * choosing `steps` by time. `settings.steps` and its checkpoints play no part.
 */
export async function secondsPerStep(
  config: ModelConfig,
  settings: RunSettings,
  data: RowSource,
): Promise<number> {
  const step = compiledStep(config, settings);
  let state = freshState(config, settings);
  let best = Infinity;
  try {
    // The first compiles.
    for (let i = 0; i <= MEASURED_STEPS; i++) {
      const start = performance.now();
      const batches = Array.from({ length: settings.accumulate }, () => nextBatch(data, settings));
      const { state: next, metrics } = step(state, batches, {
        learningRate: scheduled(settings.learningRate, i),
        biasSpeed: settings.biasSpeed,
      });
      state = next;
      await metrics.loss.item();
      disposeTree([batches, metrics]);
      if (i > 0) best = Math.min(best, (performance.now() - start) / 1e3);
    }
  } finally {
    disposeTree(state);
    step.dispose();
  }
  return best;
}

const MEASURED_STEPS = 5;

function compiledStep(config: ModelConfig, { mtpWeight, balanceWeight }: RunSettings) {
  return trainStep(config, { loss: { mtpWeight, balanceWeight }, optimizer: ADAMW, clip: 1 });
}

/** Makes the folder; run.json comes last, whole or not at all. */
async function startRun(
  dir: string,
  record: RunRecord,
  extraFiles: Readonly<Record<string, Uint8Array>>,
): Promise<void> {
  const file = join(dir, "run.json");
  if (await readFile(file).catch(() => undefined)) {
    throw new Error(`${dir} holds a run already; resume it, or choose another folder`);
  }
  const others = await readdir(dir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw new Error(`cannot train into ${dir}`, { cause: error });
  });
  if (others.length > 0) {
    throw new Error(`${dir} is not empty (it holds ${others[0]}); choose another folder`);
  }
  await mkdir(join(dir, "checkpoints"), { recursive: true });
  for (const [name, bytes] of Object.entries(extraFiles)) await writeFile(join(dir, name), bytes);
  await replaceFile(file, `${JSON.stringify(record, null, 2)}\n`);
}

async function checkSameRun(dir: string, record: RunRecord): Promise<void> {
  const saved = await readRun(dir);
  for (const part of ["settings", "config", "source"] as const) {
    // Through JSON, which leaves out what is undefined.
    if (!isDeepStrictEqual(saved[part], JSON.parse(JSON.stringify(record[part])))) {
      throw new Error(`${dir}/run.json was written with other ${part}; resume with the same`);
    }
  }
}

async function replaceFile(file: string, text: string): Promise<void> {
  await writeFile(`${file}.new`, text, { flush: true });
  await rename(`${file}.new`, file);
}

/** Steps after the checkpoint are done again: their lines go, by writing a new file in place of the old. */
async function forgetMetricsAfter(dir: string, step: number): Promise<void> {
  const file = join(dir, "metrics.jsonl");
  const text = await readFile(file, "utf8").catch(() => "");
  const kept = text.split("\n").filter((line) => {
    const found = /^\{"step":(\d+),.*\}$/.exec(line);
    return found !== null && Number(found[1]) <= step;
  });
  await replaceFile(file, kept.map((line) => `${line}\n`).join(""));
}

function freshState(config: ModelConfig, { seed, momentDtype }: RunSettings): TrainState {
  const init = compile((k: Tensor) => initTrainState(initParams(config, k), momentDtype), {
    name: "init",
  });
  using k = key(seed);
  const state = init(k);
  init.dispose();
  return state;
}

/** By their targets, so that every target of an update weighs the same, whatever batch it is in. */
function sharesOf(rows: readonly Rows[]): number[] {
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
  if (s.ramp && !(s.ramp.from >= 1 && s.ramp.from <= s.accumulate && s.ramp.steps >= 0)) {
    throw new RangeError(
      `ramp starts with ${s.ramp.from} batches over ${s.ramp.steps} steps; expected 1 to ${s.accumulate} (accumulate), over 0 steps or more`,
    );
  }
  if (s.length > config.maxPositionEmbeddings) {
    throw new RangeError(
      `length ${s.length} is over the model's maxPositionEmbeddings of ${config.maxPositionEmbeddings}`,
    );
  }
}
