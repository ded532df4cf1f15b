/** Bits per byte of somebody's own texts. */
import type { SourcedRecord } from "../document.ts";
import { rolling } from "../loglikelihood.ts";
import { countPieces, utf8Bytes } from "../python-text.ts";
import type { Task } from "../task.ts";

/**
 * A task over the texts of one source, as `wikitext` is one: log-likelihood of each whole document over
 * its bytes. `@dsv3/train`'s `bitsPerByte` measures rows of packed tokens instead, quicker and a little
 * higher.
 * @param documents records with a field `text`
 */
export function textTask(name: string, documents: () => AsyncIterable<SourcedRecord>): Task {
  return rolling({
    ...{ name, version: 1, split: "all", documents },
    dataset: { path: name, columns: ["text"] },
    question(document) {
      const text = document.text("text");
      return { text, words: countPieces(text), bytes: utf8Bytes(text) };
    },
  });
}
