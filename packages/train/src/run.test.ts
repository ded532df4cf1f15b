import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { disposeTree, memory, setBackend, treePaths } from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { checkpointFolder, listCheckpoints } from "./checkpoints.ts";
import type { RunMetrics } from "./metrics.ts";
import { DivergedError, train } from "./run.ts";
import { readRun } from "./run-folder.ts";
import type { RunSettings } from "./settings.ts";
import { smallConfig as config, counting, smallSettings as settings } from "./testing.ts";

beforeAll(() => setBackend(referenceBackend()));

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-run-"));
});
afterEach(() => rm(dir, { recursive: true }));

async function weightsOf(run: Awaited<ReturnType<typeof train>>) {
  const entries = await Promise.all(
    treePaths(run.params).map(
      async ([path, t]) => [path, Buffer.from(await t.bytes()).toString("hex")] as const,
    ),
  );
  disposeTree(run.params);
  return Object.fromEntries(entries);
}

const metrics = async (run: string) =>
  (await readFile(join(run, "metrics.jsonl"), "utf8"))
    .trim()
    .split("\n")
    .map((l) => JSON.parse(l) as RunMetrics);
const losses = async (run: string) => (await metrics(run)).map((m) => [m.step, m.loss, m.gradNorm]);

describe("train", () => {
  test("learns, records every step, keeps the newest checkpoints, and leaks nothing", async () => {
    const before = memory().liveBytes;
    const run = join(dir, "a");
    const result = await train(run, config, { ...settings, steps: 30 }, counting());
    expect(result.finished).toBe(true);
    const lines = await metrics(run);
    expect(lines.map((m) => m.step)).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
    expect(lines.at(-1)?.mainLoss).toBeLessThan((lines[0]?.mainLoss as number) - 0.3);
    expect(lines.at(-1)?.tokens).toBe(30 * 12);
    expect(lines.every((m) => m.expertLoad >= 1 && m.expertLoad <= 4)).toBe(true);
    expect(await listCheckpoints(run)).toEqual([30, 28]);
    disposeTree(result.params);
    expect(memory().liveBytes).toBe(before);
  });

  test("resumed after a stop, it is the run that was never stopped, bit for bit", async () => {
    const whole = join(dir, "whole");
    const expected = await weightsOf(await train(whole, config, settings, counting()));
    const cut = join(dir, "cut");
    const stop = new AbortController();
    const first = await train(cut, config, settings, counting(), {
      signal: stop.signal,
      onStep: ({ step }) => step === 3 && stop.abort(),
    });
    expect(first.finished).toBe(false);
    disposeTree(first.params);
    expect(await listCheckpoints(cut)).toEqual([3, 2]);
    const second = await train(cut, config, settings, counting(), { resume: true });
    expect(await weightsOf(second)).toEqual(expected);
    expect(await losses(cut)).toEqual(await losses(whole));
  });

  test("a damaged checkpoint is reported, and the one before is taken", async () => {
    const whole = join(dir, "whole");
    const expected = await weightsOf(await train(whole, config, settings, counting()));
    const run = join(dir, "run");
    const stop = new AbortController();
    const onStep = ({ step }: RunMetrics) => step === 4 && stop.abort();
    disposeTree(
      (await train(run, config, settings, counting(), { signal: stop.signal, onStep })).params,
    );
    const file = join(checkpointFolder(run, 4), "optimizer.bin");
    const bytes = await readFile(file);
    bytes[7] = (bytes[7] as number) ^ 1;
    await writeFile(file, bytes);
    const warnings: string[] = [];
    const resumed = await train(run, config, settings, counting(), {
      resume: true,
      onWarning: (w) => warnings.push(w),
    });
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(/checkpoint step-4 is passed over: .*step-4 is damaged/);
    expect(await weightsOf(resumed)).toEqual(expected);
    expect(await losses(run)).toEqual(await losses(whole));
  });

  test("batches for an update grow, and bf16 moments resume exactly too", async () => {
    const ramped: RunSettings = {
      ...settings,
      accumulate: 3,
      ramp: { from: 1, steps: 4 },
      momentDtype: "bf16",
    };
    const whole = join(dir, "whole");
    const expected = await weightsOf(await train(whole, config, ramped, counting()));
    const counts = (await metrics(whole)).map((m, i, all) => m.tokens - (all[i - 1]?.tokens ?? 0));
    expect(counts.map((tokens) => tokens / 12)).toEqual([1, 1, 2, 2, 3, 3]);
    const stop = new AbortController();
    const onStep = ({ step }: RunMetrics) => step === 3 && stop.abort();
    const cut = join(dir, "cut");
    const first = await train(cut, config, ramped, counting(), { signal: stop.signal, onStep });
    disposeTree(first.params);
    const { settings: saved } = await readRun(cut);
    const second = await train(cut, config, saved, counting(), { resume: true });
    expect(await weightsOf(second)).toEqual(expected);
    const wrong = { ...ramped, ramp: { from: 4, steps: 1 } };
    await expect(train(join(dir, "z"), config, wrong, counting())).rejects.toThrow(
      "ramp starts with 4 batches",
    );
  });

  test("gradients of several batches are averaged", async () => {
    const one = await weightsOf(
      await train(join(dir, "one"), config, { ...settings, steps: 1, batch: 4 }, counting()),
    );
    const two = await train(
      join(dir, "two"),
      config,
      { ...settings, steps: 1, batch: 2, accumulate: 2 },
      counting(),
    );
    const values = treePaths(two.params);
    for (const [path, t] of values) {
      const want = new Float32Array(
        Uint8Array.from(Buffer.from(one[path] as string, "hex")).buffer,
      );
      const have = (await t.data()) as Float32Array;
      // Adam's first step is ±learning rate: only gradients near 0 may differ in more than rounding.
      const off = want.filter((x, i) => Math.abs(x - (have[i] as number)) > 1e-4).length;
      expect(off / want.length, path).toBeLessThan(0.05);
    }
    disposeTree(two.params);
  });

  test("a loss that is no number stops the run and keeps the last checkpoint", async () => {
    const run = join(dir, "nan");
    const wild = {
      ...settings,
      steps: 50,
      learningRate: [{ shape: "constant", steps: 1, to: 1e30 }],
    } as const;
    await expect(train(run, config, wild, counting())).rejects.toThrow(DivergedError);
  });

  test("a start that was killed leaves nothing in the way", async () => {
    await mkdir(join(dir, ".x.new", "checkpoints"), { recursive: true });
    await writeFile(join(dir, ".x.new", "tokenizer.json"), "{");
    await mkdir(join(dir, "x")); // an empty folder is as good as none
    const extraFiles = { "tokenizer.json": Buffer.from("{}") };
    const one = { ...settings, steps: 1 };
    const { params } = await train(join(dir, "x"), config, one, counting(), { extraFiles });
    disposeTree(params);
    expect(await readdir(dir)).toEqual(["x"]);
    expect(await readFile(join(dir, "x", "tokenizer.json"), "utf8")).toBe("{}");
  });

  test("a start that fails leaves nothing, and says what it could not make", async () => {
    const extraFiles = { "no/such.json": Buffer.from("{}") };
    await expect(
      train(join(dir, "x"), config, settings, counting(), { extraFiles }),
    ).rejects.toThrow(/cannot make the run's folder .*x/);
    expect(await readdir(dir)).toEqual([]);
  });

  test("a damaged checkpoint is named and passed over; without any, a run begins anew", async () => {
    const run = join(dir, "x");
    const one = { ...settings, steps: 1 };
    disposeTree((await train(run, config, one, counting())).params);
    await writeFile(join(run, "checkpoints", "step-1", "training-state.json"), '{"progress": ');
    const told: string[] = [];
    const resume = { resume: true, onWarning: (text: string) => told.push(text) };
    disposeTree((await train(run, config, one, counting(), resume)).params);
    expect(told).toEqual([
      expect.stringMatching(/step-1.*training-state\.json is damaged/),
      expect.stringContaining("starts again"),
    ]);
    await rm(join(run, "checkpoints"), { recursive: true });
    disposeTree((await train(run, config, one, counting(), { resume: true })).params);
    expect(await readdir(join(run, "checkpoints"))).toEqual(["step-1"]);
  });

  test("folders in use, missing runs, other settings and senseless ones are refused", async () => {
    const run = join(dir, "x");
    await expect(train(run, config, settings, counting(), { resume: true })).rejects.toThrow(
      "holds no run to resume",
    );
    disposeTree((await train(run, config, { ...settings, steps: 1 }, counting())).params);
    await expect(train(run, config, settings, counting())).rejects.toThrow("holds a run already");
    await expect(train(run, config, settings, counting(), { resume: true })).rejects.toThrow(
      "other settings",
    );
    await writeFile(join(dir, "note.txt"), "mine");
    await expect(train(dir, config, settings, counting())).rejects.toThrow(/is not empty/);
    await writeFile(join(run, "run.json"), "{");
    await expect(readRun(run)).rejects.toThrow("run.json is damaged: it is no JSON");
    const bad = (s: Partial<RunSettings>) =>
      train(join(dir, "y"), config, { ...settings, ...s }, counting());
    await expect(bad({ batch: 0 })).rejects.toThrow(
      "batch should be a whole number of 1 or more, got 0",
    );
    await expect(bad({ length: 100_000 })).rejects.toThrow("maxPositionEmbeddings of 128");
  });
});
