/**
 * What reinforcement learning adds to fine-tuning (report, section 5.2): a small model is taught a task
 * with some hundreds of examples until it is right now and then. From there GRPO goes on, with a
 * reward of 1 for a right answer and 0 for another, and beside it, as control, more of the same
 * fine-tuning for as many seconds. Measured on questions of the test split, which neither has seen.
 *
 *     node src/grpo.ts [--backend cuda] [--steps N]
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { ConversationSource, type TaskItem, taskChat, taskItems, taskReward } from "@dsv3/data";
import { loadModel, type ModelConfig, type ModelParams, preset } from "@dsv3/model";
import { Engine } from "@dsv3/serve";
import { disposeTree } from "@dsv3/tensor";
import { encodeChat, type Tokenizer, trainBpe } from "@dsv3/tokenizer";
import {
  checkpointFolder,
  type GrpoSettings,
  measureTask,
  type RunSettings,
  type TaskScores,
  taskPrompts,
  train,
  grpo as trainGrpo,
} from "@dsv3/train";
import { type Experiment, main, type Options } from "./experiment.ts";

const TASK = "reverse";
const LANGUAGES = ["en"] as const;
const LENGTH = 128;

interface Bench {
  readonly options: Options;
  readonly tokenizer: Tokenizer;
  readonly config: ModelConfig;
}

export const grpo: Experiment = {
  name: "grpo",
  async run(options) {
    const bench = prepare(options);
    const { sftSteps, grpoSteps } = sizes(options);
    const taught = await teach(bench, "sft", sftSteps);
    const from = join(options.out, "sft");
    const initial = async () => (await loadModel(checkpointFolder(from, sftSteps))).params;
    const rl = await reinforce(bench, grpoSteps, initial);
    const control = await teach(bench, "more-sft", MOST_STEPS, { initial, seconds: rl.seconds });
    const head = ["run", "steps", "seconds", "pass@1", "pass@8"];
    const row = (name: string, { steps, seconds, scores }: Outcome) => [
      ...[name, String(steps), seconds.toFixed(0)],
      ...[percent(scores["pass@1"]), percent(scores["pass@8"])],
    ];
    return [
      head,
      row("fine-tuning", taught),
      row("then GRPO", rl),
      row("then more fine-tuning", control),
    ];
  },
};

interface Outcome {
  readonly steps: number;
  readonly seconds: number;
  readonly scores: TaskScores;
}

function sizes({ quick, steps }: Options) {
  const grpoSteps = steps ?? (quick ? 20 : 50);
  return { sftSteps: quick ? Math.min(grpoSteps, SFT_STEPS) : SFT_STEPS, grpoSteps };
}

const SFT_STEPS = 200;
/** Of a run that time ends. */
const MOST_STEPS = 100_000;
/** Examples of the task with their answers. */
const EXAMPLES = 2000;

function* examples(seed: number, count: number): Generator<TaskItem> {
  const items = taskItems(TASK, "train", { seed, languages: LANGUAGES });
  for (let i = 0; i < count; i++) yield items.next().value as TaskItem;
}

/** The preset `demo` over a vocabulary of letters and the task's words. */
function prepare(options: Options): Bench {
  const texts = Array.from(examples(9, 500), (item) =>
    taskChat(item)
      .messages.map(({ content }) => content)
      .join(" "),
  );
  const tokenizer = trainBpe(texts, { vocabSize: 320 });
  const config: ModelConfig = {
    ...preset("demo"),
    ...{ vocabSize: tokenizer.vocabSize, maxPositionEmbeddings: LENGTH, numNextnPredictLayers: 0 },
    eosTokenIds: [tokenizer.special.eos as number],
  };
  return { options, tokenizer, config };
}

