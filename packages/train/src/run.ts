/**
 * Training into a run folder, from nothing or from a model: run.json (all that is needed to start it again), metrics.jsonl,
 * checkpoints/. A run that was stopped, by whatever, goes on bit for bit as if it had not been.
 */
import { flopsPerToken, initParams, type ModelConfig, type ModelParams } from "@dsv3/model";
import { compile, disposeTree, key, type Tensor } from "@dsv3/tensor";
import { ADAMW } from "./adamw.ts";
import { batchOf, nextBatch, type RowSource } from "./batches.ts";
import { listCheckpoints, loadTraining, type Progress, saveTraining } from "./checkpoints.ts";
import { metricsLine, type RunMetrics, readStep, sharesOf } from "./metrics.ts";
import { checkSameRun, startRun } from "./run-folder.ts";
import { type ExpertLoads, RunLog } from "./run-log.ts";
import { batchRamp, scheduled } from "./schedule.ts";
import {
  checkSettings,
  type Phase,
  phaseAt,
  phaseConfig,
  type RunSettings,
  totalSteps,
} from "./settings.ts";
import { initTrainState, type TrainState, type TrainStep, trainStep } from "./step.ts";

export interface RunOptions extends RunEvents {
  /** Goes on with the run in the folder, from its newest whole checkpoint. */
  readonly resume?: boolean;
  /** Weights to start from, which the run takes over; fresh ones unless given. Not called to resume. */
  readonly initial?: () => Promise<ModelParams>;
  /** Measures the weights after every so many steps, and after the last. */
  readonly evaluate?: Evaluate;
  /** See RunRecord. */
  readonly source?: unknown;
  /** Files that go into the run's folder and into each checkpoint, such as tokenizer.json. */
  readonly extraFiles?: Readonly<Record<string, Uint8Array>>;
}

export interface Evaluate {
  readonly every: number;
  /** @param config the model as the present phase trains it */
  measure(weights: Weights, config: ModelConfig): Promise<Readonly<Record<string, number>>>;
}

/** The weights of a run, and their moving average where `emaDecay` asks for one. */
export interface Weights {
  readonly params: ModelParams;
  readonly ema?: ModelParams;
}

export interface RunEvents {
  /** @param loads tokens that each expert took, for each layer that routes */
  onStep?(metrics: RunMetrics, loads: ExpertLoads): void;
  /** A damaged checkpoint was passed over. */
  onWarning?(message: string): void;
  /** Stops after the present step, with a checkpoint. */
  readonly signal?: AbortSignal;
}

export interface RunResult extends Weights {
  /** As the last phase trained it. */
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
  { resume = false, initial, evaluate, source = null, extraFiles = {}, ...events }: RunOptions = {},
): Promise<RunResult> {
  checkSettings(settings, config);
  if (resume) await checkSameRun(dir, { settings, config, source });
  else await startRun(dir, { settings, config, source }, extraFiles);

  const warn = (message: string) => events.onWarning?.(message);
  let damaged = 0;
  const loaded = resume
    ? await loadTraining(dir, (step, why) => {
        warn(`checkpoint step-${step} is passed over: ${why}`);
        damaged++;
      })
    : undefined;
  if (damaged > 0 && !loaded)
    warn("no checkpoint is whole: the run starts again from its first step");
  let state = loaded?.state ?? (await firstState(config, settings, initial));
  let progress: Progress = loaded?.progress ?? {
    step: 0,
    position: data.position,
    tokens: 0,
    seconds: 0,
  };
  data.seek(progress.position as never);

  const steps = totalSteps(settings);
  const log = await RunLog.open(dir, progress.step, steps);
  const stopped = () => events.signal?.aborted === true;
  let stage = enterPhase(config, settings, progress.step);
  try {
    while (progress.step < steps && !stopped()) {
      if (progress.step >= stage.end) {
        stage.program.dispose();
        stage = enterPhase(config, settings, progress.step);
      }
      const { batch, length, biasSpeed } = stage.phase;
      const start = performance.now();
      const learningRate = scheduled(stage.phase.learningRate, progress.step - stage.start);
      const rows = Array.from({ length: stage.batchesAt(progress.step - stage.start) }, () =>
        data.next(batch, length),
      );
      const batches = rows.map((r) => batchOf(r, [batch, length]));
      const rates = { learningRate, biasSpeed, shares: sharesOf(rows) };
      const { state: next, metrics } = stage.program(state, batches, rates);
      disposeTree(batches);
      state = next;
      const { measured, loads } = await readStep(metrics, rows, data.sourceNames);
      if (!Number.isFinite(measured.loss) || !Number.isFinite(measured.gradNorm)) {
        throw new DivergedError(
          `step ${progress.step + 1}: loss ${measured.loss}, gradient norm ${measured.gradNorm}; training stopped, and the last checkpoint (${(await listCheckpoints(dir))[0] ?? "none"}) is kept. Try a lower learning rate`,
        );
      }
      const seconds = (performance.now() - start) / 1e3;
      const tokens = batches.length * batch * length;
      progress = {
        step: progress.step + 1,
        position: data.position,
        tokens: progress.tokens + tokens,
        seconds: progress.seconds + seconds,
      };
      const took = { ...{ phase: stage.number, learningRate, tokens, seconds }, ...stage.costs };
      let line = metricsLine(measured, progress, took);
      if (evaluate && (progress.step % evaluate.every === 0 || progress.step === steps)) {
        line = { ...line, evaluation: await evaluate.measure(state, stage.config) };
      }
      await log.write(line, loads);
      events.onStep?.(line, loads);
      if (progress.step === steps || stopped() || progress.step % settings.checkpointEvery === 0) {
        const { keepCheckpoints } = settings;
        await saveTraining(dir, stage.config, state, progress, keepCheckpoints, extraFiles);
      }
    }
  } catch (error) {
    disposeTree(state);
    throw error;
  } finally {
    stage.program.dispose();
  }
  const { params, ema, moments, step } = state;
  disposeTree([moments, step]);
  const weights: Weights = ema ? { params, ema } : { params };
  return { ...weights, config: stage.config, progress, finished: progress.step >= steps };
}

