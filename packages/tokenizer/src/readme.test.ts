import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it, onTestFinished, vi } from "vitest";
import { SPECIAL_TOKENS } from "./special.ts";

const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");

it("the README's example prints what its comments say", async () => {
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] as string;
  const folder = mkdtempSync(join(import.meta.dirname, ".readme-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const log = vi.spyOn(console, "log").mockImplementation(() => {});
  onTestFinished(() => log.mockRestore());
  writeFileSync(join(folder, "example.ts"), code.replace('"@dsv3/tokenizer"', '"../index.ts"'));
  await import(join(folder, "example.ts"));
  expect(log.mock.calls).toEqual([
    ["A row of texts, perché no? 😀"],
    [`A text!${SPECIAL_TOKENS.eos}`],
  ]);
});

it("every import that the README shows is there", async () => {
  const faces = { "": await import("./index.ts"), "/node": await import("./node.ts") };
  const shown = [...readme.matchAll(/import \{ (.*) \} from "@dsv3\/tokenizer(.*)"/g)];
  expect(shown).toHaveLength(3);
  for (const [, names = "", path] of shown) {
    for (const name of names.split(", "))
      expect(faces[path as keyof typeof faces]).toHaveProperty(name);
  }
});
