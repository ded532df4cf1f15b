/** Where the documents of a task come from. */
import { glob, stat } from "node:fs/promises";
import { join } from "node:path";
import { readRecords } from "@dsv3/data/node";
import type { SourcedRecord } from "./document.ts";
import type { Task } from "./task.ts";

export interface DocumentSource {
  /** @throws Error where the source has no such split, saying what it looked for */
  documents(task: Task, split: string): AsyncIterable<SourcedRecord>;
}

/** Datasets of the Hugging Face Hub by their own names, fetched once and kept. */
export function hubSource(signal?: AbortSignal): DocumentSource {
  return {
    documents: ({ dataset: { path, config = "default" } }, split) =>
      readRecords([`hf:${path}/${config}:${split}`], signal ? { signal } : {}),
  };
}

/**
 * Files in a folder: `<task>/<split>.jsonl`, or .json, .parquet, and what the Hub's own names of a
 * split's files are (`test-00000-of-00001.parquet`).
 */
export function folderSource(folder: string, signal?: AbortSignal): DocumentSource {
  return {
    async *documents({ name, dataset }, split) {
      const inside = join(folder, name);
      const files: string[] = [];
      for await (const file of glob(`${split}[-._]*`, { cwd: inside })) files.push(file);
      if (files.length === 0) {
        const there = await stat(inside).catch(() => undefined);
        throw new Error(
          `${there ? `${inside} has no file ${split}.jsonl` : `there is no folder ${inside}`} ` +
            `(or .json, .parquet): records of ${dataset.path} with ${dataset.columns.join(", ")}`,
        );
      }
      const paths = files.sort().map((file) => join(inside, file));
      yield* readRecords(paths, signal ? { signal } : {});
    },
  };
}
