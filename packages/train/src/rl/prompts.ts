/** Questions in chat form, without end: of a task made by rule, or of a list. */
import { type Question, shuffled, type TaskLanguage, type TaskName, taskItems } from "@dsv3/data";
import { encodeChat, type Tokenizer } from "@dsv3/tokenizer";
import type { Prompt, PromptSource } from "./rollouts.ts";

/** A question in chat form, as the model is asked it. */
export function promptOf(tokenizer: Tokenizer, question: Question): Prompt {
  const messages = [{ role: "user" as const, content: question.prompt }];
  const { ids } = encodeChat(tokenizer, messages, { addGenerationPrompt: true });
  return { ids, question };
}

/** Questions of a task in the order of its seed; the position is how many were given. */
export function taskPrompts(
  tokenizer: Tokenizer,
  task: TaskName,
  { seed, languages }: { seed: number; languages: readonly TaskLanguage[] },
): PromptSource {
  const start = () => taskItems(task, "train", { seed, languages });
  let items = start();
  let given = 0;
  const next = () => {
    given++;
    const { value: item } = items.next();
    return { prompt: item.prompt, answer: item.answer, item } satisfies Question;
  };
  return {
    next: () => promptOf(tokenizer, next()),
    get position() {
      return given;
    },
    seek(position: number) {
      if (position < given) [items, given] = [start(), 0];
      while (given < position) next();
    },
  };
}

/** Questions of a list, in another order each time over it. */
export function listPrompts(
  tokenizer: Tokenizer,
  questions: readonly Question[],
  seed: number,
): PromptSource {
  let given = 0;
  return {
    next() {
      const epoch = Math.floor(given / questions.length);
      const order = shuffled(questions.length, seed + epoch);
      const index = order[given++ % questions.length] as number;
      return promptOf(tokenizer, questions[index] as Question);
    },
    get position() {
      return given;
    },
    seek(position: number) {
      given = position;
    },
  };
}
