import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";

test("the README's example runs as printed", async () => {
  const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");
  const code = (/```ts\n([\s\S]*?)```/.exec(readme) as RegExpExecArray)[1] as string;
  const folder = mkdtempSync(join(import.meta.dirname, ".readme-"));
  const log = vi.spyOn(console, "log").mockImplementation(() => {});
  try {
    const example = join(folder, "example.ts");
    writeFileSync(example, code.replace('"@dsv3/backend-wasm"', '"../index.ts"'));
    await import(example);
    const [shape, mean, threads] = log.mock.calls[0] as [number[], number, string];
    expect([shape, threads]).toEqual([[256, 256], "wasm"]);
    expect(mean).toBeCloseTo(1 / 256, 6);
  } finally {
    log.mockRestore();
    rmSync(folder, { recursive: true });
  }
});
