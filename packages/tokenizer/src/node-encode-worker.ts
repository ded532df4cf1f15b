/** One thread of an {@link EncoderPool}: texts in, their ids out. */
import { parentPort, workerData } from "node:worker_threads";
import { type EncodeOptions, Tokenizer } from "./tokenizer.ts";
import type { TokenizerData } from "./tokenizer-data.ts";

/** Some neighbouring texts of a batch. */
export interface EncodeJob {
  texts: readonly string[];
  options: EncodeOptions;
}

/** What became of a job: the ids of all its texts, one after another, or the error. */
export type EncodeAnswer = { ids: Uint32Array; lengths: Uint32Array } | { error: Error };

const tokenizer = new Tokenizer(workerData as TokenizerData);

parentPort?.on("message", ({ texts, options }: EncodeJob) => {
  let answer: EncodeAnswer;
  try {
    const all = texts.map((text) => tokenizer.encode(text, options));
    const ids = new Uint32Array(all.reduce((size, one) => size + one.length, 0));
    let at = 0;
    for (const one of all) {
      ids.set(one, at);
      at += one.length;
    }
    answer = { ids, lengths: Uint32Array.from(all, (one) => one.length) };
  } catch (error) {
    answer = { error: error as Error };
  }
  parentPort?.postMessage(answer, "ids" in answer ? [answer.ids.buffer as ArrayBuffer] : []);
});
