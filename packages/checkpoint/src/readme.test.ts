import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it, onTestFinished, vi } from "vitest";

it("the README's example does what its comments say", async () => {
  const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] as string;
  // Beside the sources, where the example can import them; it writes there, too.
  const dir = mkdtempSync(join(import.meta.dirname, ".readme-"));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  const log = vi.spyOn(console, "log").mockImplementation(() => {});
  onTestFinished(() => log.mockRestore());

  const example = code
    .replace('"@dsv3/checkpoint"', '"../index.ts"')
    .replace(/"(model[^"]*)"/g, (_, name) => JSON.stringify(join(dir, name)));
  writeFileSync(join(dir, "example.ts"), example);
  await import(join(dir, "example.ts"));

  const rows = log.mock.calls[1]?.[0] as Float32Array;
  expect(log.mock.calls[0]).toEqual(["o_proj.weight", "bf16", [256, 512], 262144]);
  expect(rows.length).toBe(2 * 512);
  expect(rows[0]).toBeCloseTo(Math.sin(100 * 512), 2);
  expect(readdirSync(dir).sort()).toEqual(["example.ts", "model", "model-bf16"]);
});

it("only node-folder.ts needs Node, and only when a path is given", () => {
  const sources = readdirSync(import.meta.dirname).filter((f) => /(?<!\.test)\.ts$/.test(f));
  const importing = (what: RegExp) =>
    sources.filter((f) => what.test(readFileSync(join(import.meta.dirname, f), "utf8")));
  expect(importing(/from "node:/)).toEqual(["node-folder.ts"]);
  expect(importing(/from "\.\/node-folder\.ts"/)).toEqual([]);
});
