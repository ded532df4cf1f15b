/** Tasks in which the model writes: GSM8K, SQuAD-it, HumanEval. */
import { answerF1, exactAnswer, lastNumber, sameNumber, strictNumber } from "../exact-match.ts";
import { generation, passValues } from "../generation.ts";
import { MEAN } from "../metrics.ts";
import { runPython } from "../python-sandbox.ts";
import type { Task } from "../task.ts";

/** tasks/gsm8k/gsm8k.yaml */
const gsm8k = generation({
  ...{ name: "gsm8k", version: 3, split: "test" },
  fewShot: { split: "train", count: 5, sampler: "random" },
  dataset: { path: "openai/gsm8k", config: "main", columns: ["question", "answer"] },
  metrics: { exact_match: MEAN },
  until: ["Question:", "</s>", "<|im_end|>"],
  maxTokens: 256,
  exercise(document) {
    const target = document.text("answer");
    return {
      prompt: `Question: ${document.text("question")}\nAnswer:`,
      target,
      score([text = ""]) {
        const same = (answer: string) => (sameNumber(answer, target) ? 1 : 0);
        return {
          "exact_match,strict-match": same(strictNumber(text)),
          "exact_match,flexible-extract": same(lastNumber(text)),
        };
      },
    };
  },
});

/**
 * The harness has no SQuAD-it (0.4.13): this is the prompt of its squadv2 (tasks/squadv2/task.py) where
 * a record has a title, and that without its first line where it has none, as in the Hub's copy. Every
 * question has an answer here. Exact match and F1 are shares, where squadv2's are per cent.
 */
const squadIt = generation({
  ...{ name: "squad_it", version: 1, split: "test" },
  fewShot: { split: "train", count: 0, sampler: "random" },
  dataset: {
    path: "crux82/squad_it",
    config: "default",
    columns: ["title (may lack)", "context", "question", "answers"],
  },
  metrics: { exact_match: MEAN, f1: MEAN },
  until: ["\n"],
  maxTokens: 256,
  exercise(document) {
    const title = document.optionalText("title");
    const answers = document.texts("answers.text");
    const parts = [
      ...(title === null ? [] : [`Title: ${title}`]),
      `Background: ${document.text("context")}`,
      `Question: ${document.text("question")}`,
      "Answer:",
    ];
    return {
      prompt: parts.join("\n\n"),
      target: answers[0] as string,
      score: ([text = ""]) => ({
        "exact_match,none": exactAnswer(text, answers),
        "f1,none": answerF1(text, answers),
      }),
    };
  },
});

/** tasks/humaneval/humaneval.yaml, utils.py: the program is prompt, answer and test. */
const humaneval = generation({
  ...{ name: "humaneval", version: 1, split: "test" },
  dataset: {
    path: "openai/openai_humaneval",
    config: "openai_humaneval",
    columns: ["prompt", "test", "entry_point"],
  },
  metrics: { "pass@1": MEAN },
  until: ["\nclass", "\ndef", "\n#", "\nif", "\nprint"],
  maxTokens: 1024,
  sampled: true,
  runsCode: true,
  exercise(document) {
    const [prompt, test] = [document.text("prompt"), document.text("test")];
    const target = `${test}\ncheck(${document.text("entry_point")})`;
    return {
      prompt,
      target,
      async score(texts, { signal }) {
        const right: boolean[] = [];
        for (const text of texts) {
          const run = await runPython(`${prompt}${text}\n${target}`, signal ? { signal } : {});
          right.push(run.passed);
        }
        return passValues(right, "create_test");
      },
    };
  },
});

export const GENERATIVE_TASKS: readonly Task[] = [gsm8k, squadIt, humaneval];
