/** Where reinforcement learning takes its questions from: a task made by rule, or a file. */
import { type Question, shuffled, type TaskLanguage, type TaskName, taskItems } from "@dsv3/data";
import { readRecords } from "@dsv3/data/node";
import { encodeChat, type Tokenizer } from "@dsv3/tokenizer";
import type { Prompt, PromptSource } from "@dsv3/train";

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

/**
 * Questions of a file: records with `prompt` (or `problem`, `question`), and what is known of a right
 * answer as `answer` or `tests`.
 * @throws DataError, or Error naming file and line, for a record that is no question
 */
export async function readQuestions(paths: readonly string[]): Promise<Question[]> {
  const questions: Question[] = [];
  for await (const { value, file, line } of readRecords(paths)) {
    const record = (typeof value === "object" && value !== null ? value : {}) as Record<
      string,
      unknown
    >;
    const prompt = record.prompt ?? record.problem ?? record.question;
    const { answer, tests } = record;
    if (typeof prompt !== "string" || prompt === "") {
      throw new Error(
        `${file}:${line}: no question; expected a text as "prompt", "problem" or "question"`,
      );
    }
    if (tests !== undefined && typeof tests !== "string") {
      throw new Error(`${file}:${line}: "tests" should be a text of JavaScript`);
    }
    if (answer !== undefined && typeof answer !== "string" && typeof answer !== "number") {
      throw new Error(`${file}:${line}: "answer" should be a text or a number`);
    }
    questions.push({
      prompt,
      ...(answer === undefined ? {} : { answer: String(answer) }),
      ...(tests === undefined ? {} : { tests }),
    });
  }
  if (questions.length === 0) throw new Error(`${paths.join(", ")}: no questions`);
  return questions;
}
