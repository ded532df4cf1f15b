/**
 * Reinforcement learning by GRPO into a run folder. A step draws a group of outputs to each of some
 * questions from the serving engine, rewards them, and moves the model towards those that are better
 * than their group. Runs are saved and gone on with bit for bit, as in pre-training.
 */
import type { WeightedReward } from "@dsv3/data";
import type { ModelConfig, ModelParams } from "@dsv3/model";
import { Engine } from "@dsv3/serve";
import { disposeTree, memory, type Tensor, tensor } from "@dsv3/tensor";
import type { Tokenizer } from "@dsv3/tokenizer";
import { ADAMW } from "../adamw.ts";
import { listCheckpoints, loadTraining, type Progress, saveTraining } from "../checkpoints.ts";
import { DivergedError } from "../run.ts";
import { checkSameRun, startRun } from "../run-folder.ts";
import { RunLog } from "../run-log.ts";
import { scheduled } from "../schedule.ts";
import { initTrainState, type TrainState } from "../step.ts";
import { outputWeights } from "./grpo-loss.ts";
import {
  type GrpoMetrics,
  rolloutMetrics,
  type SampledGap,
  updateMetrics,
} from "./grpo-metrics.ts";
import { checkGrpoSettings, type GrpoSettings } from "./grpo-settings.ts";
import {
  type OutputBatch,
  type OutputTerms,
  type Policy,
  policy,
  type UpdateMetrics,
} from "./policy.ts";
import {
  drawOutputs,
  type Judged,
  judge,
  mixed,
  outputBatch,
  type PromptSource,
  rowLength,
  teaches,
} from "./rollouts.ts";

export interface GrpoOptions {
  readonly tokenizer: Tokenizer;
  /**
   * The weights that the run starts from, and stays near with `beta`. Called for each of the two
   * uses, to resume too; must give the same then.
   */
  readonly initial: () => Promise<ModelParams>;
  readonly rewards: readonly WeightedReward[];
  readonly resume?: boolean;
  /** Measures the policy before the first step, after every so many, and after the last. */
  readonly evaluate?: {
    readonly every: number;
    measure(engine: Engine): Promise<Readonly<Record<string, number>>>;
  };
  /** See RunRecord. */
  readonly source?: unknown;
  readonly extraFiles?: Readonly<Record<string, Uint8Array>>;
  onStep?(metrics: GrpoMetrics, outputs: readonly Judged[]): void;
  onWarning?(message: string): void;
  /** Stops after the present step, with a checkpoint. */
  readonly signal?: AbortSignal;
}

export interface GrpoResult {
  readonly params: ModelParams;
  readonly progress: Progress;
  readonly finished: boolean;
}

/** Where a run stands besides its weights: `position` of its progress. */
interface Position {
  readonly prompts: unknown;
  readonly updates: number;
}

/** Answers that the engine computes at once. */
const MAX_RUNNING = 64;

/**
 * Trains into `dir`, which must not hold a run yet (or must, with `resume`).
 * @param prompts their ids with `maxTokens` must fit the model's context
 * @throws Error for a folder in use, settings that make no sense, or others than the run's;
 *   DivergedError when loss or gradient is no number (the last checkpoint stays)
 */
