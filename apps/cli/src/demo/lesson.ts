/** What comes after pre-training: examples of a task, then rewards for right answers to it. */
import { join } from "node:path";
import {
  ConversationSource,
  type SourcedChat,
  solves,
  type TaskItem,
  taskChat,
  taskItems,
  taskReward,
} from "@dsv3/data";
import { generate, type ModelParams, saveModel } from "@dsv3/model";
import { disposeTree } from "@dsv3/tensor";
import { encodeChat } from "@dsv3/tokenizer";
import { promptOf, taskPrompts, testItems } from "@dsv3/train";
import { grpoWithProgress } from "../grpo/progress.ts";
import type { Sample } from "../report/run-data.ts";
import { trainWithProgress } from "../run-view.ts";
import { tokenizerFiles } from "../tokenizer-files.ts";
import { type Bench, limited } from "./pre-train.ts";
import {
  ANSWER_TOKENS,
  EXAMPLES,
  fineTuning,
  MEASURED,
  reinforcement,
  TASK,
  TOKENIZER_EXAMPLES,
} from "./recipe.ts";

const LANGUAGES = ["en"] as const;
const SEED = 1;
/** Answers that are shown. */
const SHOWN = 3;

function examples(count: number): TaskItem[] {
  const items = taskItems(TASK, "train", { seed: SEED, languages: LANGUAGES });
  return Array.from({ length: count }, () => items.next().value as TaskItem);
}

/** What a tokenizer should see of the task. */
export function taskTexts(): string[] {
  return examples(TOKENIZER_EXAMPLES).flatMap((item) =>
    taskChat(item).messages.map(({ content }) => content),
  );
}

/** Shares of unseen questions that are answered right. */
export interface Scores {
  /** By the likeliest answer. */
  readonly greedy: number;
  /** By one drawn at temperature 1, which is what rewards are given for. */
  readonly sampled: number;
}

/** What there is of the lesson: less where it was interrupted. */
export interface Lesson {
  readonly task: string;
  /** How many were asked. */
  readonly questions: number;
  readonly afterFineTuning?: Scores;
  readonly afterRewards?: Scores;
  /** The first of the model's likeliest answers. */
  readonly answers: readonly Sample[];
}

/**
 * Teaches weights, which it takes over, the task: by examples into the folder's `sft`, then by rewards
 * into its `grpo`. The model that answers is saved as `chat`.
 */
export async function teach(bench: Bench, params: ModelParams): Promise<Lesson> {
  const { io, folder, config, tokenizer } = bench;
  const none = { task: TASK, questions: MEASURED, answers: [] };
  if (io.signal.aborted) {
    disposeTree(params);
    return none;
  }
  const taught = await fineTune(bench, params);
  if (io.signal.aborted) {
    disposeTree(taught);
    return none;
  }
  const { scores: afterFineTuning } = await examine(bench, taught);
  const rewarded = await reinforce(bench, taught);
  const files = { extraFiles: tokenizerFiles(tokenizer) };
  await saveModel(join(folder, "chat"), config, rewarded, files);
  const last = io.signal.aborted ? undefined : await examine(bench, rewarded);
  disposeTree(rewarded);
  if (last === undefined) return { ...none, afterFineTuning };
  const { scores: afterRewards, answers } = last;
  return { ...none, afterFineTuning, afterRewards, answers };
}

async function fineTune(bench: Bench, params: ModelParams): Promise<ModelParams> {
  const { folder, config, tokenizer, plan } = bench;
  const settings = fineTuning(plan.steps.fineTuning);
  // Of one to three questions each: a person asks more than one.
  const chats: SourcedChat[] = [];
  const items = examples(EXAMPLES);
  while (items.length > 0) {
    const messages = items.splice(0, 1 + (chats.length % 3)).flatMap((i) => taskChat(i).messages);
    chats.push({ ...encodeChat(tokenizer, messages), source: TASK });
  }
  const rows = new ConversationSource(chats, {
    ...{ length: settings.length, padId: tokenizer.special.eos ?? 0, seed: SEED },
    ...{ epochs: Number.MAX_SAFE_INTEGER, tooLong: "skip" },
  });
  const result = await trainWithProgress(
    limited(bench, "fineTuning"),
    "fine-tuning",
    join(folder, "sft"),
    config,
    settings,
    rows,
    { initial: async () => params, source: "demo", extraFiles: tokenizerFiles(tokenizer) },
  );
  return result.params;
}

async function reinforce(bench: Bench, params: ModelParams): Promise<ModelParams> {
  const { folder, config, tokenizer, plan } = bench;
  const result = await grpoWithProgress(
    limited(bench, "reinforcement"),
    "rewards",
    join(folder, "grpo"),
    config,
    reinforcement(plan.steps.reinforcement),
    taskPrompts(tokenizer, TASK, { seed: SEED + 1, languages: LANGUAGES }),
    {
      ...{ tokenizer, initial: async () => params, source: "demo" },
      rewards: [{ name: TASK, weight: 1, score: taskReward }],
      extraFiles: tokenizerFiles(tokenizer),
    },
  );
  return result.params;
}

/** How often the model is right on questions of the test split, and the first of its likeliest answers. */
async function examine(
  { config, tokenizer }: Bench,
  params: ModelParams,
): Promise<{ scores: Scores; answers: Sample[] }> {
  const items = testItems(TASK, LANGUAGES, MEASURED);
  const prompts = items.map(({ prompt }) => Array.from(promptOf(tokenizer, { prompt }).ids));
  const answer = async (temperature: number) => {
    const options = { maxNewTokens: ANSWER_TOKENS, temperature, seed: SEED };
    const made = await generate(params, config, prompts, options);
    return made.map((ids) => tokenizer.decode(ids, { skipSpecial: true }));
  };
  const share = (texts: readonly string[]) =>
    items.filter((item, i) => solves(item, texts[i] as string)).length / items.length;
  const [likeliest, drawn] = [await answer(0), await answer(1)];
  const answers = items
    .slice(0, SHOWN)
    .map(({ prompt }, i) => ({ prompt, text: likeliest[i] as string }));
  return { scores: { greedy: share(likeliest), sampled: share(drawn) }, answers };
}
