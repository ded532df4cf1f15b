/** Tasks in which the likeliest of some texts is the answer. */
import type { Document } from "./document.ts";
import { type LanguageModel, loglikelihood } from "./language-model.ts";
import { argmax, MEAN } from "./metrics.ts";
import { characters, utf8Bytes } from "./python-text.ts";
import type { Answer, Question, Task, TaskHead } from "./task.ts";

type ChoiceMetric = "acc" | "acc_norm" | "acc_bytes";

/** A question with its choices, which stand after the prompt; or, with `ending`, before that. */
export interface Choices {
  readonly prompt: string;
  readonly choices: readonly string[];
  readonly gold: number;
  /** Each choice is a prompt of its own, and this the text that is scored after it. */
  readonly ending?: string;
}

/** Between a prompt and what is scored after it (`target_delimiter`). */
const DELIMITER = " ";

/** What the choice's log-likelihood is divided by; ties go to the first choice. */
const LENGTHS: Readonly<Record<ChoiceMetric, (choice: string) => number>> = {
  acc: () => 1,
  acc_norm: characters,
  acc_bytes: utf8Bytes,
};

export function multipleChoice({
  metrics,
  question,
  ...head
}: TaskHead & {
  readonly metrics: readonly ChoiceMetric[];
  question(document: Document): Choices;
}): Task {
  return {
    ...head,
    kind: "multiple_choice",
    metrics: Object.fromEntries(metrics.map((name) => [name, MEAN])),
    read: (document) => asQuestion(question(document), metrics),
  };
}

function asQuestion(
  { prompt, choices, gold, ending }: Choices,
  metrics: readonly ChoiceMetric[],
): Question {
  const right = choices[gold] as string;
  const before = prompt + (ending === undefined ? "" : right);
  const after = ending ?? right;
  return {
    target: gold,
    solved: `${before}${DELIMITER}${after}`,
    async ask(model: LanguageModel, head: string): Promise<Answer> {
      const requests = choices.map((choice): [string, string] =>
        ending === undefined
          ? [head + prompt, DELIMITER + choice]
          : [head + prompt + choice, DELIMITER + ending],
      );
      const responses = await Promise.all(requests.map((pair) => loglikelihood(model, ...pair)));
      const values = metrics.map((metric) => {
        const scores = choices.map(
          (choice, i) => (responses[i]?.logprob ?? Number.NaN) / LENGTHS[metric](choice),
        );
        return [`${metric},none`, argmax(scores) === gold ? 1 : 0] as const;
      });
      const told = responses.map(({ logprob, isGreedy }) => [logprob, isGreedy]);
      return { values: Object.fromEntries(values), requests, responses: told };
    },
  };
}
