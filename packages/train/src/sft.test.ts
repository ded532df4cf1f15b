import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ConversationSource } from "@dsv3/data";
import { initParams, type ModelParams } from "@dsv3/model";
import { disposeTree, key, memory, setBackend, tensor, treePaths } from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { ADAMW } from "./adamw.ts";
import type { RunMetrics } from "./metrics.ts";
import { train } from "./run.ts";
import { scheduled, sftSchedule } from "./schedule.ts";
import type { RunSettings } from "./settings.ts";
import { initTrainState, trainStep } from "./step.ts";
import { smallConfig as config, smallSettings } from "./testing.ts";

beforeAll(() => setBackend(referenceBackend()));

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-sft-"));
});
afterEach(() => rm(dir, { recursive: true }));

const settings: RunSettings = {
  ...smallSettings,
  learningRate: sftSchedule(6, 0.02, 0.004),
  biasSpeed: 0,
};
const chat = (source: string, ...ids: number[]) => ({
  source,
  ids: Uint32Array.from(ids),
  mask: Uint8Array.from(ids, (_, i) => (i > 0 ? 1 : 0)),
});
const chats = [chat("even", 2, 4, 6), chat("odd", 1, 3, 5), chat("even", 8, 10), chat("odd", 7, 9)];
const source = (epochs = 20) =>
  new ConversationSource(chats, { length: 6, padId: 0, epochs, seed: 2, tooLong: "truncate" });
const initial = async (): Promise<ModelParams> => {
  using seed = key(4);
  return initParams(config, seed);
};
const hex = async (params: ModelParams) => {
  const all = treePaths(params);
  const texts = await Promise.all(
    all.map(async ([, t]) => Buffer.from(await t.bytes()).toString("hex")),
  );
  disposeTree(params);
  return texts;
};
const metrics = async (run: string) =>
  (await readFile(join(run, "metrics.jsonl"), "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as RunMetrics);

test("the rate goes from 5e-6 to 1e-6 in one cosine", () => {
  const schedule = sftSchedule(100);
  expect(scheduled(schedule, 49)).toBeCloseTo(3e-6, 12);
  expect(scheduled(schedule, 99)).toBeCloseTo(1e-6, 12);
  expect(scheduled(schedule, 0)).toBeLessThan(5e-6);
  expect(scheduled(schedule, 0)).toBeGreaterThan(4.99e-6);
});

test("learns conversations from a model's weights, tells the loss of each source, leaks nothing", async () => {
  const before = memory().liveBytes;
  const run = join(dir, "run");
  const learning: RunSettings = {
    ...settings,
    steps: 30,
    learningRate: sftSchedule(30, 0.02, 0.004),
  };
  const { params } = await train(run, config, learning, source(60), { initial });
  disposeTree(params);
  const lines = await metrics(run);
  const [first, last] = [lines[0], lines.at(-1)] as [RunMetrics, RunMetrics];
  expect(last.mainLoss).toBeLessThan(first.mainLoss - 0.5);
  expect(Object.keys(first.sourceLoss ?? {})).toEqual(["even", "odd"]);
  // Both sources have three targets, and every step of two rows holds all of them.
  const { even, odd } = last.sourceLoss as { even: number; odd: number };
  expect((even + odd) / 2).toBeCloseTo(last.mainLoss, 5);
  expect(memory().liveBytes).toBe(before);
});

test("resumed after a stop, it is the run that was never stopped, bit for bit", async () => {
  const expected = await hex(
    (await train(join(dir, "whole"), config, settings, source(), { initial })).params,
  );
  const stop = new AbortController();
  const cut = join(dir, "cut");
  const onStep = ({ step }: RunMetrics) => step === 3 && stop.abort();
  const first = await train(cut, config, settings, source(), {
    ...{ initial, onStep, signal: stop.signal },
  });
  disposeTree(first.params);
  const second = await train(cut, config, settings, source(), { initial, resume: true });
  expect(await hex(second.params)).toEqual(expected);
});

test("a step whose batches hold no target has no loss, and no NaN", async () => {
  const run = join(dir, "empty");
  // One epoch is one step of two rows: the five after it are empty.
  const { params } = await train(run, config, settings, source(1), { initial });
  for (const [path, t] of treePaths(params)) {
    expect(((await t.data()) as Float32Array).every(Number.isFinite), path).toBe(true);
  }
  disposeTree(params);
  const lines = await metrics(run);
  expect(lines[0]?.mainLoss).toBeGreaterThan(0);
  expect(lines.slice(1).map((m) => [m.mainLoss, m.sourceLoss])).toEqual(
    Array.from({ length: 5 }, () => [0, {}]),
  );
});

test("targets weigh the same in whatever batch of an update they are", async () => {
  // Three targets in one batch and one in the other, against the four in one batch.
  const rows = [
    { inputIds: [1, 2, 3, 4], targets: [2, 3, 4, -1] },
    { inputIds: [5, 6, 7, 8], targets: [-1, -1, 8, -1] },
  ];
  const batch = (of: typeof rows) => {
    const i32 = (pick: "inputIds" | "targets") =>
      tensor(
        of.flatMap((r) => r[pick]),
        { shape: [of.length, 4], dtype: "i32" },
      );
    return { inputIds: i32("inputIds"), targets: i32("targets") };
  };
  const step = trainStep(config, {
    ...{ loss: { mtpWeight: 0, balanceWeight: 0 }, optimizer: ADAMW, clip: 1 },
  });
  const measure = async (batches: ReturnType<typeof batch>[], shares?: number[]) => {
    const rates = { learningRate: 0.01, biasSpeed: 0, ...(shares ? { shares } : {}) };
    const { state, metrics } = step(initTrainState(await initial()), batches, rates);
    const result = [await metrics.loss.item(), await metrics.gradNorm.item()];
    disposeTree([state, metrics, batches]);
    return result as [number, number];
  };
  const [loss, norm] = await measure([batch(rows)]);
  const [sharedLoss, sharedNorm] = await measure(
    rows.map((r) => batch([r])),
    [0.75, 0.25],
  );
  const [evenLoss] = await measure(rows.map((r) => batch([r])));
  step.dispose();
  expect(sharedLoss).toBeCloseTo(loss, 5);
  expect(sharedNorm).toBeCloseTo(norm, 4);
  expect(Math.abs(evenLoss - loss)).toBeGreaterThan(1e-4);
});
