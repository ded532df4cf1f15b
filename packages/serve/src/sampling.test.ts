import { compile, disposeTree, tensor } from "@dsv3/tensor";
import { expect, test } from "vitest";
import { type SampleInputs, sampleRows, uniformAt } from "./sampling.ts";
import { engines } from "./testing/tiny.ts";

engines(); // sets the backend

const sample = compile(sampleRows);
const i32 = (x: number[]) => tensor(x, { dtype: "i32" });

/** Tokens for many uniform numbers, evenly spread, from one row of logits. */
async function spread(
  logits: number[],
  options: { temperature?: number; topK?: number; topP?: number; minP?: number } = {},
  draws = 1000,
) {
  const { temperature = 1, topK = logits.length, topP = 1, minP = 0 } = options;
  const rows = <T>(x: T) => Array.from({ length: draws }, () => x);
  const inputs: SampleInputs = {
    temperature: tensor(rows(temperature)),
    uniform: tensor(Array.from({ length: draws }, (_, i) => (i + 0.5) / draws)),
    filters: { topK: i32(rows(topK)), topP: tensor(rows(topP)), minP: tensor(rows(minP)) },
    adjust: null,
    mask: null,
  };
  using all = tensor(rows(logits).flat(), { shape: [draws, logits.length] });
  const result = sample(all, inputs, 1);
  const tokens = await result.token.data();
  disposeTree(inputs);
  disposeTree(result);
  const counts = new Array<number>(logits.length).fill(0);
  for (const t of tokens) counts[t]!++;
  return counts.map((n) => n / draws);
}

const p = [0.05, 0.4, 0.1, 0.25, 0.2];
const logits = p.map((x) => Math.log(x) + 3);
const normalised = (x: number[]) => x.map((v) => v / x.reduce((a, b) => a + b));

test.each([
  ["all tokens", {}, p],
  ["a temperature", { temperature: 0.5 }, normalised(p.map((x) => x * x))],
  ["temperature 0", { temperature: 0 }, [0, 1, 0, 0, 0]],
  ["top-k", { topK: 2 }, normalised([0, 0.4, 0, 0.25, 0])],
  ["top-k of one", { topK: 1 }, [0, 1, 0, 0, 0]],
  ["top-p", { topP: 0.64 }, normalised([0, 0.4, 0, 0.25, 0])],
  ["top-p that one token has", { topP: 0.1 }, [0, 1, 0, 0, 0]],
  ["min-p", { minP: 0.49 }, normalised([0, 0.4, 0, 0.25, 0.2])],
  ["top-p of what top-k left", { topK: 3, topP: 0.7 }, normalised([0, 0.4, 0, 0.25, 0])],
])("the shares of tokens under %s", async (_, options, expected) => {
  const shares = await spread(logits, options);
  for (const [i, share] of shares.entries())
    expect(Math.abs(share - expected[i]!)).toBeLessThan(0.0021);
});

test("tokens without any weight are never drawn, at either end of the vocabulary", async () => {
  const shares = await spread([-1e9, 0, -1e9, 0, -1e9]);
  expect(shares).toEqual([0, 0.5, 0, 0.5, 0]);
});

test("penalties and biases change the logits that they name", async () => {
  const row = [1, -1, 0.5, 0];
  const inputs: SampleInputs = {
    temperature: tensor([0, 0, 0]),
    uniform: tensor([0, 0, 0]),
    filters: null,
    adjust: {
      // Row 0: token 0 halved, token 3 raised. Row 1: token 1 doubled away from 0. Row 2: token 2 raised.
      index: i32([0, 3, 5, 10, -1]),
      repetition: tensor([4, 1, 2, 1, 1]),
      bias: tensor([0, 0.4, 0, 0.6, 9]),
    },
    mask: null,
  };
  using all = tensor([row, row, row]);
  const { token, logprob, topTokens, topLogprobs } = sample(all, inputs, 2);
  expect(Array.from(await token.data())).toEqual([2, 0, 2]);
  expect(Array.from(await topTokens.data())).toEqual([0, 2, 0, 2, 0, 2]);
  const total = Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0));
  const close = (actual: ArrayLike<number>, expected: number[]) =>
    expected.forEach((x, i) => {
      expect(actual[i]).toBeCloseTo(x - total, 5);
    });
  close(await logprob.data(), [0.5, 1, 0.5]);
  close(await topLogprobs.data(), [1, 0.5, 1, 0.5, 1, 0.5]);
});

test("masked tokens are never drawn, whatever their logits", async () => {
  const V = 70;
  const row = Array.from({ length: V }, (_, i) => i / 10);
  const bits = (ids: number[]) =>
    [0, 1, 2].map((word) =>
      ids.reduce((x, id) => (id >> 5 === word ? x | (1 << (id & 31)) : x), 0),
    );
  const inputs: SampleInputs = {
    temperature: tensor([0, 1, 0, 1]),
    uniform: tensor([0, 0.999, 0, 0.999]),
    filters: null,
    adjust: null,
    mask: tensor([bits([3, 31, 63]), bits([0, 32]), bits([68]), [-1, -1, -1]], { dtype: "i32" }),
  };
  const { token } = sample(tensor([row, row, row, row]), inputs, 1);
  expect(Array.from(await token.data())).toEqual([63, 32, 68, 69]);
});

test("uniform numbers are even, and no two of their words can be told from each other", () => {
  const n = 20_000;
  const buckets = new Array<number>(16).fill(0);
  for (let i = 0; i < n; i++) {
    const u = uniformAt(i % 100, Math.floor(i / 100) % 4, Math.floor(i / 400));
    expect(u).toBeGreaterThanOrEqual(0);
    expect(u).toBeLessThan(1);
    buckets[Math.floor(u * 16)]!++;
  }
  const chiSquare = buckets.reduce((sum, b) => sum + (b - n / 16) ** 2 / (n / 16), 0);
  expect(chiSquare).toBeLessThan(37.7); // 15 degrees of freedom, p = 0.001; the numbers are fixed
  const at = [uniformAt(1, 0, 0), uniformAt(2 ** 32, 0, 0), uniformAt(0, 1, 0), uniformAt(0, 0, 1)];
  expect(new Set(at).size).toBe(4);
});
