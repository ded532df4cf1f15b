import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { generate, loadModel, type ModelParams } from "@dsv3/model";
import { disposeTree, memory, setBackend, treeLeaves, treePaths } from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { checkpointFolder, listCheckpoints } from "./checkpoints.ts";
import type { RunMetrics } from "./metrics.ts";
import { deepseekPhases } from "./recipe.ts";
import { type RunResult, train } from "./run.ts";
import { scheduled } from "./schedule.ts";
import { type Phase, parsePhases, phaseAt, type RunSettings, totalSteps } from "./settings.ts";
import { counting, smallSettings as settings, smallConfig } from "./testing.ts";

beforeAll(() => setBackend(referenceBackend()));

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-phases-"));
});
afterEach(() => rm(dir, { recursive: true }));

const config = { ...smallConfig, maxPositionEmbeddings: 8, eosTokenIds: [] };
const hashes = async (params: ModelParams | undefined) => {
  const entries = treePaths(params).map(
    async ([path, t]) =>
      [
        path,
        createHash("sha256")
          .update(await t.bytes())
          .digest("hex"),
      ] as const,
  );
  const all: Record<string, string> = Object.fromEntries(await Promise.all(entries));
  disposeTree(params);
  return all;
};
const metrics = async (run: string) =>
  (await readFile(join(run, "metrics.jsonl"), "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as RunMetrics);

describe("a run of three phases", () => {
  const constant = (steps: number, to: number) => [{ shape: "constant", steps, to }] as const;
  const phased: RunSettings = {
    ...settings,
    ...{ steps: 2, emaDecay: 0.6, dropout: 0.1, checkpointEvery: 1, keepCheckpoints: 9 },
    laterPhases: [
      {
        ...{ steps: 2, batch: 1, length: 8, accumulate: 2, learningRate: constant(2, 0.004) },
        ...{ biasSpeed: 0, mtpWeight: 0, balanceWeight: 0 },
      },
      {
        ...{ steps: 2, batch: 1, length: 24, accumulate: 1, learningRate: constant(2, 0.001) },
        ...{ biasSpeed: 0, mtpWeight: 0.1, balanceWeight: 0, yarn: { factor: 4 } },
      },
    ],
  };

  let run: string;
  let result: RunResult;
  let whole: { params: Record<string, string>; ema: Record<string, string> };
  let leaked: number;
  beforeAll(async () => {
    run = join(await mkdtemp(join(tmpdir(), "dsv3-phases-")), "whole");
    const before = memory().liveBytes;
    result = await train(run, config, phased, counting());
    whole = { params: await hashes(result.params), ema: await hashes(result.ema) };
    leaked = memory().liveBytes - before;
  });
  afterAll(() => rm(join(run, ".."), { recursive: true }));

  test("changes rate, shapes, weights and context, and leaks nothing", async () => {
    expect(result.finished).toBe(true);
    expect(leaked).toBe(0);
    const lines = await metrics(run);
    expect(lines.map((m) => m.phase)).toEqual([1, 1, 2, 2, 3, 3]);
    expect(lines.map((m) => m.tokens)).toEqual([12, 24, 40, 56, 80, 104]);
    expect(lines.slice(2).map((m) => m.learningRate)).toEqual([0.004, 0.004, 0.001, 0.001]);
    expect(lines.map((m) => m.mtpLoss > 0)).toEqual([true, true, false, false, true, true]);
    // The last phase stretches the 6 tokens of the first by 4.
    expect(result.config).toMatchObject({
      maxPositionEmbeddings: 24,
      ropeScaling: { factor: 4, originalMaxPositionEmbeddings: 6, betaFast: 32, mscaleAllDim: 1 },
    });
    const contextOf = async (step: number) => {
      const text = await readFile(join(checkpointFolder(run, step), "config.json"), "utf8");
      const { max_position_embeddings, rope_scaling } = JSON.parse(text);
      return [max_position_embeddings, rope_scaling?.factor ?? 1];
    };
    expect([await contextOf(4), await contextOf(5)]).toEqual([
      [8, 1],
      [24, 4],
    ]);
    const model = await loadModel(checkpointFolder(run, 6));
    const prompt = Array.from({ length: 14 }, (_, i) => i);
    const [answer] = await generate(model.params, model.config, [prompt], { maxNewTokens: 8 });
    expect(answer).toHaveLength(8);
    disposeTree(model.params);
  });

  test.each([1, 2, 3, 4, 5])(
    "stopped after step %i, it goes on bit for bit",
    {
      timeout: 60_000,
    },
    async (at) => {
      const cut = join(dir, "cut");
      const stop = new AbortController();
      const onStep = ({ step }: RunMetrics) => step === at && stop.abort();
      const first = await train(cut, config, phased, counting(), { signal: stop.signal, onStep });
      disposeTree([first.params, first.ema]);
      expect((await listCheckpoints(cut))[0]).toBe(at);
      const second = await train(cut, config, phased, counting(), { resume: true });
      expect(await hashes(second.params)).toEqual(whole.params);
      expect(await hashes(second.ema)).toEqual(whole.ema);
      const losses = async (run: string) => (await metrics(run)).map((m) => m.loss);
      expect(await losses(cut)).toEqual(await losses(run));
    },
  );

  test("a phase longer than its context is refused, with its place", async () => {
    const [second, third] = phased.laterPhases as [Phase, Phase];
    const { yarn: _, ...unstretched } = third;
    const wrong = { ...phased, laterPhases: [second, unstretched] };
    await expect(train(join(dir, "x"), config, wrong, counting())).rejects.toThrow(
      "laterPhases[1].length 24 is over the model's maxPositionEmbeddings of 8",
    );
  });
});

test("the moving average is that of the weights after each step; evaluations see both", async () => {
  const seen: Float32Array[] = [];
  const averaged = { ...settings, emaDecay: 0.7 };
  const { params, ema } = await train(join(dir, "run"), smallConfig, averaged, counting(), {
    evaluate: {
      every: 1,
      async measure({ params, ema }) {
        seen.push(
          (await (treeLeaves(params)[0] as (typeof params)["norm"]).data()) as Float32Array,
        );
        return { averages: treeLeaves(ema).length };
      },
    },
  });
  let mean = new Float64Array((seen[0] as Float32Array).length);
  for (const [i, w] of seen.entries()) {
    const decay = Math.min(i / (i + 1), 0.7);
    mean = mean.map((m, at) => decay * m + (1 - decay) * (w[at] as number));
  }
  const got = (await (treeLeaves(ema)[0] as (typeof params)["norm"]).data()) as Float32Array;
  expect(Math.max(...got.map((g, i) => Math.abs(g - (mean[i] as number))))).toBeLessThan(1e-6);
  const lines = await metrics(join(dir, "run"));
  const count = treeLeaves(params).length;
  expect(lines.map((m) => m.evaluation)).toEqual(Array(6).fill({ averages: count }));
  disposeTree([params, ema]);
});

test("recomputed layers give the same training, dropout included; dropout changes it", {
  timeout: 60_000,
}, async () => {
  const losses = async (name: string, more: Partial<RunSettings>) => {
    const all = { ...settings, steps: 4, ...more };
    const { params } = await train(join(dir, name), smallConfig, all, counting());
    disposeTree(params);
    return (await metrics(join(dir, name))).map((m) => m.loss);
  };
  const distance = (a: number[], b: number[]) =>
    Math.max(...a.map((x, i) => Math.abs(x - (b[i] as number))));
  const [plain, dropped] = [await losses("a", {}), await losses("b", { dropout: 0.3 })];
  expect(distance(plain, dropped)).toBeGreaterThan(1e-3);
  // The order of sums differs, and nothing else.
  expect(distance(await losses("c", { remat: true }), plain)).toBeLessThan(1e-5);
  expect(distance(await losses("d", { remat: true, dropout: 0.3 }), dropped)).toBeLessThan(1e-5);
  const ofAttention = await losses("e", { attentionDropout: 0.3 });
  expect(distance(ofAttention, plain)).toBeGreaterThan(1e-4);
  expect(
    distance(await losses("f", { remat: true, attentionDropout: 0.3 }), ofAttention),
  ).toBeLessThan(1e-5);
});

describe("phases from files", () => {
  const before: Phase = settings;
  const parse = (json: unknown) => parsePhases(json, before, "p.json");

  test("take what they leave out from the phase before", () => {
    const [first, second] = parse([
      { steps: 5, learningRate: 1e-3, batch: 7, ramp: { from: 1, steps: 2 }, yarn: { factor: 8 } },
      { steps: 6, learningRate: [{ shape: "linear", steps: 6, from: 1e-3, to: 0 }], length: 32 },
    ]) as [Phase, Phase];
    expect(first).toMatchObject({ batch: 7, length: 6, mtpWeight: 0.3, yarn: { factor: 8 } });
    expect(scheduled(first.learningRate, 3)).toBe(1e-3);
    expect(second).toMatchObject({ batch: 7, length: 32, accumulate: 1, yarn: { factor: 8 } });
    expect(second.ramp).toBeUndefined();
    expect(parse({ steps: 1, learningRate: 0 })).toHaveLength(1);
  });

  test.each<[unknown, string]>([
    [[], "p.json: an empty list"],
    [null, "p.json: expected a phase"],
    [[3], "p.json: [0]: expected a phase"],
    [[{ learningRate: 1 }], "p.json: [0]: steps is missing: a whole number of 1 or more"],
    [{ steps: 1 }, "p.json: learningRate"],
    [{ steps: 1, learningRate: "fast" }, "p.json: learningRate should be a list of pieces"],
    [{ steps: 1, learningRate: -1 }, "p.json: learningRate[0].to should be"],
    [{ steps: 0, learningRate: 1 }, "p.json: steps should be a whole number of 1 or more, got 0"],
    [{ steps: 1e99, learningRate: 1 }, "p.json: steps should be a whole number"],
    [{ steps: 1, learningRate: 1, lenght: 4 }, "p.json: lenght is unknown"],
    [{ steps: 1, learningRate: 1, yarn: { factor: 0.5 } }, "p.json: yarn.factor should be 1"],
    [
      [
        { steps: 1, learningRate: 1 },
        { steps: 1, learningRate: 1, ramp: { from: 0, steps: 3 } },
      ],
      "p.json: [1]: ramp.from should be a whole number of 1 or more, got 0",
    ],
    [JSON.parse('{"steps":1,"learningRate":1,"__proto__":{"batch":0}}'), "__proto__"],
  ])("%j: %s", (json, message) => {
    expect(() => parse(json)).toThrow(message);
  });
});

describe("the report's recipe", () => {
  test("at its own size: steps, batches, rates and weights of section 4.2 and 4.3", () => {
    const phases = deepseekPhases({
      ...{ tokens: 14.8e12, batch: 3072, accumulate: 5, length: 4096, learningRate: 2.2e-4 },
      extend: [
        { length: 32768, steps: 1000 },
        { length: 131072, steps: 1000 },
      ],
    });
    const [peak, falling, low, at32k, at128k] = phases as [Phase, Phase, Phase, Phase, Phase];
    const step = 15360 * 4096;
    expect(peak.learningRate[0]?.steps).toBeCloseTo(2000, -1);
    expect(peak.ramp?.from).toBe(1);
    // 469B tokens in batches of 9,216 sequences on average, then 9.531T at full size.
    expect(peak.ramp?.steps).toBeCloseTo(469e9 / (9216 * 4096), -1);
    const inRamp = (peak.ramp?.steps ?? 0) * 9216 * 4096;
    expect((inRamp + (peak.steps - (peak.ramp?.steps ?? 0)) * step) / 1e12).toBeCloseTo(10, 3);
    expect((falling.steps * step) / 1e12).toBeCloseTo(4.3, 3);
    expect((low.steps * step) / 1e12).toBeCloseTo(0.5, 3);
    expect(((low.learningRate[1]?.steps ?? 0) * step) / 1e9).toBeCloseTo(167, -1);
    expect(scheduled(falling.learningRate, falling.steps - 1)).toBeCloseTo(2.2e-5, 12);
    expect(scheduled(low.learningRate, low.steps - 1)).toBeCloseTo(7.3e-6, 12);
    expect(phases.map((p) => p.biasSpeed)).toEqual([0.001, 0.001, 0, 0, 0]);
    expect(phases.map((p) => p.mtpWeight)).toEqual([0.3, 0.1, 0.1, 0.1, 0.1]);
    expect(at32k).toMatchObject({ steps: 1000, batch: 3072 / 8, accumulate: 5, length: 32768 });
    expect(at32k.batch * at32k.accumulate).toBe(1920);
    expect(at128k.batch * at128k.accumulate).toBe(480);
    for (const longer of [at32k, at128k]) {
      expect(longer.yarn).toEqual({ factor: 40, originalMaxPositionEmbeddings: 4096 });
    }
  });

  test.each([1e3, 3e5, 1e8])("over %d tokens, it spends them", (tokens) => {
    const sizes = { batch: 4, accumulate: 1, length: 128, learningRate: 1e-3 };
    const phases = deepseekPhases({ tokens, ...sizes });
    const steps = phases.reduce((sum, p) => sum + p.steps, 0);
    expect(Math.abs(steps - tokens / 512)).toBeLessThanOrEqual(4);
    const [first, ...rest] = phases as [Phase, ...Phase[]];
    const run: RunSettings = { ...settings, ...first, laterPhases: rest };
    expect(totalSteps(run)).toBe(steps);
    expect(phaseAt(run, first.steps)).toMatchObject({ index: 1, start: first.steps });
    expect(phaseAt(run, steps - 1).index).toBe(2);
  });
});
