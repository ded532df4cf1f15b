import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { commandHelp } from "./command.ts";
import { fakeIo } from "./testing.ts";

it("the README's command works as printed", async () => {
  const readme = readFileSync(join(import.meta.dirname, "../README.md"), "utf8");
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] as string;
  const folder = join(import.meta.dirname, ".readme");
  mkdirSync(folder, { recursive: true });
  try {
    writeFileSync(join(folder, "double.ts"), code);
    const { double } = await import(join(folder, "double.ts"));
    const io = fakeIo();
    await double.run(["21", "--json"], io);
    expect(JSON.parse(io.stdout.text)).toEqual({ result: 42 });
    await expect(double.run(["21", "--times", "65"], io)).rejects.toThrow("at most 64");
    expect(commandHelp("double", double)).toContain("Usage: dsv3 double NUMBER [flags]");
  } finally {
    rmSync(folder, { recursive: true });
  }
});