export async function grpo(
  dir: string,
  config: ModelConfig,
  settings: GrpoSettings,
  prompts: PromptSource,
  options: GrpoOptions,
): Promise<GrpoResult> {
  checkGrpoSettings(settings);
  const { resume = false, source = null, extraFiles = {}, evaluate, signal } = options;
  if (options.rewards.length === 0) throw new RangeError("rewards is empty; give one at least");
  if (resume) await checkSameRun(dir, { settings, config, source });
  else await startRun(dir, { settings, config, source }, extraFiles);
  const loaded = resume
    ? await loadTraining(dir, (step, why) =>
        options.onWarning?.(`checkpoint step-${step} is passed over: ${why}`),
      )
    : undefined;

  let progress: Progress = loaded?.progress ?? {
    ...{ step: 0, tokens: 0, seconds: 0 },
    position: { prompts: prompts.position, updates: 0 } satisfies Position,
  };
  const { prompts: position, updates } = progress.position as Position;
  prompts.seek(position as never);
  let state = loaded ? withUpdates(loaded.state, updates) : initTrainState(await options.initial());
  const log = await RunLog.open(dir, progress.step, settings.steps);
  const trainer = new Trainer(config, settings, prompts, options, state.params);
  const stopped = () => signal?.aborted === true;
  try {
    if (settings.beta > 0) trainer.reference = await options.initial();
    while (progress.step < settings.steps && !stopped()) {
      const start = performance.now();
      const before = progress.position as Position;
      const number = progress.step + 1;
      const evaluated =
        evaluate && progress.step === 0 ? await evaluate.measure(trainer.engine) : undefined;
      const {
        state: next,
        metrics,
        outputs,
        tokens,
        updates,
      } = await trainer.step(state, number, before.updates);
      state = next;
      if (!Number.isFinite(metrics.loss) || !Number.isFinite(metrics.gradNorm)) {
        throw new DivergedError(
          `step ${number}: loss ${metrics.loss}, gradient norm ${metrics.gradNorm}; training stopped, and the last checkpoint (${(await listCheckpoints(dir))[0] ?? "none"}) is kept. Try a lower learning rate`,
        );
      }
      await trainer.engine.setParams(state.params);
      const seconds = (performance.now() - start) / 1e3;
      progress = {
        step: number,
        position: { prompts: prompts.position, updates } satisfies Position,
        tokens: progress.tokens + tokens,
        seconds: progress.seconds + seconds,
      };
      const last = number === settings.steps;
      const measured =
        evaluate && (number % evaluate.every === 0 || last)
          ? await evaluate.measure(trainer.engine)
          : evaluated;
      const line: GrpoMetrics = {
        ...{ step: number, ...metrics },
        ...{ num_tokens: progress.tokens, step_time: seconds },
        ...{ tokens: progress.tokens, tokensPerSecond: tokens / seconds },
        ...{ peakBytes: memory().peakBytes, seconds: progress.seconds },
        ...(measured ? { evaluation: measured } : {}),
      };
      await log.write(line, []);
      options.onStep?.(line, outputs);
      if (last || stopped() || number % settings.checkpointEvery === 0) {
        const { keepCheckpoints } = settings;
        await saveTraining(dir, config, state, progress, keepCheckpoints, extraFiles);
      }
    }
  } catch (error) {
    disposeTree(state);
    throw error;
  } finally {
    await trainer.dispose();
  }
  const { params, moments, step } = state;
  disposeTree([moments, step]);
  return { params, progress, finished: progress.step >= settings.steps };
}

/** Steps of a run are counted by its draws; the optimiser counts updates. */
function withUpdates(state: TrainState, updates: number): TrainState {
  state.step.dispose();
  return { ...state, step: tensor(updates) };
}

/** Engine and programs of a run. */
class Trainer {
  readonly engine: Engine;
  /** Of the run's first weights, with `beta`. */
  reference: ModelParams | null = null;
  readonly #settings: GrpoSettings;
  readonly #prompts: PromptSource;
  readonly #rewards: readonly WeightedReward[];
  readonly #policy: Policy;

