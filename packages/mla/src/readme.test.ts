import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";

test("the README's example runs as printed: the cache gives what the whole gives", async () => {
  const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] as string;
  const folder = mkdtempSync(join(import.meta.dirname, ".readme-"));
  const log = vi.spyOn(console, "log").mockImplementation(() => {});
  try {
    writeFileSync(join(folder, "example.ts"), code.replace('"@dsv3/mla"', '"../index.ts"'));
    await import(join(folder, "example.ts"));
    const [whole, cached] = log.mock.calls[0] as [Float32Array, Float32Array];
    expect(whole).toHaveLength(2 * 64);
    for (const [i, x] of whole.entries()) expect(Math.abs(x - cached[i]!)).toBeLessThan(1e-6);
  } finally {
    log.mockRestore();
    rmSync(folder, { recursive: true });
  }
});
