import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { wasmBackend } from "@dsv3/backend-wasm";
import { type Backend, disposeTree, memory, setBackend, treePaths } from "@dsv3/tensor";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { checkpointFolder, listCheckpoints } from "../checkpoints.ts";
import { DivergedError } from "../run.ts";
import { type GrpoOptions, grpo } from "./grpo.ts";
import { GRPO_FORMS } from "./grpo-loss.ts";
import type { GrpoMetrics } from "./grpo-metrics.ts";
import { FORM_DEFAULTS, type GrpoSettings } from "./grpo-settings.ts";
import { config, initial, letters, lowBytes, settings, tokenizer } from "./testing/game.ts";

vi.setConfig({ testTimeout: 60_000 });

let backend: Backend;
beforeAll(async () => {
  backend = await wasmBackend({ threads: 1 });
  setBackend(backend);
});
afterAll(() => backend.dispose());

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-grpo-"));
});
afterEach(() => rm(dir, { recursive: true }));

/** Runs to the end; weights as text, and the metrics file without what time decides. */
async function run(
  name: string,
  change: Partial<GrpoSettings>,
  options: Partial<GrpoOptions> = {},
) {
  const folder = join(dir, name);
  const result = await grpo(folder, config, { ...settings, ...change }, letters(), {
    ...{ tokenizer, initial, rewards: [lowBytes] },
    ...options,
  });
  const weights = await Promise.all(
    treePaths(result.params).map(async ([, t]) => Buffer.from(await t.bytes()).toString("base64")),
  );
  disposeTree(result.params);
  const text = await readFile(join(folder, "metrics.jsonl"), "utf8");
  const lines = text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as GrpoMetrics);
  return { folder, weights, lines, finished: result.finished };
}
const TIMED = ["seconds", "step_time", "draw_time", "tokensPerSecond", "peakBytes"];
const untimed = (lines: readonly GrpoMetrics[]) =>
  lines.map((line) => Object.fromEntries(Object.entries(line).filter(([k]) => !TIMED.includes(k))));

test.each(GRPO_FORMS)("%s makes what is rewarded more likely, and leaks nothing", async (form) => {
  const before = memory().liveBytes;
  const { lines, finished } = await run("run", {
    ...{
      steps: 14,
      questions: 2,
      group: 32,
      maxTokens: 3,
      form,
      ...FORM_DEFAULTS[form],
      checkpointEvery: 14,
    },
    ...{ learningRate: [{ shape: "constant", steps: 0, to: 0.05 }], updates: 1, batch: 64 },
  });
  expect(finished).toBe(true);
  expect(lines.map(({ step }) => step)).toEqual(Array.from({ length: 14 }, (_, i) => i + 1));
  const mean = (part: readonly GrpoMetrics[]) =>
    part.reduce((s, m) => s + m.reward, 0) / part.length;
  expect(mean(lines.slice(-3))).toBeGreaterThan(mean(lines.slice(0, 3)) + 0.1);
  expect(memory().liveBytes).toBe(before);
});

test("several updates and epochs: old log-probabilities are the engine's, and ratios leave 1", async () => {
  const { lines } = await run("run", { epochs: 2, updates: 2, batch: 3, form: "dapo", beta: 0.1 });
  for (const line of lines) {
    // What the engine drew with is what the training program computes.
    expect(line["sampling/logp_difference/max"]).toBeLessThan(1e-4);
    expect(line.kl).toBeGreaterThanOrEqual(line.step === 1 ? 0 : 1e-9);
  }
  const plain = await run("plain", { form: "dapo", beta: 0.1 });
  expect(plain.lines[0]?.kl).toBe(0);
  // On-policy, old log-probabilities are the policy's own, so that nothing can be clipped.
  for (const line of plain.lines) expect(line["clip_ratio/region_mean"]).toBe(0);
  expect(lines[0]?.kl).toBeGreaterThan(0);
  const hot = await run("hot", {
    ...{ epochs: 3, updates: 2, form: "dapo" },
    learningRate: [{ shape: "constant", steps: 0, to: 0.2 }],
  });
  expect(hot.lines.some((line) => (line["clip_ratio/region_mean"] as number) > 0)).toBe(true);
});

test("batches of an update accumulate to the same gradient, whatever their size", async () => {
  const whole = await run("whole", { steps: 1, batch: 8 });
  const parts = await run("parts", { steps: 1, batch: 3 });
  for (const name of ["loss", "gradNorm", "entropy", "reward"]) {
    expect(parts.lines[0]?.[name]).toBeCloseTo(whole.lines[0]?.[name] as number, 5);
  }
});

