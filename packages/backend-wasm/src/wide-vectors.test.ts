import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it } from "vitest";
import { widenVectors } from "./wide-vectors.ts";

const CHILD = fileURLToPath(new URL("./wide-vectors-child.ts", import.meta.url));

it("are had on x86 with the V8 that this is tested with", async () => {
  const expected = process.arch === "x64" && process.versions.v8.startsWith("14.");
  expect(await widenVectors()).toBe(expected);
});

it("give every operation the bits of narrow ones", { timeout: 240_000 }, async () => {
  const { stdout } = await promisify(execFile)(process.execPath, ["--no-liftoff", CHILD], {
    maxBuffer: 2 ** 26,
  });
  expect(Number(/^(?:ℹ|#) pass (\d+)/m.exec(stdout)?.[1])).toBeGreaterThan(300);
});
