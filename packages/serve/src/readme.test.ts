import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";

test("the README's example runs as printed", { timeout: 30_000 }, async () => {
  const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] as string;
  const file = join(import.meta.dirname, ".readme-example.ts");
  const log = vi.spyOn(console, "log").mockImplementation(() => {});
  try {
    writeFileSync(file, code.replace('"@dsv3/serve"', '"./index.ts"'));
    await import(file);
    const printed = log.mock.calls;
    expect(printed.at(-2)?.[1]).toMatch(/stop|length/);
    const [first, second, usage] = printed.at(-1) as [number[], number[], object];
    expect(first.length).toBeGreaterThan(0);
    expect(second.length).toBeGreaterThan(0);
    expect(usage).toEqual({
      promptTokens: 3,
      cachedTokens: 0,
      completionTokens: first.length + second.length,
    });
  } finally {
    log.mockRestore();
    rmSync(file);
  }
});