test("what TRL tells, by its names", async () => {
  const { lines } = await run("run", { steps: 1 });
  const line = lines[0] as GrpoMetrics;
  for (const name of [
    ...["num_tokens", "step_time", "reward", "reward_std", "frac_reward_zero_std", "entropy", "kl"],
    ...["rewards/low/mean", "rewards/low/std", "completions/clipped_ratio"],
    ...["mean", "min", "max"].flatMap((m) => [`completions/${m}_length`]),
    ...["mean", "min", "max"].flatMap((m) => [`completions/${m}_terminated_length`]),
    ...["region_mean", "low_mean", "low_min", "high_mean", "high_max"].map(
      (m) => `clip_ratio/${m}`,
    ),
  ]) {
    expect(line[name], name).toBeTypeOf("number");
  }
  // An untrained policy knows nothing of some 280 tokens.
  expect(line.entropy).toBeGreaterThan(Math.log(config.vocabSize) - 1);
  expect(line.entropy).toBeLessThanOrEqual(Math.log(config.vocabSize));
  expect(line["completions/max_length"]).toBeLessThanOrEqual(settings.maxTokens);
  expect(line.reward).toBe(line["rewards/low/mean"]);
});

test("dynamic sampling replaces groups that teach nothing; overlong outputs can be left out", async () => {
  let asked = 0;
  // Questions of even number are always right.
  const sometimes = {
    ...{ name: "sometimes", weight: 1 },
    score: ({ prompt }: { prompt: string }) => (prompt.charCodeAt(0) % 2 === 0 ? 1 : asked++ % 2),
  };
  const { lines } = await run("run", { steps: 2, draws: 3 }, { rewards: [sometimes] });
  // a, (b), c of the first step; (d), e, (f), g of the second.
  expect(lines.map((line) => line.frac_reward_zero_std)).toEqual([1 / 3, 1 / 2]);
  const kept = await run("kept", { steps: 1, dropCut: true, maxTokens: 1, beta: 0 });
  expect(kept.lines[0]?.["completions/clipped_ratio"]).toBe(1);
  expect(kept.lines[0]?.gradNorm).toBe(0);
  // No group teaches anything: the step is done, and changes nothing.
  const none = { ...sometimes, score: () => 1 };
  const idle = await run("idle", { steps: 1, draws: 2, beta: 0 }, { rewards: [none] });
  expect(idle.lines[0]).toMatchObject({ frac_reward_zero_std: 1, gradNorm: 0 });
});

test("stopped and gone on with, a run is the same to the last bit", async () => {
  const change = { steps: 5, epochs: 2, draws: 2 };
  const whole = await run("whole", change);
  const cut = (name: string, at: number) => {
    const controller = new AbortController();
    return run(name, change, {
      signal: controller.signal,
      onStep: ({ step }) => step === at && controller.abort(),
    });
  };
  for (const at of [1, 3]) {
    const stopped = await cut(`cut-${at}`, at);
    expect(stopped).toMatchObject({ finished: false, lines: { length: at } });
    const resumed = await run(`cut-${at}`, change, { resume: true });
    expect(resumed.weights).toEqual(whole.weights);
    expect(untimed(resumed.lines)).toEqual(untimed(whole.lines));
  }
  expect(await listCheckpoints(whole.folder)).toEqual([5, 4]);
  // From the checkpoint before, when the newest is damaged.
  const file = join(checkpointFolder(whole.folder, 5), "optimizer.bin");
  await writeFile(file, Buffer.alloc(10));
  const warnings: string[] = [];
  const mended = await run("whole", change, { resume: true, onWarning: (w) => warnings.push(w) });
  expect(warnings[0]).toContain("step-5 is passed over");
  expect(mended.weights).toEqual(whole.weights);
  await expect(run("whole", { ...change, group: 5 }, { resume: true })).rejects.toThrow(
    "other settings",
  );
});

test("a policy that is measured tells how", async () => {
  const evaluate = {
    every: 2,
    measure: async (engine: { stats(): { generatedTokens: number } }) => ({
      drawn: engine.stats().generatedTokens,
    }),
  };
  const { lines } = await run("run", { steps: 3 }, { evaluate });
  expect(lines.map(({ evaluation }) => evaluation !== undefined)).toEqual([true, true, true]);
  expect(lines[0]?.evaluation).toEqual({ drawn: 0 });
});

test("stops at what is no number, and keeps the last checkpoint", async () => {
  const learningRate = [
    { shape: "constant", steps: 2, to: 0.01 },
    { shape: "constant", steps: 0, to: 1e30 },
  ] as const;
  await expect(run("run", { steps: 6, learningRate })).rejects.toThrow(DivergedError);
  const [last] = await listCheckpoints(join(dir, "run"));
  expect(last).toBeGreaterThanOrEqual(2);
});

test.each<[Partial<GrpoSettings>, string]>([
  [{ group: 1 }, "group should be a whole number of 2 or more, got 1"],
  [{ temperature: 0 }, "temperature"],
  [{ beta: Number.NaN }, "beta"],
  [{ form: "ppo" as never }, "form"],
  [{ updates: 9 }, "more than the 8 outputs"],
])("refuses %j", async (change, message) => {
  await expect(run("run", change)).rejects.toThrow(message);
});

test("refuses rewards that are no numbers, or none", async () => {
  const broken = { ...lowBytes, score: () => Number.NaN };
  await expect(run("run", {}, { rewards: [broken] })).rejects.toThrow("reward low gave NaN");
  await expect(run("none", {}, { rewards: [] })).rejects.toThrow("rewards is empty");
});
