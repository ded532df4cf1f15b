import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";

test("the README's example runs as printed", { timeout: 30_000 }, async () => {
  const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] as string;
  const folder = mkdtempSync(join(import.meta.dirname, ".readme-"));
  const log = vi.spyOn(console, "log").mockImplementation(() => {});
  try {
    const local = code
      .replace('"@dsv3/model"', '"../index.ts"')
      .replaceAll('"my-model"', JSON.stringify(join(folder, "my-model")));
    writeFileSync(join(folder, "example.ts"), local);
    await import(join(folder, "example.ts"));
    const [[total], [loss, main, layers], [continuations]] = log.mock.calls as [
      [number],
      [number, number, number],
      [number[][]],
    ];
    expect(total).toBe(671_026_419_200);
    expect(main).toBeGreaterThan(4);
    expect(loss).toBeGreaterThan(main);
    expect(layers).toBe(3);
    expect(continuations[0]!.length).toBeGreaterThan(0);
  } finally {
    log.mockRestore();
    rmSync(folder, { recursive: true });
  }
});
