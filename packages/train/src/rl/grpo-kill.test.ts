import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { checkpointFolder } from "../checkpoints.ts";

const CHILD = fileURLToPath(new URL("./testing/kill-child.ts", import.meta.url));
const KILLS = 3;

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-grpo-kill-"));
});
afterAll(() => rm(dir, { recursive: true }));

/** Runs the child, killed after `limit` milliseconds if it is not done by then. */
function run(folder: string, limit?: number): Promise<string> {
  return new Promise((done, fail) => {
    const child = spawn(process.execPath, [CHILD, folder], { stdio: ["ignore", "pipe", "pipe"] });
    let out = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk) => {
        out += chunk;
      });
    }
    const timer = limit === undefined ? undefined : setTimeout(() => child.kill("SIGKILL"), limit);
    child.on("error", fail);
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      if (code === 0 || signal === "SIGKILL") done(out);
      else fail(new Error(out));
    });
  });
}

const final = async (folder: string) => {
  const files = ["model.safetensors", "optimizer.bin", "config.json"];
  const weights = files.map((f) => readFile(join(checkpointFolder(folder, 6), f), "base64"));
  const lines = (await readFile(join(folder, "metrics.jsonl"), "utf8")).trim().split("\n");
  const told = lines.map((line) => {
    const { step, reward, loss, kl, entropy } = JSON.parse(line);
    return { step, reward, loss, kl, entropy };
  });
  return { weights: await Promise.all(weights), told };
};

test("killed at random moments, a run ends as if it had not been", async () => {
  const whole = join(dir, "whole");
  const started = performance.now();
  expect(await run(whole)).toBe("finished\n");
  const time = performance.now() - started;
  const expected = await final(whole);
  expect(expected.told).toHaveLength(6);
  const folder = join(dir, "cut");
  for (let kill = 0; kill < KILLS; kill++) await run(folder, time * (0.3 + 0.7 * Math.random()));
  expect(await run(folder)).toBe("finished\n");
  expect(await final(folder)).toEqual(expected);
}, 120_000);
