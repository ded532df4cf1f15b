import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { fakeUpstream, says } from "./testing/fake-upstream.ts";

const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");
const examples = Array.from(readme.matchAll(/```ts\n([\s\S]*?)```/g), ([, code]) => code as string);

/** Runs an example; what it prints last. */
async function printed(number: number, code = examples[number] as string): Promise<unknown> {
  const file = join(import.meta.dirname, `.readme-example-${number}.ts`);
  const log = vi.spyOn(console, "log").mockImplementation(() => {});
  try {
    writeFileSync(file, code.replace('"@dsv3/server"', '"./index.ts"'));
    await import(file);
    return log.mock.lastCall?.[0];
  } finally {
    log.mockRestore();
    rmSync(file);
  }
}

test("the README's example runs as printed", { timeout: 30_000 }, async () => {
  const tokens = await printed(0);
  expect(tokens).toBeGreaterThanOrEqual(1);
  expect(tokens).toBeLessThanOrEqual(5);
});

test("the README's gateway runs as printed, but for its addresses", async () => {
  const engines = await Promise.all(
    ["one", "two"].map((model) => fakeUpstream(says(model), { model })),
  );
  const [first, second] = engines.map(({ url }) => url);
  const code = examples[1]!;
  const here = code
    .replace("http://10.0.0.5:8000", first!)
    .replace("http://10.0.0.6:8000", second!);
  expect(await printed(1, here)).toEqual(["one", "two"]);
  expect(engines[1]!.checks[0]!.authorization).toBe("Bearer its key");
  for (const engine of engines) await engine.close();
});
