import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";

test("the README's example runs as printed", async () => {
  const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] as string;
  const folder = mkdtempSync(join(import.meta.dirname, ".readme-"));
  const log = vi.spyOn(console, "log").mockImplementation(() => {});
  try {
    writeFileSync(join(folder, "example.ts"), code.replace('"@dsv3/moe"', '"../index.ts"'));
    await import(join(folder, "example.ts"));
    const [shape, load] = log.mock.calls[0] as [number[], Float32Array];
    expect(shape).toEqual([4, 16, 32]);
    expect(load.reduce((a, b) => a + b)).toBe(128);
  } finally {
    log.mockRestore();
    rmSync(folder, { recursive: true });
  }
});
