/** Questions made by rule (@dsv3/data), asked as a user asks them; whether a box holds the answer counts. */
import { solves, TASKS, type TaskItem, type TaskName, taskItems } from "@dsv3/data";
import type { SourcedRecord } from "../document.ts";
import { generation, passValues } from "../generation.ts";
import { MEAN } from "../metrics.ts";
import type { Task } from "../task.ts";

/** Questions of each task, all different, always the same ones. */
const COUNT = 200;
const SEED = 1234;

/** Of a task with fewer questions than `COUNT`, this many draws without a new one are the end. */
const PATIENCE = 2000;

function* items(task: TaskName): Generator<SourcedRecord> {
  const seen = new Set<string>();
  let vain = 0;
  for (const item of taskItems(task, "test", { seed: SEED })) {
    vain = seen.has(item.prompt) ? vain + 1 : 0;
    if (vain > PATIENCE) return;
    if (vain > 0) continue;
    seen.add(item.prompt);
    yield { value: item, file: `rule:${task}`, line: seen.size };
    if (seen.size === COUNT) return;
  }
}

function rule(name: TaskName): Task {
  return generation({
    ...{ name: `rule_${name.replaceAll("-", "_")}`, version: 1, split: "test" },
    dataset: { path: "@dsv3/data", config: name, columns: ["prompt", "answer"] },
    documents: () => items(name),
    metrics: { "pass@1": MEAN },
    until: [],
    maxTokens: 64,
    sampled: true,
    conversation: true,
    exercise(document) {
      const item = document.record as unknown as TaskItem;
      return {
        prompt: document.text("prompt"),
        target: document.text("answer"),
        score: (texts) =>
          passValues(
            texts.map((text) => solves(item, text)),
            "none",
          ),
      };
    },
  });
}

export const RULE_TASKS: readonly Task[] = TASKS.map(rule);