/** Fine-tuning, from nothing or from weights, for so many steps or seconds. */
async function teach(
  bench: Bench,
  name: string,
  steps: number,
  from: { readonly initial?: () => Promise<ModelParams>; readonly seconds?: number } = {},
): Promise<Outcome> {
  const { options, tokenizer, config } = bench;
  const chats = Array.from(examples(options.seed, EXAMPLES), (item) => ({
    ...encodeChat(tokenizer, taskChat(item).messages),
    source: TASK,
  }));
  const data = new ConversationSource(chats, {
    ...{ length: LENGTH, padId: tokenizer.special.eos as number, epochs: 10_000 },
    ...{ seed: options.seed, tooLong: "skip" },
  });
  const settings: RunSettings = {
    ...{ steps, batch: 8, length: LENGTH, accumulate: 1, seed: options.seed },
    learningRate: [
      { shape: "linear", steps: 25, to: 2e-3 },
      { shape: "constant", steps: 0, to: 2e-3 },
    ],
    ...{ biasSpeed: 0.01, mtpWeight: 0, balanceWeight: 1e-4 },
    ...{ checkpointEvery: 1000, keepCheckpoints: 1 },
  };
  const run = join(options.out, name);
  let shown = 0;
  const late = new AbortController();
  const { params, progress } = await train(run, config, settings, data, {
    resume: existsSync(join(run, "run.json")),
    ...(from.initial ? { initial: from.initial } : {}),
    signal: late.signal,
    onStep({ step, mainLoss, seconds }) {
      if (seconds >= (from.seconds ?? Infinity)) late.abort();
      if (performance.now() - shown < 5000) return;
      shown = performance.now();
      console.log(`${name}: step ${step}, loss ${mainLoss.toFixed(4)}`);
    },
  });
  const engine = new Engine({
    params,
    config,
    tokenizer,
    maxRunning: 64,
    cacheTokens: 64 * LENGTH,
  });
  const scores = await measured(engine, bench);
  await engine.dispose();
  disposeTree(params);
  return { steps: progress.step, seconds: progress.seconds, scores };
}

async function reinforce(
  bench: Bench,
  steps: number,
  initial: () => Promise<ModelParams>,
): Promise<Outcome> {
  const { options, tokenizer, config } = bench;
  const learningRate = 1e-4;
  const settings: GrpoSettings = {
    ...{ steps, questions: options.quick ? 4 : 24, group: 8, maxTokens: 16, temperature: 1 },
    ...{
      form: "dapo",
      clipLow: 0.2,
      clipHigh: 0.28,
      beta: 0,
      epochs: 1,
      updates: 1,
      batch: options.quick ? 32 : 192,
    },
    ...{ draws: 1, dropCut: false, weightDecay: 0, clip: 1, seed: options.seed },
    learningRate: [
      { shape: "linear", steps: 3, to: learningRate },
      { shape: "constant", steps: 0, to: learningRate },
    ],
    ...{ checkpointEvery: 20, keepCheckpoints: 1 },
  };
  const prompts = taskPrompts(tokenizer, TASK, { seed: options.seed + 1, languages: LANGUAGES });
  const run = join(options.out, "grpo");
  const { params, progress } = await trainGrpo(run, config, settings, prompts, {
    ...{ tokenizer, initial, resume: existsSync(join(run, "run.json")) },
    rewards: [{ name: TASK, weight: 1, score: taskReward }],
    onStep({ step, reward, step_time }) {
      console.log(
        `grpo: step ${step}/${steps}, reward ${reward.toFixed(3)}, ${Number(step_time).toFixed(1)} s`,
      );
    },
  });
  const engine = new Engine({
    params,
    config,
    tokenizer,
    maxRunning: 64,
    cacheTokens: 64 * LENGTH,
  });
  const scores = await measured(engine, bench);
  await engine.dispose();
  disposeTree(params);
  return { steps: progress.step, seconds: progress.seconds, scores };
}

async function measured(engine: Engine, { tokenizer, options }: Bench): Promise<TaskScores> {
  const size = options.quick ? { questions: 8, answers: 8 } : { questions: 100, answers: 16 };
  const settings = { ...size, maxTokens: 16, languages: LANGUAGES };
  const scores = await measureTask(engine, tokenizer, TASK, settings);
  console.log(`pass@1 ${percent(scores["pass@1"])}, pass@8 ${percent(scores["pass@8"])}`);
  return scores;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

if (import.meta.main) await main(grpo);
