/** Guessing ahead with the MTP module: answers stay what they are, only their pace changes. */
import { initParams, type ModelParams } from "@dsv3/model";
import { disposeTree, key } from "@dsv3/tensor";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { EngineOptions } from "./engine.ts";
import type { GenerationRequest } from "./request.ts";
import { config, engines, prompt } from "./testing/tiny.ts";

const { params, make } = engines();

/** Of 16 ids, random MTP modules guess some right. */
const few = { ...config, vocabSize: 16, numNextnPredictLayers: 2 };
let small: ModelParams;
beforeAll(() => {
  small = initParams(few, key(5));
});
afterAll(() => disposeTree(small));
/** With one MTP module, or two. */
const makeSmall = (options: Partial<EngineOptions>, modules = 1) => {
  const params = { ...small, mtp: small.mtp.slice(0, modules) };
  return make({ params, config: few, tokenizer: undefined as never, ...options });
};

const requests = [0, 1, 2, 3, 4].map((i): GenerationRequest => {
  const sampling = { temperature: i % 2, seed: i, frequencyPenalty: i === 4 ? 0.2 : 0 };
  const ids = prompt(40 + i, i).map((id) => id % 16);
  return { prompt: ids, maxTokens: 150, ignoreEos: true, ...sampling };
});

async function answers(options: Partial<EngineOptions>, modules = 1) {
  const engine = makeSmall(options, modules);
  const results = await Promise.all(requests.map((request) => engine.generate(request)));
  return { drawn: results.map(({ choices }) => choices[0]!.drawn), stats: engine.stats() };
}

test("right guesses are taken, wrong ones are not, and the answer is the same", async () => {
  const plain = await answers({});
  expect(plain.stats).toMatchObject({ drafts: 0, acceptanceLength: 0 });
  for (const [drafts, modules] of [
    [1, 1],
    [2, 1],
    [3, 1],
    [2, 2],
    [3, 2],
  ] as const) {
    const ahead = await answers({ speculate: true, drafts }, modules);
    expect(ahead.drawn).toEqual(plain.drawn);
    const { stats } = ahead;
    expect(stats.acceptedDrafts).toBeGreaterThan(60);
    expect(stats.drafts - stats.acceptedDrafts).toBeGreaterThan(20);
    expect(stats.steps).toBeLessThan(plain.stats.steps);
    expect(stats.acceptanceLength).toBeGreaterThan(1);
    expect(stats.acceptanceLength).toBeLessThan(1 + drafts);
    expect(stats.draftDepths.length).toBe(drafts);
    const depths = stats.draftDepths.map(({ accepted }) => accepted);
    expect(depths).toEqual(depths.toSorted((a, b) => b - a)); // none counts after a wrong one
    expect(depths.reduce((a, b) => a + b)).toBe(stats.acceptedDrafts);
  }
  const [one, two] = [await answers({ speculate: true }), await answers({ speculate: true }, 2)];
  expect([one, two].map(({ stats }) => stats.draftDepths.length)).toEqual([1, 2]);

  const cramped = { speculate: true, maxContext: 200, cacheTokens: 320, maxPrefill: 24 };
  for (const modules of [1, 2]) {
    const tight = await answers({ ...cramped, drafts: 3 }, modules);
    expect(tight.drawn).toEqual(plain.drawn);
    expect(tight.stats.preemptions).toBeGreaterThan(0);
  }
}, 60_000);

test("two modules, prefix hits and formats go together", async () => {
  const prefix = prompt(130, 9);
  const two = { ...config, numNextnPredictLayers: 2 };
  const params = initParams(two, key(8));
  const format = {
    type: "regex",
    pattern: "(some|more) (words|text)( and (words|text))*",
  } as const;
  const ask = async (options: Partial<EngineOptions>) => {
    const engine = make({ params, config: two, maxPrefill: 40, ...options });
    const drawn = [];
    for (const seed of [1, 2, 3]) {
      const prompt = [...prefix, seed];
      const { choices } = await engine.generate({ prompt, seed, maxTokens: 40, format, n: 2 });
      drawn.push(choices);
    }
    return { drawn, stats: engine.stats() };
  };
  const plain = await ask({});
  const ahead = await ask({ speculate: true });
  expect(ahead.drawn).toEqual(plain.drawn);
  expect(ahead.stats.prefixHits).toBeGreaterThanOrEqual(2 * 128);
  expect(ahead.stats.drafts).toBeGreaterThan(20);
  disposeTree(params);
}, 60_000);

test.each([1, 2])(
  "tokens behind guesses of %i modules are distributed as the model says",
  async (modules) => {
    const start = [3, 1, 4, 1, 5];
    const plain = makeSmall({});
    const probabilities = async (prompt: number[]) => {
      const request = { prompt, maxTokens: 1, logprobs: 16, ignoreEos: true };
      const { top } = (await plain.generate(request)).choices[0]!.drawn[0]!;
      return new Map(top.map(({ token, logprob }) => [token, Math.exp(logprob)]));
    };
    // Of the second token, whatever the first is.
    const expected = new Array<number>(16).fill(0);
    for (const [first, p] of await probabilities(start)) {
      for (const [second, q] of await probabilities([...start, first])) expected[second]! += p * q;
    }
    expect(expected.reduce((a, b) => a + b)).toBeCloseTo(1, 4);

    const settings = { speculate: true, drafts: 2, maxRunning: 32, maxQueued: 2000 };
    const engine = makeSmall(settings, modules);
    const counts = new Array<number>(16).fill(0);
    const N = 1024;
    const all = Array.from({ length: N / 128 }, (_, seed) =>
      engine.generate({ prompt: start, n: 128, seed, maxTokens: 4, ignoreEos: true }),
    );
    for (const { choices } of await Promise.all(all)) {
      for (const { tokens } of choices) counts[tokens[1]!]!++;
    }
    expect(engine.stats().acceptedDrafts).toBeGreaterThan(20);
    const chiSquare = expected.reduce(
      (sum, p, id) => sum + (counts[id]! - N * p) ** 2 / (N * p),
      0,
    );
    expect(chiSquare).toBeLessThan(37.7); // 15 degrees of freedom, p = 0.001
  },
  60_000,
);

test("speculation needs an MTP module, and a number of guesses that makes sense", () => {
  expect(() => make({ params: { ...params(), mtp: [] }, speculate: true })).toThrow(
    "with an MTP module",
  );
  expect(() => make({ speculate: true, drafts: 0 })).toThrow(
    "drafts must be a whole number from 1",
  );
  expect(() => make({ speculate: true, drafts: 9 })).toThrow("more than 8");
});
