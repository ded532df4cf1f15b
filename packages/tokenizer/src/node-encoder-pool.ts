import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { BpeModel } from "./bpe.ts";
import type { EncodeAnswer, EncodeJob } from "./node-encode-worker.ts";
import type { EncodeOptions, Tokenizer } from "./tokenizer.ts";
import type { TokenizerData } from "./tokenizer-data.ts";

export interface EncoderPoolOptions {
  /** Worker threads. Default: one for every core. */
  threads?: number;
}

/** Texts go to a thread together until they are this long, in UTF-16 units: a few milliseconds. */
const JOB_LENGTH = 1 << 18;

/** A job, and where its texts begin in the batch. */
interface Job extends EncodeJob {
  first: number;
}

/**
 * Threads that encode many texts at once. They share one copy of the vocabulary. The pool keeps no
 * process alive; `close` it where the program goes on without it.
 */
export class EncoderPool {
  readonly threads: number;
  readonly #workers: Worker[] = [];
  readonly #idle: Worker[] = [];
  readonly #waiting: ((worker: Worker) => void)[] = [];
  #failure: Error | undefined;

  constructor(tokenizer: Tokenizer, options: EncoderPoolOptions = {}) {
    this.threads = options.threads ?? availableParallelism();
    if (!Number.isInteger(this.threads) || this.threads < 1) {
      throw new RangeError(`threads ${this.threads}: expected a whole number from 1`);
    }
    const data: TokenizerData = { ...tokenizer.data, model: shareModel(tokenizer.data.model) };
    const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
    const url = new URL(`./node-encode-worker.${extension}`, import.meta.url);
    for (let i = 0; i < this.threads; i++) {
      const worker = new Worker(url, { workerData: data, name: "dsv3-encode" });
      worker.unref();
      this.#workers.push(worker);
      this.#idle.push(worker);
    }
  }

  /**
   * The ids of each text, in order: what {@link Tokenizer.encode} gives, on all threads. A single
   * text is never divided.
   */
  async encodeBatch(texts: readonly string[], options: EncodeOptions = {}): Promise<Uint32Array[]> {
    const results = new Array<Uint32Array>(texts.length);
    const jobs = jobsOf(texts, options);
    const lanes = Array.from({ length: Math.min(this.threads, jobs.length) }, async () => {
      for (let job = jobs.pop(); job !== undefined; job = jobs.pop()) {
        const { ids, lengths } = await this.#run(job);
        let start = 0;
        for (let i = 0; i < lengths.length; i++) {
          const end = start + lengths[i]!;
          results[job.first + i] = ids.subarray(start, end);
          start = end;
        }
      }
    });
    await Promise.all(lanes);
    return results;
  }

  /** Ends the threads; batches in work fail. */
  async close(): Promise<void> {
    this.#failure ??= new Error("this EncoderPool is closed");
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #run(job: Job): Promise<{ ids: Uint32Array; lengths: Uint32Array }> {
    const worker = this.#idle.pop() ?? (await this.#nextIdle());
    if (this.#failure !== undefined) throw this.#failure;
    try {
      const answer = await ask(worker, { texts: job.texts, options: job.options });
      if ("error" in answer) throw answer.error;
      return answer;
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#idle.push(worker);
      else next(worker);
    }
  }

  #nextIdle(): Promise<Worker> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}

/** The vocabulary in memory that threads share. */
function shareModel(model: BpeModel): BpeModel {
  const { pool, starts, lengths, byteIds, merges } = model;
  const shared = <T extends Uint8Array | Uint16Array | Uint32Array>(array: T): T => {
    const Kind = array.constructor as new (buffer: SharedArrayBuffer) => T;
    const copy = new Kind(new SharedArrayBuffer(array.byteLength));
    copy.set(array);
    return copy;
  };
  return {
    ...model,
    pool: shared(pool),
    starts: shared(starts),
    lengths: shared(lengths),
    byteIds: shared(byteIds),
    merges: shared(merges),
  };
}

/** Texts in groups; the last group first, because jobs are taken from the end. */
function jobsOf(texts: readonly string[], options: EncodeOptions): Job[] {
  const jobs: Job[] = [];
  let length = 0;
  let first = 0;
  for (let i = 0; i < texts.length; i++) {
    length += texts[i]!.length;
    if (length < JOB_LENGTH && i + 1 < texts.length) continue;
    jobs.push({ texts: texts.slice(first, i + 1), options, first });
    first = i + 1;
    length = 0;
  }
  return jobs.reverse();
}

function ask(worker: Worker, job: EncodeJob): Promise<EncodeAnswer> {
  return new Promise((resolve, reject) => {
    const settle = (finish: () => void): void => {
      worker.off("message", onMessage).off("error", onError).off("exit", onExit);
      worker.unref();
      finish();
    };
    const onMessage = (answer: EncodeAnswer): void => settle(() => resolve(answer));
    const onError = (error: Error): void => settle(() => reject(error));
    const onExit = (): void =>
      settle(() => reject(new Error("an encoder thread ended before its answer")));
    worker.on("message", onMessage).on("error", onError).on("exit", onExit);
    worker.ref(); // the process waits for an answer
    worker.postMessage(job);
  });
}
