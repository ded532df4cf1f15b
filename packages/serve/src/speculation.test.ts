/** Guessing ahead with the MTP module: answers stay what they are, only their pace changes. */
import { initParams, type ModelParams } from "@dsv3/model";
import { disposeTree, key } from "@dsv3/tensor";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { EngineOptions } from "./engine.ts";
import type { GenerationRequest } from "./request.ts";
import { config, engines, prompt } from "./testing/tiny.ts";

const { params, make } = engines();

/** Of 16 ids, a random MTP module guesses some right. */
const few = { ...config, vocabSize: 16 };
let small: ModelParams;
beforeAll(() => {
  small = initParams(few, key(5));
});
afterAll(() => disposeTree(small));
const makeSmall = (options: Partial<EngineOptions>) =>
  make({ params: small, config: few, tokenizer: undefined as never, ...options });

const requests = [0, 1, 2, 3, 4].map((i): GenerationRequest => {
  const sampling = { temperature: i % 2, seed: i, frequencyPenalty: i === 4 ? 0.2 : 0 };
  const ids = prompt(40 + i, i).map((id) => id % 16);
  return { prompt: ids, maxTokens: 150, ignoreEos: true, ...sampling };
});

async function answers(options: Partial<EngineOptions>) {
  const engine = makeSmall(options);
  const results = await Promise.all(requests.map((request) => engine.generate(request)));
  return { drawn: results.map(({ choices }) => choices[0]!.drawn), stats: engine.stats() };
}

test("right guesses are taken, wrong ones are not, and the answer is the same", async () => {
  const plain = await answers({});
  expect(plain.stats).toMatchObject({ drafts: 0, acceptanceLength: 0 });
  for (const drafts of [1, 2, 3]) {
    const ahead = await answers({ speculate: true, drafts });
    expect(ahead.drawn).toEqual(plain.drawn);
    const { stats } = ahead;
    expect(stats.acceptedDrafts).toBeGreaterThan(60);
    expect(stats.drafts - stats.acceptedDrafts).toBeGreaterThan(20);
    expect(stats.steps).toBeLessThan(plain.stats.steps);
    expect(stats.acceptanceLength).toBeGreaterThan(1);
    expect(stats.acceptanceLength).toBeLessThan(1 + drafts);
  }
  const cramped = { speculate: true, maxContext: 200, cacheTokens: 320, maxPrefill: 24 };
  const tight = await answers({ ...cramped, drafts: 3 });
  expect(tight.drawn).toEqual(plain.drawn);
  expect(tight.stats.preemptions).toBeGreaterThan(0);
}, 60_000);

test("tokens behind guesses are distributed as the model says", async () => {
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

  const engine = makeSmall({ speculate: true, drafts: 2, maxRunning: 32, maxQueued: 2000 });
  const counts = new Array<number>(16).fill(0);
  const N = 1024;
  const all = Array.from({ length: N / 128 }, (_, seed) =>
    engine.generate({ prompt: start, n: 128, seed, maxTokens: 4, ignoreEos: true }),
  );
  for (const { choices } of await Promise.all(all)) {
    for (const { tokens } of choices) counts[tokens[1]!]!++;
  }
  expect(engine.stats().acceptedDrafts).toBeGreaterThan(20);
  const chiSquare = expected.reduce((sum, p, id) => sum + (counts[id]! - N * p) ** 2 / (N * p), 0);
  expect(chiSquare).toBeLessThan(37.7); // 15 degrees of freedom, p = 0.001
}, 60_000);

test("speculation needs an MTP module, and a number of guesses that makes sense", () => {
  expect(() => make({ params: { ...params(), mtp: [] }, speculate: true })).toThrow(
    "with an MTP module",
  );
  expect(() => make({ speculate: true, drafts: 0 })).toThrow(
    "drafts must be a whole number from 1",
  );
  expect(() => make({ speculate: true, drafts: 9 })).toThrow("more than 8");
});
