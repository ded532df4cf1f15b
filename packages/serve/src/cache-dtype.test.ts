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

test.each([
  // Measured: 0.0021 in the mean, 0.010 at most.
  ["bf16", 1 / 2, 0.005, 0.03],
  // Measured: 0.048 and 1.05; of a random model, where the choice of experts hangs by a thread.
  ["fp8", (32 + 2 + 16) / 160, 0.08, 2],
] as const)(
  "a cache in %s takes its share of the memory, and costs little exactness",
  async (cacheDtype, share, meanError, worstError) => {
    const wide = await scored({});
    const narrow = await scored({ cacheDtype });
    expect(narrow.bytes).toBe(wide.bytes * share);
    const errors = wide.scores.map(({ logprob }, i) =>
      Math.abs(logprob - narrow.scores[i]!.logprob),
    );
    const mean = errors.reduce((a, b) => a + b) / errors.length;
    expect(mean).toBeGreaterThan(0);
    expect(mean).toBeLessThan(meanError);
    expect(Math.max(...errors)).toBeLessThan(worstError);
  },
);

test.each(["bf16", "fp8"] as const)(
  "in %s the same seed gives the same tokens, too",
  async (cacheDtype) => {
    const makeWith = (options: Partial<EngineOptions>) =>
      make({ params, config: strong, cacheDtype, ...options });
    const requests = [30, 100, 130].map((length, seed) => {
      return { prompt: prompt(length, seed), maxTokens: 60, seed, ignoreEos: true };
    });
    const engine = makeWith({});
    const alone = [];
    for (const request of requests) alone.push((await engine.generate(request)).choices);
    const again = await Promise.all(requests.map((request) => engine.generate(request)));
    expect(again.map(({ choices }) => choices)).toEqual(alone);
    expect(engine.stats().prefixHits).toBe(64 + 128);

    const cramped = { maxContext: 192, cacheTokens: 256, maxPrefill: 40 };
    for (const options of [cramped, { speculate: true, drafts: 2 }]) {
      const other = makeWith(options);
      const together = await Promise.all(requests.map((request) => other.generate(request)));
      expect(together.map(({ choices }) => choices)).toEqual(alone);
      expect(other.stats().preemptions > 0).toBe(options === cramped);
    }
  },
  60_000,
);
