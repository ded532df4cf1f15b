import { spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { checkpointFolder, listCheckpoints } from "./checkpoints.ts";

const CHILD = fileURLToPath(new URL("./kill-child.ts", import.meta.url));
const KILLS = Number(process.env.DSV3_KILLS ?? 50);
const KILLS_OF_A_RUN = 5;
const LANES = 2;

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-kill-"));
});
afterAll(() => rm(dir, { recursive: true }));

/** Runs the child, killed after `limit` milliseconds if it is not done by then. */
function run(folder: string, limit?: number): Promise<{ killed: boolean; out: string }> {
  return new Promise((done, fail) => {
    const child = spawn(process.execPath, [CHILD, folder], {
      stdio: ["ignore", "pipe", "pipe"],
      // Fifty processes load the same modules.
      env: { ...process.env, NODE_COMPILE_CACHE: join(dir, "compiled") },
    });
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
      if (code === 0 || signal === "SIGKILL") done({ killed: signal === "SIGKILL", out });
      else fail(new Error(out));
    });
  });
}

const final = async (folder: string) => {
  const files = ["model.safetensors", "optimizer.bin", "config.json"];
  const weights = files.map((f) => readFile(join(checkpointFolder(folder, 24), f), "base64"));
  const lines = (await readFile(join(folder, "metrics.jsonl"), "utf8")).trim().split("\n");
  const losses = lines.map((line) => [JSON.parse(line).step, JSON.parse(line).loss]);
  return { weights: await Promise.all(weights), losses };
};

/** Damages a file of the newest checkpoint; its step, if there is one. */
async function damage(folder: string, round: number): Promise<number | undefined> {
  const [step] = await listCheckpoints(folder);
  if (step === undefined) return undefined;
  const names = ["model.safetensors", "optimizer.bin", "training-state.json", "config.json"];
  const file = join(checkpointFolder(folder, step), names[round % names.length] as string);
  const bytes = await readFile(file);
  if (round % 3 === 2) {
    await truncate(file, Math.floor(bytes.length / 2));
  } else {
    // A bit of the last number, whether it is a weight, a moment or written out.
    const at = bytes.findLastIndex((b) => b !== 0 && (!file.endsWith(".json") || isDigit(b)));
    bytes[at] = (bytes[at] as number) ^ 1;
    await writeFile(file, bytes);
  }
  return step;
}

const isDigit = (byte: number) => byte >= 48 && byte <= 57;

test(`killed ${KILLS} times at random moments, and damaged, a run ends as if it had not been`, {
  timeout: 120_000 + KILLS * 20_000,
}, async () => {
  const whole = join(dir, "whole");
  await run(whole, 100); // A first kill, which also fills the cache of compiled modules.
  await rm(whole, { recursive: true, force: true });
  const started = performance.now();
  expect((await run(whole)).out).toBe("finished\n");
  const time = performance.now() - started;
  const expected = await final(whole);

  let [killed, rounds, fellBack] = [0, 0, 0];
  const lane = async () => {
    while (killed < KILLS) {
      const round = rounds++;
      const folder = join(dir, `cut-${round}`);
      for (let i = 0; i < KILLS_OF_A_RUN && killed < KILLS; i++) {
        const result = await run(folder, time * Math.random());
        if (result.killed) killed++;
        else break;
      }
      // Every second run goes on from a checkpoint that is damaged, if it has one.
      const step = round % 2 === 0 ? await damage(folder, round / 2) : undefined;
      const { out } = await run(folder);
      expect(out).toMatch(/finished\n$/);
      if (step === undefined) expect(out).toBe("finished\n");
      else {
        expect(out).toContain(`checkpoint step-${step} is passed over: `);
        fellBack++;
      }
      expect(await final(folder)).toEqual(expected);
      expect((await readdir(join(folder, "checkpoints"))).sort()).toEqual(["step-23", "step-24"]);
      await rm(folder, { recursive: true });
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  expect(killed).toBeGreaterThanOrEqual(KILLS);
  if (KILLS >= 50) expect(fellBack).toBeGreaterThan(0);
});
