import { spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { checkpointFolder } from "./checkpoints.ts";

const CHILD = fileURLToPath(new URL("./kill-child.ts", import.meta.url));
const KILLS = Number(process.env.DSV3_KILLS ?? 4);

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-kill-"));
});
afterAll(() => rm(dir, { recursive: true }));

/** Runs the child, killed after `limit` milliseconds of work if it is not done by then. */
function run(folder: string, limit?: number): Promise<{ killed: boolean; out: string }> {
  return new Promise((done, fail) => {
    const child = spawn(process.execPath, [CHILD, folder], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    let out = "";
    child.stdout.on("data", (chunk) => {
      out += chunk;
    });
    child.stderr.on("data", (chunk) => {
      out += chunk;
    });
    const timer = limit === undefined ? undefined : setTimeout(() => child.kill("SIGKILL"), limit);
    child.on("error", fail);
    child.on("exit", (code, signal) => {
      clearTimeout(timer);
      if (code === 0 || signal === "SIGKILL") done({ killed: signal === "SIGKILL", out });
      else fail(new Error(out));
    });
  });
}

const final = async (folder: string) => {
  const files = ["model.safetensors", "optimizer.bin"];
  const weights = files.map((f) => readFile(join(checkpointFolder(folder, 40), f)));
  const lines = (await readFile(join(folder, "metrics.jsonl"), "utf8")).trim().split("\n");
  const losses = lines.map((line) => [JSON.parse(line).step, JSON.parse(line).loss]);
  return { weights: await Promise.all(weights), losses };
};

test(`killed ${KILLS} times at random moments, a run ends as if it had not been`, {
  timeout: 60_000 + KILLS * 20_000,
}, async () => {
  const whole = join(dir, "whole");
  const started = performance.now();
  await run(whole);
  const time = performance.now() - started;
  const expected = await final(whole);

  for (let killed = 0, round = 0; killed < KILLS; round++) {
    const folder = join(dir, `cut-${round}`);
    // Several kills for each run; the last is left alone until it is done.
    for (let i = 0; i < 3 && killed < KILLS; i++) {
      const result = await run(folder, time * (0.3 + 0.7 * Math.random()));
      if (result.killed) killed++;
    }
    expect((await run(folder)).out).toBe("finished\n");
    expect(await final(folder)).toEqual(expected);
    const names = await readdir(join(folder, "checkpoints"));
    expect(names.sort()).toEqual(["step-39", "step-40"]);
    await rm(folder, { recursive: true });
  }
});
