/** Tasks that ask how likely a text is: after a beginning, or by itself. */
import type { Document } from "./document.ts";
import { loglikelihood, rollingLoglikelihood } from "./language-model.ts";
import { BITS_PER_BYTE, MEAN, PERPLEXITY, WEIGHTED_PERPLEXITY } from "./metrics.ts";
import type { Task, TaskHead } from "./task.ts";

/** Scores one text after a prompt: `acc` is whether each of its tokens was the likeliest. */
export function ending({
  question,
  ...head
}: TaskHead & {
  question(document: Document): { readonly prompt: string; readonly ending: string };
}): Task {
  return {
    ...head,
    kind: "loglikelihood",
    metrics: { perplexity: PERPLEXITY, acc: MEAN },
    read(document) {
      const { prompt, ending } = question(document);
      return {
        target: ending,
        solved: `${prompt} ${ending}`,
        async ask(model, before) {
          const { logprob, isGreedy } = await loglikelihood(model, before + prompt, ending);
          return {
            values: { "perplexity,none": logprob, "acc,none": isGreedy ? 1 : 0 },
            requests: [[before + prompt, ending]],
            responses: [[logprob, isGreedy]],
          };
        },
      };
    },
  };
}

/** Scores whole texts. Words and bytes are told apart from the text, which may be another writing of them. */
export function rolling({
  question,
  ...head
}: TaskHead & {
  question(document: Document): {
    readonly text: string;
    readonly words: number;
    readonly bytes: number;
  };
}): Task {
  return {
    ...head,
    kind: "loglikelihood_rolling",
    metrics: {
      word_perplexity: WEIGHTED_PERPLEXITY,
      byte_perplexity: WEIGHTED_PERPLEXITY,
      bits_per_byte: BITS_PER_BYTE,
    },
    read(document) {
      const { text, words, bytes } = question(document);
      return {
        target: text,
        solved: text,
        async ask(model) {
          const logprob = await rollingLoglikelihood(model, text);
          return {
            values: {
              "word_perplexity,none": [logprob, words],
              "byte_perplexity,none": [logprob, bytes],
              "bits_per_byte,none": [logprob, bytes],
            },
            requests: [[text]],
            responses: [logprob],
          };
        },
      };
    },
  };
}
