import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";

test("the README's example runs as printed", { timeout: 30_000 }, async () => {
  const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] as string;
  const file = join(import.meta.dirname, ".readme-example.ts");
  const log = vi.spyOn(console, "log").mockImplementation(() => {});
  try {
    writeFileSync(file, code.replace('"@dsv3/server"', '"./index.ts"'));
    await import(file);
    const [tokens] = log.mock.lastCall as [number];
    expect(tokens).toBeGreaterThanOrEqual(1);
    expect(tokens).toBeLessThanOrEqual(5);
  } finally {
    log.mockRestore();
    rmSync(file);
  }
});
