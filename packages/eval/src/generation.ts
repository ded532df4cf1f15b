/** Tasks in which the model writes, and a program says what that is worth. */
import { passAtK } from "@dsv3/data";
import type { Document } from "./document.ts";
import { generateUntil } from "./language-model.ts";
import type { AskSettings, Task, TaskHead } from "./task.ts";

/** What to write after, and how the answers are judged. */
export interface Exercise {
  readonly prompt: string;
  /** The right answer, as it stands in a solved document. */
  readonly target: string;
  /**
   * Values of the answers by `metric,filter`: of one, or of `repeats` where the task samples.
   * @param texts at least one
   */
  score(
    texts: readonly string[],
    settings: AskSettings,
  ): Readonly<Record<string, number>> | Promise<Readonly<Record<string, number>>>;
}

export interface GenerationTask extends TaskHead {
  readonly metrics: Task["metrics"];
  /** Texts that end an answer. */
  readonly until: readonly string[];
  readonly maxTokens: number;
  readonly sampled?: boolean;
  readonly runsCode?: boolean;
  /** The prompt is what a user says in a conversation. */
  readonly conversation?: boolean;
  exercise(document: Document): Exercise;
}

export function generation({
  exercise,
  until,
  conversation = false,
  ...task
}: GenerationTask): Task {
  return {
    ...task,
    kind: "generate_until",
    read(document) {
      const { prompt, target, score } = exercise(document);
      return {
        target,
        solved: `${prompt} ${target}`,
        async ask(model, head, settings) {
          const { repeats, temperature, seed } = settings;
          const text = head + prompt;
          const ids = conversation ? model.encodeQuestion(text) : model.encode(text, true);
          const maxTokens = settings.maxTokens ?? task.maxTokens;
          const sampling = task.sampled ? { n: repeats, temperature, seed } : {};
          const texts = await generateUntil(model, ids, { until, maxTokens, ...sampling });
          const values = await score(texts, settings);
          return { values, requests: [[text]], responses: texts };
        },
      };
    },
  };
}

/** `pass@k` of some answers for k = 1, 2, 4 … and all of them, under a filter's name. */
export function passValues(right: readonly boolean[], filter: string): Record<string, number> {
  const n = right.length;
  const correct = right.filter(Boolean).length;
  const counts = new Set([n]);
  for (let k = 1; k < n; k *= 2) counts.add(k);
  return Object.fromEntries(
    [...counts].sort((a, b) => a - b).map((k) => [`pass@${k},${filter}`, passAtK(n, correct, k)]),
  );
}
