/** For tests: documents that stand in a list instead of a file. */
import { Document, type SourcedRecord } from "../document.ts";
import type { DocumentSource } from "../source.ts";
import type { Task } from "../task.ts";
import { EVAL_TASKS } from "../tasks/registry.ts";

export const sourced = (value: unknown, line = 1): SourcedRecord => ({
  ...{ value, line, file: "made-up.jsonl" },
});

export const documentOf = (value: unknown): Document => new Document(sourced(value));

/** Records by task and split. */
export function listSource(
  records: Readonly<Record<string, Readonly<Record<string, readonly unknown[]>>>>,
): DocumentSource {
  return {
    async *documents({ name }, split) {
      const list = records[name]?.[split];
      if (list === undefined) throw new Error(`${name} has no ${split}`);
      for (const [i, record] of list.entries()) yield sourced(record, i + 1);
    },
  };
}

export function taskOf(name: string): Task {
  const task = EVAL_TASKS.find((one) => one.name === name);
  if (task === undefined) throw new Error(`no task ${name}`);
  return task;
}
