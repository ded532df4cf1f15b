/** How often a model is right on a task that it was not trained on. */
import {
  passAtK,
  solves,
  type TaskItem,
  type TaskLanguage,
  type TaskName,
  taskItems,
} from "@dsv3/data";
import type { Engine } from "@dsv3/serve";
import type { Tokenizer } from "@dsv3/tokenizer";
import { promptOf } from "./prompts.ts";

export interface TaskScores {
  /** Shares of questions answered right by one answer, and by one of eight at least. */
  readonly "pass@1": number;
  readonly "pass@8": number;
}

export interface MeasureOptions {
  readonly questions: number;
  /** Answers to each that the shares are estimated from, 8 at least. */
  readonly answers: number;
  readonly maxTokens: number;
  readonly languages: readonly TaskLanguage[];
}

/** Always the same questions, none of which the train split has. */
const TEST_SEED = 5;

export function testItems(
  task: TaskName,
  languages: readonly TaskLanguage[],
  count: number,
): TaskItem[] {
  const items = taskItems(task, "test", { seed: TEST_SEED, languages });
  return Array.from({ length: count }, () => items.next().value as TaskItem);
}

/** Answers that are asked for at once, so that no engine's queue is full. */
const AT_ONCE = 128;

/** Draws answers at temperature 1 and judges them. */
export async function measureTask(
  engine: Engine,
  tokenizer: Tokenizer,
  task: TaskName,
  { questions, answers, maxTokens, languages }: MeasureOptions,
): Promise<TaskScores> {
  const items = testItems(task, languages, questions);
  const right: number[] = [];
  let next = 0;
  const lane = async () => {
    while (next < items.length) {
      const seed = next++;
      const item = items[seed] as TaskItem;
      const prompt = promptOf(tokenizer, { prompt: item.prompt }).ids;
      const { choices } = await engine.generate({ prompt, n: answers, maxTokens, seed });
      right.push(choices.filter(({ text }) => solves(item, text)).length);
    }
  };
  await Promise.all(Array.from({ length: Math.ceil(AT_ONCE / answers) }, lane));
  const pass = (k: number) =>
    right.reduce((sum, c) => sum + passAtK(answers, c, k), 0) / right.length;
  return { "pass@1": pass(1), "pass@8": pass(8) };
}
