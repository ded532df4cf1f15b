/** Rows of parquet tables, one row group in memory at a time. */
import { stat } from "node:fs/promises";
import { Worker } from "node:worker_threads";
import type { RowGroup, TableAnswer, TableJob, TableQuestion, TableRow } from "./table-worker.ts";

export interface TableLimits {
  /** Milliseconds for a row group, and as many more for each MiB of it. */
  readonly patienceMs: number;
  /** Heap of the thread that decodes. */
  readonly heapMiB: number;
}

const LIMITS: TableLimits = { patienceMs: 60_000, heapMiB: 4096 };
const MAX_GROUP_BYTES = 2 ** 30;

/**
 * Reads the rows of a table. A row group that is damaged, or asks for too much time or memory, is one
 * problem, and the next is read.
 * @param onRead told of the stored bytes that were read
 * @param fields the columns that are read, as far as the table has them; null: all
 * @throws Error for a file that is no parquet table, or cut short
 */
export async function* tableRows(
  path: string,
  onRead: (bytes: number) => void,
  fields: readonly string[] | null,
  limits: TableLimits = LIMITS,
): AsyncGenerator<TableRow[]> {
  if ((await stat(path)).size === 0) return;
  const table = new Table({ path, fields }, limits);
  try {
    for (const group of await table.groups()) {
      let rows: TableRow[];
      try {
        rows = await table.rows(group);
      } catch (error) {
        const { start, end } = group;
        const problem = `rows ${start + 1} to ${end} cannot be read: ${(error as Error).message}`;
        yield [{ line: start + 1, problem }];
        continue;
      }
      onRead(group.stored);
      yield rows;
    }
  } finally {
    await table.close();
  }
}

/** A table, and the thread that decodes it, which is started anew after it had to be ended. */
class Table {
  readonly #job: TableJob;
  readonly #limits: TableLimits;
  #worker: Worker | undefined;

  constructor(job: TableJob, limits: TableLimits) {
    this.#job = job;
    this.#limits = limits;
  }

  async groups(): Promise<readonly RowGroup[]> {
    try {
      const answer = await this.#ask("groups", LIMITS.patienceMs);
      return "groups" in answer ? answer.groups : [];
    } catch (error) {
      throw new Error(`no parquet table, or a damaged one: ${(error as Error).message}`);
    }
  }

  async rows(group: RowGroup): Promise<TableRow[]> {
    if (group.decoded > MAX_GROUP_BYTES) {
      throw new Error(`they have ${group.decoded} bytes; write the table with smaller row groups`);
    }
    const patience = this.#limits.patienceMs * (1 + group.decoded / 2 ** 20);
    const answer = await this.#ask(group, patience);
    return "rows" in answer ? answer.rows : [];
  }

  async close(): Promise<void> {
    await this.#worker?.terminate();
    this.#worker = undefined;
  }

  async #ask(question: TableQuestion, patience: number): Promise<TableAnswer> {
    this.#worker ??= this.#start();
    const { promise, resolve, reject } = Promise.withResolvers<TableAnswer>();
    const fail = (reason: string) => reject(new Error(reason));
    const timer = setTimeout(fail, patience, `not decoded after ${Math.round(patience / 1000)} s`);
    const onError = (error: Error) => fail(error.message);
    const worker = this.#worker.once("message", resolve).once("error", onError);
    worker.postMessage(question);
    try {
      const answer = await promise;
      if ("error" in answer) throw new Error(answer.error);
      return answer;
    } catch (error) {
      await this.close();
      throw error;
    } finally {
      clearTimeout(timer);
      worker.off("message", resolve).off("error", onError);
    }
  }

  #start(): Worker {
    const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
    const url = new URL(`./table-worker.${extension}`, import.meta.url);
    return new Worker(url, {
      workerData: this.#job,
      name: "dsv3-table",
      resourceLimits: { maxOldGenerationSizeMb: this.#limits.heapMiB },
    });
  }
}