  constructor(
    config: ModelConfig,
    settings: GrpoSettings,
    prompts: PromptSource,
    { tokenizer, rewards }: GrpoOptions,
    params: ModelParams,
  ) {
    const { form, clipLow, clipHigh, beta, temperature, clip, weightDecay } = settings;
    const context = config.maxPositionEmbeddings;
    const maxRunning = Math.min(MAX_RUNNING, settings.questions * settings.group);
    this.engine = new Engine({
      ...{ params, config, tokenizer, maxRunning },
      cacheTokens: Math.max(context, maxRunning * Math.min(context, settings.maxTokens + 192)),
      maxQueued: Number.MAX_SAFE_INTEGER,
    });
    this.#policy = policy(config, {
      loss: { form, clipLow, clipHigh, beta },
      ...{ temperature, clip, optimizer: { ...ADAMW, weightDecay } },
    });
    this.#settings = settings;
    this.#prompts = prompts;
    this.#rewards = rewards;
  }

  /** Draws, rewards and learns. `updates` is how many there were before, and are after. */
  async step(state: TrainState, number: number, updates: number) {
    const s = this.#settings;
    const start = performance.now();
    const { groups, drawn } = await this.#groups(number);
    const drawSeconds = (performance.now() - start) / 1e3;
    const outputs = groups.flat();
    const tokens = drawn.flat().reduce((n, o) => n + o.prompt.ids.length + o.tokens.length, 0);
    const learningRate = scheduled(s.learningRate, number - 1);
    const told: UpdateMetrics[] = [];
    const gap: SampledGap = { sum: 0, max: 0, tokens: 0 };

    // Old and reference log-probabilities are those of the weights before the first update.
    const several = s.epochs * s.updates > 1;
    const parts = split(outputs, s.updates).map((part) => ({
      part,
      batches: this.#batches(part, state.params, several),
    }));
    for (const { batches } of parts) {
      for (const { outputs, terms } of batches) {
        if (terms.old && s.temperature === 1) await measureGap(outputs, terms.old, gap);
      }
    }
    try {
      for (let epoch = 0; epoch < s.epochs; epoch++) {
        for (const { batches } of parts) {
          const { state: next, metrics } = await this.#policy.update(state, batches, learningRate);
          state = next;
          updates++;
          told.push(metrics);
        }
      }
    } finally {
      disposeTree(parts.map(({ batches }) => batches.map(({ batch, terms }) => [batch, terms])));
    }
    const names = this.#rewards.map(({ name }) => name);
    const metrics = {
      ...updateMetrics(
        s,
        told,
        parts.map(({ part }) => part),
      ),
      learningRate,
      ...rolloutMetrics(names, drawn, gap),
      draw_time: drawSeconds,
    };
    return { state, metrics, outputs, tokens, updates };
  }

  /** Groups to learn from, and all that were drawn for it. */
  async #groups(number: number): Promise<{ groups: Judged[][]; drawn: Judged[][] }> {
    const { questions, group, maxTokens, temperature, seed, draws, form } = this.#settings;
    const groups: Judged[][] = [];
    const drawn: Judged[][] = [];
    for (let draw = 0; draw < draws && groups.length < questions; draw++) {
      const prompts = Array.from({ length: questions - groups.length }, () => this.#prompts.next());
      const ofDraw = mixed(mixed(seed, number), draw);
      const options = { group, maxTokens, temperature, seed: ofDraw };
      const outputs = await drawOutputs(this.engine, prompts, options);
      const judged = await Promise.all(outputs.map((o) => judge(o, this.#rewards, form)));
      drawn.push(...judged);
      groups.push(...(draws > 1 ? judged.filter(teaches) : judged));
    }
    // Where no group teaches anything, one is kept: the step then changes nothing, but is one.
    return { groups: groups.length > 0 ? groups : drawn.slice(0, 1), drawn };
  }

  /** The outputs of one update as batches, with the log-probabilities that hold for all its epochs. */
  #batches(outputs: readonly Judged[], params: ModelParams, several: boolean) {
    const { form, maxTokens, dropCut, batch: rows } = this.#settings;
    const counted = outputs.map((o) => (dropCut && !o.finished ? 0 : o.tokens.length));
    const weights = outputWeights(form, counted, maxTokens);
    const length = rowLength(outputs);
    const batches: { outputs: readonly Judged[]; batch: OutputBatch; terms: OutputTerms }[] = [];
    for (let at = 0; at < outputs.length; at += rows) {
      const some = outputs.slice(at, at + rows);
      const batch = outputBatch(some, rows, length);
      const column = (value: (output: Judged, i: number) => number): Tensor => {
        const data = new Float32Array(rows);
        for (const [i, output] of some.entries()) data[i] = value(output, i);
        return tensor(data);
      };
      const terms: OutputTerms = {
        ...(several ? { old: this.#policy.logProbs(params, batch) } : {}),
        ...(this.reference ? { ref: this.#policy.logProbs(this.reference, batch) } : {}),
        advantages: column(({ advantage }) => advantage),
        weights: column((_, i) => weights[at + i] as number),
      };
      batches.push({ outputs: some, batch, terms });
    }
    return batches;
  }

  async dispose(): Promise<void> {
    await this.engine.dispose();
    this.#policy.dispose();
    if (this.reference) disposeTree(this.reference);
  }
}

/** Neighbours together, in so many parts of about one size. */
function split<T>(items: readonly T[], parts: number): T[][] {
  const size = Math.ceil(items.length / parts);
  const all = Array.from({ length: parts }, (_, i) => items.slice(i * size, (i + 1) * size));
  return all.filter((part) => part.length > 0);
}

/** How far the engine's log-probabilities are from those of the training program. */
async function measureGap(
  outputs: readonly Judged[],
  logProbs: Tensor,
  gap: SampledGap,
): Promise<void> {
  const length = logProbs.shape[1] as number;
  const values = await logProbs.data();
  for (const [i, { prompt, tokens, logProbs: sampled }] of outputs.entries()) {
    const first = i * length + prompt.ids.length - 1;
    for (let t = 0; t < tokens.length; t++) {
      const off = Math.abs(Number(values[first + t]) - (sampled[t] as number));
      gap.sum += off;
      gap.max = Math.max(gap.max, off);
    }
    gap.tokens += tokens.length;
  }
}
