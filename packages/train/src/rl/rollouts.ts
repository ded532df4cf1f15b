/** Outputs from the serving engine: drawn, rewarded, and laid out as rows to learn from. */
import type { Question, Reply, WeightedReward } from "@dsv3/data";
import type { Engine } from "@dsv3/serve";
import { tensor } from "@dsv3/tensor";
import { type GrpoForm, groupAdvantages, spread } from "./grpo-loss.ts";
import type { OutputBatch } from "./policy.ts";

/** A question as the model is asked it. */
export interface Prompt {
  readonly ids: ArrayLike<number>;
  readonly question: Question;
}

/** Where questions come from, without end. */
export interface PromptSource {
  next(): Prompt;
  /** Plain JSON. */
  readonly position: unknown;
  seek(position: never): void;
}

export interface Output {
  readonly prompt: Prompt;
  readonly tokens: readonly number[];
  readonly text: string;
  /** False: cut at the most tokens that an output may have. */
  readonly finished: boolean;
  /** Of each token, as the engine has it: at temperature 1. */
  readonly logProbs: readonly number[];
}

/** An output with what it is worth. */
export interface Judged extends Output {
  /** By each function, unweighted. */
  readonly rewards: readonly number[];
  /** Their weighted sum. */
  readonly reward: number;
  readonly advantage: number;
}

export interface DrawOptions {
  readonly group: number;
  readonly maxTokens: number;
  readonly temperature: number;
  /** Decides the outputs, with the place of the question. */
  readonly seed: number;
}

/** A group of outputs to each prompt, computed together: they share their prompt's cache. */
export function drawOutputs(
  engine: Engine,
  prompts: readonly Prompt[],
  { group, maxTokens, temperature, seed }: DrawOptions,
): Promise<Output[][]> {
  return Promise.all(
    prompts.map(async (prompt, i) => {
      const { choices } = await engine.generate({
        ...{ prompt: prompt.ids, n: group, maxTokens, temperature },
        seed: mixed(seed, i),
      });
      return choices.map(({ tokens, text, drawn, finishReason }) => ({
        ...{ prompt, tokens, text, finished: finishReason === "stop" },
        logProbs: drawn.map(({ logprob }) => logprob),
      }));
    }),
  );
}

/**
 * Rewards of a group, and what each output is better than the others by.
 * @throws Error for a reward that is no number
 */
export async function judge(
  outputs: readonly Output[],
  rewards: readonly WeightedReward[],
  form: GrpoForm,
): Promise<Judged[]> {
  const scored = await Promise.all(
    outputs.map(async (output) => {
      const { text, tokens, finished, prompt } = output;
      const reply: Reply = { text, tokens: tokens.length, finished };
      const each = await Promise.all(
        rewards.map(async ({ name, score }) => {
          const value = await score(prompt.question, reply);
          if (Number.isFinite(value)) return value;
          throw new Error(
            `the reward ${name} gave ${value} for ${JSON.stringify(text.slice(0, 80))}; expected a finite number`,
          );
        }),
      );
      const reward = each.reduce((sum, r, i) => sum + r * (rewards[i]?.weight ?? 1), 0);
      return { output, each, reward };
    }),
  );
  const advantages = groupAdvantages(
    form,
    scored.map(({ reward }) => reward),
  );
  return scored.map(({ output, each, reward }, i) => ({
    ...output,
    ...{ rewards: each, reward, advantage: advantages[i] as number },
  }));
}

/** Whether a group's rewards differ, so that it teaches something. */
export function teaches(group: readonly Judged[]): boolean {
  return spread(group.map(({ reward }) => reward)).std > 0;
}

const ROUND = 16;

/** Places of the longest output with its prompt, rounded up, so that few programs are compiled. */
export function rowLength(outputs: readonly Output[]): number {
  const longest = outputs.reduce((n, o) => Math.max(n, o.prompt.ids.length + o.tokens.length), 0);
  return Math.ceil(longest / ROUND) * ROUND;
}

/** Outputs as a batch of `rows` rows, of which the last may be empty. */
export function outputBatch(outputs: readonly Output[], rows: number, length: number): OutputBatch {
  const inputIds = new Int32Array(rows * length);
  const targets = new Int32Array(rows * length).fill(-1);
  const mask = new Float32Array(rows * length);
  for (const [i, { prompt, tokens }] of outputs.entries()) {
    const at = i * length;
    inputIds.set(Array.from(prompt.ids), at);
    inputIds.set(tokens, at + prompt.ids.length);
    const first = at + prompt.ids.length - 1; // The last token of the prompt predicts the first drawn.
    targets.set(tokens, first);
    mask.fill(1, first, first + tokens.length);
  }
  const shape = [rows, length];
  return {
    inputIds: tensor(inputIds, { shape, dtype: "i32" }),
    targets: tensor(targets, { shape, dtype: "i32" }),
    mask: tensor(mask, { shape }),
  };
}

/** A seed from two: neighbours of either are unlike each other. */
export function mixed(a: number, b: number): number {
  let h = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(b + 1, 0xc2b2ae35);
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
  return (h ^ (h >>> 13)) >>> 0;
}
