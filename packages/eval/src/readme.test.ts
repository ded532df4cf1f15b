import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { EVAL_GROUPS, EVAL_TASKS, multipleChoice } from "./index.ts";
import { documentOf } from "./testing/documents.ts";

const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");
const blocks = [...readme.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => code as string);

test("the README's example runs as printed", { timeout: 60_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), "dsv3-readme-"));
  const file = join(import.meta.dirname, ".readme-example.ts");
  const log = vi.spyOn(console, "log").mockImplementation(() => {});
  try {
    mkdirSync(join(folder, "arc_easy"));
    const choices = { text: ["at the shore", "in the sky"], label: ["A", "B"] };
    const record = { question: "where is the sea?", choices, answerKey: "A" };
    writeFileSync(join(folder, "arc_easy/test.jsonl"), `${JSON.stringify(record)}\n`.repeat(3));
    const code = blocks[0]?.replace('"@dsv3/eval"', '"./index.ts"') as string;
    writeFileSync(file, code.replace('"benchmarks"', JSON.stringify(folder)));
    await import(file);
    const [results] = log.mock.calls.at(-1) as [Record<string, unknown>];
    expect(Object.keys(results)).toEqual([
      "alias",
      "acc,none",
      "acc_stderr,none",
      "acc_norm,none",
      "acc_norm_stderr,none",
    ]);
  } finally {
    log.mockRestore();
    rmSync(file);
    rmSync(folder, { recursive: true });
  }
});

test("the README's task reads documents", () => {
  const [, code] = blocks;
  const task = new Function("multipleChoice", `${code}; return colours;`)(multipleChoice);
  const question = task.read(
    documentOf({ thing: "grass", colours: ["red", "green", "blue"], right: 1 }),
  );
  expect(question.solved).toBe("The colour of grass is green");
});

test("the README names every task and group", () => {
  for (const { name } of [...EVAL_TASKS, ...EVAL_GROUPS]) {
    const shown = name.replace(/^(mmlu|blimp|rule)_.*/, "$1_<");
    expect(readme, name).toMatch(new RegExp(`\`${shown}`));
  }
});
