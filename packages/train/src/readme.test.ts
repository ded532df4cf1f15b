import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";

test("the README's example does what it says", { timeout: 60_000 }, async () => {
  const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");
  const folder = join(import.meta.dirname, ".readme");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const log = vi.spyOn(console, "log").mockImplementation(() => {});
  try {
    const code = ((/```ts\n([\s\S]*?)```/.exec(readme) as RegExpExecArray)[1] as string)
      .replace('"@dsv3/train"', '"../index.ts"')
      .replace('"my-run"', JSON.stringify(join(folder, "my-run")));
    writeFileSync(join(folder, "example.ts"), code);
    await import(join(folder, "example.ts"));
    expect(log.mock.calls).toEqual([[3, 96, true]]);
  } finally {
    log.mockRestore();
    rmSync(folder, { recursive: true });
  }
});
