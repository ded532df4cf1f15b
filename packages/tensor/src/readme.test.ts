import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";

test("the README's example runs as printed and learns [3, 2]", async () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const code = (/```ts\n([\s\S]*?)```/.exec(readme) as RegExpExecArray)[1] as string;
  const folder = mkdtempSync(join(import.meta.dirname, ".readme-"));
  const log = vi.spyOn(console, "log").mockImplementation(() => {});
  try {
    const local = code
      .replace('"@dsv3/tensor"', '"../index.ts"')
      .replace('"@dsv3/tensor/testing"', '"../testing/index.ts"');
    writeFileSync(join(folder, "example.ts"), local);
    await import(join(folder, "example.ts"));
    const [a, b] = (log.mock.calls[0] as [Float32Array])[0];
    expect(a).toBeCloseTo(3, 2);
    expect(b).toBeCloseTo(2, 2);
  } finally {
    log.mockRestore();
    rmSync(folder, { recursive: true });
  }
});
