import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { TASKS, type TaskLanguage, type TaskName } from "@dsv3/data";
import { pinNames } from "@dsv3/data/node";
import { loadModel, type ModelConfig, parseHuggingFaceConfig } from "@dsv3/model";
import { disposeTree, setBackend } from "@dsv3/tensor";
import type { Tokenizer } from "@dsv3/tokenizer";
import { loadTokenizer } from "@dsv3/tokenizer/node";
import {
  checkpointFolder,
  FORM_DEFAULTS,
  GRPO_FORMS,
  type GrpoSettings,
  listPrompts,
  measureTask,
  type PromptSource,
  readRun,
  taskPrompts,
} from "@dsv3/train";
import { backendFlag, openBackend } from "../backend.ts";
import { type Command, defineCommand } from "../command.ts";
import { UsageError } from "../errors.ts";
import type { Args, Flag } from "../flags.ts";
import { freeFolder } from "../free-folder.ts";
import { type GrpoOutcome, grpoWithProgress } from "../grpo/progress.ts";
import { readQuestions } from "../grpo/questions.ts";
import { parseRewards, REWARD_HELP } from "../grpo/rewards.ts";
import type { Io } from "../io.ts";
import { tokenizerFiles } from "../tokenizer-files.ts";
import { printJson } from "../ui/json.ts";

const flags = {
  model: { type: "string", value: "DIR", help: "the model to start from, with its tokenizer" },
  task: { type: "choice", choices: TASKS, help: "questions made by rule, which check themselves" },
  language: {
    type: "choice",
    choices: ["en", "it", "both"],
    help: "of the task's questions",
    default: "both",
  },
  data: {
    type: "string",
    value: "PATH,PATH",
    help: 'questions: records with "prompt" and "answer" or "tests"; files, folders, patterns, hf:owner/name',
  },
  out: { type: "string", value: "DIR", help: "the run's folder, which must not exist yet" },
  resume: { type: "string", value: "DIR", help: "goes on with the run in this folder" },
  reward: {
    type: "list",
    value: "NAME[=ARGUMENT][*WEIGHT]",
    help: `what is maximised: ${REWARD_HELP}; task for --task, exact for --data unless told`,
  },
  loss: { type: "choice", choices: GRPO_FORMS, help: "the objective", default: "deepseek-v3" },
  steps: { type: "integer", value: "N", help: "times to draw and learn", default: 100, min: 1 },
  questions: { type: "integer", value: "N", help: "of a step", default: 16, min: 1 },
  group: { type: "integer", value: "G", help: "outputs to each question", default: 8, min: 2 },
  maxTokens: { type: "integer", value: "N", help: "of an output", default: 64, min: 1 },
  temperature: { type: "number", value: "T", help: "of drawing", default: 1, min: 0.01 },
  learningRate: { type: "number", value: "RATE", help: "of AdamW", default: 1e-6, min: 0 },
  warmUp: { type: "integer", value: "N", help: "steps to that rate", default: 0, min: 0 },
  clipLow: { type: "number", value: "E", help: "as the loss's paper has it unless told", min: 0 },
  clipHigh: { type: "number", value: "E", help: "as the loss's paper has it unless told", min: 0 },
  beta: {
    type: "number",
    value: "B",
    help: "of the KL to the model at the start; as the loss's paper has it unless told",
    min: 0,
  },
  epochs: { type: "integer", value: "N", help: "times over a step's outputs", default: 1, min: 1 },
  updates: { type: "integer", value: "N", help: "in each of those times", default: 1, min: 1 },
  batch: { type: "integer", value: "N", help: "outputs at once in training", default: 32, min: 1 },
  draws: {
    type: "integer",
    value: "N",
    help: "most draws of a step, to replace questions whose outputs are all worth the same (DAPO)",
    default: 1,
    min: 1,
  },
  dropCut: { type: "boolean", help: "learn nothing from outputs cut at --max-tokens (DAPO)" },
  evaluateEvery: {
    type: "integer",
    value: "N",
    help: "steps between measurements on 64 unseen questions of the task; at start and end unless told",
    min: 1,
  },
  seed: { type: "integer", value: "N", help: "of questions and outputs", default: 0, min: 0 },
  checkpointEvery: { type: "integer", value: "N", help: "steps", default: 20, min: 1 },
  keep: { type: "integer", value: "N", help: "checkpoints", default: 2, min: 1 },
  backend: backendFlag,
  json: { type: "boolean", help: "print what came of it as JSON" },
} as const satisfies Record<string, Flag>;

type GrpoArgs = Args<typeof flags, Record<never, never>>;

/** What a run of this command starts from: `source` of its run.json. */
interface Source {
  readonly model: string;
  readonly rewards: readonly string[];
  readonly task?: { readonly name: TaskName; readonly languages: readonly TaskLanguage[] };
  readonly data?: readonly string[];
  readonly evaluateEvery: number;
}

interface Run {
  readonly dir: string;
  readonly settings: GrpoSettings;
  readonly config: ModelConfig;
  readonly source: Source;
  readonly tokenizer: Tokenizer;
}

