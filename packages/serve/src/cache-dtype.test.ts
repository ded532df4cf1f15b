import { initParams, type ModelParams } from "@dsv3/model";
import { disposeTree, key, memory } from "@dsv3/tensor";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { EngineOptions } from "./engine.ts";
import { config, engines, prompt } from "./testing/tiny.ts";

const { make } = engines();

/** Weights large enough that the model is sure of something: attention then depends on what it reads. */
const strong = { ...config, initializerRange: 0.15 };
let params: ModelParams;
beforeAll(() => {
  params = initParams(strong, key(3));
});
afterAll(() => disposeTree(params));

async function scored(options: Partial<EngineOptions>) {
  const before = memory().liveBytes;
  const engine = make({ params, config: strong, ...options });
  const bytes = memory().liveBytes - before;
  const generation = engine.submit({ prompt: prompt(300), maxTokens: 1, promptLogprobs: 20 });
  await generation.collect();
  return { bytes, scores: generation.promptLogprobs!.slice(1).map((one) => one!) };
}

test("a cache in bf16 takes half the memory, and costs little exactness", async () => {
  const wide = await scored({});
  const narrow = await scored({ cacheDtype: "bf16" });
  expect(narrow.bytes).toBe(wide.bytes / 2);
  const errors = wide.scores.map(({ logprob }, i) => Math.abs(logprob - narrow.scores[i]!.logprob));
  const mean = errors.reduce((a, b) => a + b) / errors.length;
  // Measured: 0.0021 in the mean, 0.010 at most.
  expect(mean).toBeGreaterThan(0);
  expect(mean).toBeLessThan(0.005);
  expect(Math.max(...errors)).toBeLessThan(0.03);
});

test("in bf16 the same seed gives the same tokens, too", async () => {
  const engine = make({ params, config: strong, cacheDtype: "bf16" });
  const requests = [5, 70, 130].map((length, seed) => {
    return { prompt: prompt(length, seed), maxTokens: 20, seed, ignoreEos: true };
  });
  const alone = [];
  for (const request of requests) alone.push((await engine.generate(request)).choices);
  const batch = make({ params, config: strong, cacheDtype: "bf16", maxPrefill: 40 });
  const together = await Promise.all(requests.map((request) => batch.generate(request)));
  expect(together.map(({ choices }) => choices)).toEqual(alone);
});