/**
 * Seconds that a step of the first phase takes on this machine, measured on a fresh model that is
 * thrown away: for choosing `steps` by time. `settings.steps` and its checkpoints play no part.
 */
export async function secondsPerStep(
  config: ModelConfig,
  settings: RunSettings,
  data: RowSource,
): Promise<number> {
  const { program, phase } = enterPhase(config, settings, 0);
  let state = await firstState(config, settings);
  let best = Infinity;
  try {
    // The first compiles.
    for (let i = 0; i <= MEASURED_STEPS; i++) {
      const start = performance.now();
      const batches = Array.from({ length: phase.accumulate }, () => nextBatch(data, phase));
      const { state: next, metrics } = program(state, batches, {
        learningRate: scheduled(phase.learningRate, i),
        biasSpeed: phase.biasSpeed,
      });
      state = next;
      await metrics.loss.item();
      disposeTree([batches, metrics]);
      if (i > 0) best = Math.min(best, (performance.now() - start) / 1e3);
    }
  } finally {
    disposeTree(state);
    program.dispose();
  }
  return best;
}

const MEASURED_STEPS = 5;

/** A phase under way: its program, and all that hangs on its shapes. */
interface Stage {
  readonly phase: Phase;
  /** 1 for the first. */
  readonly number: number;
  /** Steps of the run before it, and with it. */
  readonly start: number;
  readonly end: number;
  /** The model with this phase's context. */
  readonly config: ModelConfig;
  readonly program: TrainStep & { dispose(): void };
  readonly batchesAt: (step: number) => number;
  readonly costs: { readonly flopsPerToken: number };
}

function enterPhase(base: ModelConfig, settings: RunSettings, step: number): Stage {
  const { phase, index, start } = phaseAt(settings, step);
  const config = phaseConfig(base, settings, phase);
  const { mtpWeight, balanceWeight, accumulate, ramp, length } = phase;
  const { computeDtype = "f32", remat = false, seed, emaDecay } = settings;
  const { dropout: rate = 0, attentionDropout: attentionRate = 0 } = settings;
  const program = trainStep(config, {
    loss: { mtpWeight, balanceWeight, computeDtype, remat },
    optimizer: settings.optimizer ?? ADAMW,
    clip: 1,
    ...(rate + attentionRate > 0 ? { dropout: { rate, attentionRate, seed } } : {}),
    ...(emaDecay === undefined ? {} : { emaDecay }),
  });
  const costs = { context: length / 2, training: true, mtp: mtpWeight > 0 };
  return {
    ...{ phase, number: index + 1, start, end: start + phase.steps, config, program },
    batchesAt: ramp ? batchRamp(ramp.from, accumulate, ramp.steps) : () => accumulate,
    costs: { flopsPerToken: flopsPerToken(config, costs) },
  };
}

async function firstState(
  config: ModelConfig,
  { seed, momentDtype, emaDecay }: RunSettings,
  initial?: () => Promise<ModelParams>,
): Promise<TrainState> {
  const options = { momentDtype, ema: emaDecay !== undefined };
  if (initial) return initTrainState(await initial(), options);
  const init = compile((k: Tensor) => initTrainState(initParams(config, k), options), {
    name: "init",
  });
  using k = key(seed);
  const state = init(k);
  init.dispose();
  return state;
}