export const grpo: Command = defineCommand({
  summary:
    "Reinforcement learning: makes a model's better outputs more likely than its worse ones.",
  flags,
  examples: [
    "grpo --model runs/chat/checkpoints/step-200 --task reverse --out runs/rl --learning-rate 3e-4",
    "grpo --model my-model --data problems.jsonl --reward number --reward 'boxed*0.1' --loss dapo --draws 4 --out runs/rl",
    "grpo --resume runs/rl",
  ],
  async run(args, io) {
    const backend = await openBackend(args.backend);
    try {
      setBackend(backend);
      const run = args.resume ? await existingRun(args.resume, args) : await newRun(args);
      const { dir, config, settings, source, tokenizer } = run;
      const { task } = source;
      const result = await grpoWithProgress(
        io,
        "reinforcement learning",
        dir,
        config,
        settings,
        await promptsOf(run),
        {
          tokenizer,
          resume: args.resume !== undefined,
          initial: async () => (await loadModel(source.model)).params,
          rewards: parseRewards(source.rewards, settings),
          source,
          extraFiles: tokenizerFiles(tokenizer),
          ...(task ? { evaluate: measurement(run, task) } : {}),
        },
      );
      disposeTree(result.params);
      report(io, run, result, args.json);
    } finally {
      backend.dispose();
    }
  },
});

/** Enough for ± 4 points of pass@1. */
const MEASURED = { questions: 64, answers: 8 };

function measurement({ tokenizer, settings, source }: Run, task: NonNullable<Source["task"]>) {
  const { maxTokens } = settings;
  const options = { ...MEASURED, maxTokens, languages: task.languages };
  return {
    every: source.evaluateEvery,
    measure: async (engine: Parameters<typeof measureTask>[0]) => ({
      ...(await measureTask(engine, tokenizer, task.name, options)),
    }),
  };
}

async function promptsOf({ tokenizer, source, settings }: Run): Promise<PromptSource> {
  const { task, data } = source;
  const { seed } = settings;
  if (task) return taskPrompts(tokenizer, task.name, { seed, languages: task.languages });
  return listPrompts(tokenizer, await readQuestions(data ?? []), seed);
}

async function newRun(args: GrpoArgs): Promise<Run> {
  if (args.model === undefined) throw new UsageError("--model is missing: what to start from");
  if ((args.task === undefined) === (args.data === undefined)) {
    throw new UsageError("give --task or --data, one of them: where questions come from");
  }
  if (args.out === undefined) throw new UsageError("--out is missing: where the run goes");
  const languages = args.language === "both" ? (["en", "it"] as const) : [args.language];
  const rewards = args.reward.length > 0 ? args.reward : [args.task ? "task" : "exact"];
  parseRewards(rewards, args);
  const dir = await freeFolder(args.out, args.out);
  const source: Source = {
    ...{ model: resolve(args.model), rewards },
    ...(args.task ? { task: { name: args.task, languages } } : {}),
    ...(args.data === undefined ? {} : { data: await pinNames(args.data.split(",")) }),
    evaluateEvery: args.evaluateEvery ?? args.steps,
  };
  const { loss: form, steps, questions, group, maxTokens, temperature, epochs, updates } = args;
  const { batch, draws, dropCut, seed, checkpointEvery, keep } = args;
  const usual = FORM_DEFAULTS[form];
  const settings: GrpoSettings = {
    ...{ steps, questions, group, maxTokens, temperature, form },
    clipLow: args.clipLow ?? usual.clipLow,
    clipHigh: args.clipHigh ?? usual.clipHigh,
    beta: args.beta ?? usual.beta,
    ...{ epochs, updates, batch: Math.min(batch, questions * group), draws, dropCut },
    learningRate: [
      { shape: "linear", steps: args.warmUp, to: args.learningRate },
      { shape: "constant", steps: 0, to: args.learningRate },
    ],
    ...{ weightDecay: 0, clip: 1, seed, checkpointEvery, keepCheckpoints: keep },
  };
  const config = await modelConfig(args.model);
  return { dir, settings, config, source, tokenizer: await loadTokenizer(args.model) };
}

async function existingRun(dir: string, args: GrpoArgs): Promise<Run> {
  if ([args.out, args.data, args.model, args.task].some((given) => given !== undefined)) {
    throw new UsageError("--resume takes everything from the run's folder; leave out the rest");
  }
  const { settings, config, source } = await readRun<GrpoSettings>(dir);
  const known = (source ?? {}) as Partial<Source>;
  if (!Array.isArray(known.rewards) || known.model === undefined) {
    throw new Error(`${dir} was not started by dsv3 grpo: its run.json names no rewards`);
  }
  const tokenizer = await loadTokenizer(dir);
  return { dir, settings, config, source: known as Source, tokenizer };
}

async function modelConfig(dir: string): Promise<ModelConfig> {
  const file = join(dir, "config.json");
  const text = await readFile(file, "utf8").catch((cause) => {
    throw new Error(`cannot read ${file}`, { cause });
  });
  return parseHuggingFaceConfig(JSON.parse(text));
}

function report(io: Io, { dir }: Run, outcome: GrpoOutcome, json: boolean): void {
  const { progress, finished, before, after } = outcome;
  const { step, tokens } = progress;
  const model = checkpointFolder(dir, step);
  if (json) {
    printJson(io.stdout, { model, step, tokens, finished, before, after });
    return;
  }
  const share = (scores: GrpoOutcome["before"]) =>
    Object.entries(scores ?? {})
      .map(([name, value]) => `${name} ${(100 * value).toFixed(1)} %`)
      .join(", ");
  if (before && after && before !== after) {
    io.stdout.write(`Unseen questions: ${share(before)} → ${share(after)}\n`);
  }
  const next = finished ? `dsv3 chat --model ${model}` : `dsv3 grpo --resume ${dir}`;
  io.stdout.write(
    `${finished ? "Trained" : "Stopped"} after ${step} steps: ${model}\nNext: ${next}\n`,
  );
}
