import {
  broadcastTo,
  cast,
  key,
  mul,
  normal,
  ones,
  scope,
  setBackend,
  sliceAxis,
  type Tensor,
  tensor,
  treeMap,
} from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { beforeAll, describe, expect, test } from "vitest";
import { cacheStep, latentCache, latentWidth } from "./cache.ts";
import { initMla, type MlaConfig, type MlaParams, mlaParamShapes } from "./config.ts";
import { cheaperForm, mla, mlaCached } from "./mla.ts";
import { ropeTables, softmaxScale, yarnFrequencies } from "./rope.ts";
import { SMALL } from "./testing.ts";

beforeAll(() => setBackend(referenceBackend()));

const config: MlaConfig = SMALL;
const variants: [string, MlaConfig][] = [
  ["with low-rank queries", config],
  ["with plain queries", { ...config, qLoraRank: null }],
  ["with rotary channels in halves", { ...config, ropeInterleave: false }],
  [
    "with YaRN",
    {
      ...config,
      ropeScaling: {
        factor: 4,
        originalMaxPositionEmbeddings: 8,
        betaFast: 2,
        betaSlow: 0.1,
        mscale: 1,
        mscaleAllDim: 1,
      },
    },
  ],
];

/** Weights large enough that attention is far from uniform, norms that are not 1. */
function params(c: MlaConfig): MlaParams {
  const p = initMla(c, key(1), 0.5);
  return { ...p, kvALayernorm: mul(p.kvALayernorm, 1.7) };
}

const inputs = (b: number, t: number) => normal(key(2), [b, t, config.hiddenSize]);

/** Equations 1-11 in loops and float64, one token and one head at a time. */
async function plainMla(p: MlaParams, x: Tensor, c: MlaConfig): Promise<number[]> {
  const read = async (t: Tensor) => Float64Array.from(await t.data());
  const apply = (w: Float64Array, v: ArrayLike<number>) =>
    Float64Array.from({ length: w.length / v.length }, (_, o) =>
      Array.from(v).reduce((sum, value, i) => sum + value * w[o * v.length + i]!, 0),
    );
  const norm = (v: Float64Array, w: Float64Array) => {
    const scale = 1 / Math.sqrt(v.reduce((s, a) => s + a * a, 0) / v.length + 1e-6);
    return v.map((a, i) => a * scale * w[i]!);
  };
  const f = yarnFrequencies(c);
  const rotate = (v: Float64Array, t: number) => {
    const out = Float64Array.from(v);
    for (let i = 0; i < f.length; i++) {
      const [a, b] = c.ropeInterleave ? [2 * i, 2 * i + 1] : [i, i + f.length];
      out[a] = v[a]! * Math.cos(t * f[i]!) - v[b]! * Math.sin(t * f[i]!);
      out[b] = v[b]! * Math.cos(t * f[i]!) + v[a]! * Math.sin(t * f[i]!);
    }
    return out;
  };
  const dot = (a: Float64Array, b: Float64Array) => a.reduce((s, v, i) => s + v * b[i]!, 0);

  const w = Object.fromEntries(
    await Promise.all(Object.entries(p).map(async ([name, t]) => [name, await read(t)])),
  ) as Record<string, Float64Array>;
  const { numAttentionHeads: H, qkNopeHeadDim: N, qkRopeHeadDim: R, vHeadDim: V } = c;
  const [B, T, D] = x.shape as [number, number, number];
  const xs = await read(x);
  const result: number[] = [];
  for (let b = 0; b < B; b++) {
    const tokens = Array.from({ length: T }, (_, t) => {
      const h = xs.subarray((b * T + t) * D, (b * T + t + 1) * D);
      const q = w.qProj
        ? apply(w.qProj, h)
        : apply(w.qBProj!, norm(apply(w.qAProj!, h), w.qALayernorm!));
      const down = apply(w.kvAProjWithMqa!, h);
      const kv = apply(w.kvBProj!, norm(down.slice(0, c.kvLoraRank), w.kvALayernorm!));
      return { q, kv, kRope: rotate(down.slice(c.kvLoraRank), t) };
    });
    for (let t = 0; t < T; t++) {
      const heads: number[] = [];
      for (let head = 0; head < H; head++) {
        const q = tokens[t]!.q.slice(head * (N + R), (head + 1) * (N + R));
        const turned = rotate(q.slice(N), t);
        const scores = tokens.slice(0, t + 1).map(({ kv, kRope }) => {
          const kNope = kv.slice(head * (N + V), head * (N + V) + N);
          return Math.exp((dot(q.slice(0, N), kNope) + dot(turned, kRope)) * softmaxScale(c));
        });
        const total = scores.reduce((a, s) => a + s, 0);
        for (let i = 0; i < V; i++) {
          const at = head * (N + V) + N + i;
          heads.push(scores.reduce((sum, s, j) => sum + (s / total) * tokens[j]!.kv[at]!, 0));
        }
      }
      result.push(...apply(w.oProj!, heads));
    }
  }
  return result;
}

const identity = (n: number) =>
  Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0));

async function expectClose(actual: Tensor, expected: ArrayLike<number>, tolerance = 2e-5) {
  const values = await actual.data();
  expect(values.length).toBe(expected.length);
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    worst = Math.max(worst, Math.abs(values[i]! - expected[i]!));
  }
  expect(worst).toBeLessThan(tolerance);
}

describe.each(variants)("%s", (_, c) => {
  test("the expanded form is equations 1 to 11", async () => {
    const [p, x] = [params(c), inputs(2, 9)];
    await expectClose(mla(p, x, ropeTables(c, 9), c), await plainMla(p, x, c));
    // So small that the norms' ε shows.
    const faint = mul(x, 1e-3);
    await expectClose(mla(p, faint, ropeTables(c, 9), c), await plainMla(p, faint, c));
  });

  test.each([["expanded"], ["absorbed"]] as const)(
    "chunks over the cache, %s, give what the whole gives",
    async (form) => {
      const [p, x] = [params(c), inputs(2, 9)];
      const whole = await mla(p, x, ropeTables(c, 9), c).data();
      let cache = latentCache(c, 2, 11);
      let done = 0;
      for (const tokens of [4, 1, 3, 1]) {
        const lengths = tensor([done + tokens, done + tokens], { dtype: "i32" });
        const step = cacheStep(c, cache, tokens, lengths);
        const chunk = sliceAxis(x, 1, done, done + tokens);
        const result = mlaCached(p, chunk, cache, step, c, form);
        cache = result.cache;
        for (const b of [0, 1]) {
          const at = (b * 9 + done) * c.hiddenSize;
          const expected = whole.slice(at, at + tokens * c.hiddenSize);
          await expectClose(sliceAxis(result.output, 0, b, b + 1), expected as Float32Array);
        }
        done += tokens;
      }
    },
  );
});

describe("the cache", () => {
  const p = () => params(config);
  const D = config.hiddenSize;

  /** Row b of the uncached result for the first `length` tokens of x. */
  async function alone(x: Tensor, b: number, length: number): Promise<Float32Array> {
    const own = sliceAxis(sliceAxis(x, 0, b, b + 1), 1, 0, length);
    return (await mla(p(), own, ropeTables(config, length), config).data()) as Float32Array;
  }

  test.each([["expanded"], ["absorbed"]] as const)(
    "sequences of unequal length share a batch, and idle rows leave no trace (%s)",
    async (form) => {
      // Lengths 5, 2 and 0, aligned to the right in 5 columns; padding holds large numbers.
      const x = inputs(3, 5);
      const values = (await x.data()) as Float32Array;
      const padded = new Float32Array(values.length).fill(1e3);
      padded.set(values.subarray(0, 5 * D), 0);
      padded.set(values.subarray(5 * D, 7 * D), 8 * D);
      const lengths = tensor([5, 2, 0], { dtype: "i32" });
      const empty = mul(ones([3, 8, latentWidth(config)]), 7);
      const step = cacheStep(config, empty, 5, lengths);
      const { output, cache } = mlaCached(
        p(),
        tensor(padded, { shape: x.shape }),
        empty,
        step,
        config,
        form,
      );
      await expectClose(sliceAxis(output, 0, 0, 1), await alone(x, 0, 5));
      const second = sliceAxis(sliceAxis(output, 0, 1, 2), 1, 3, 5);
      await expectClose(second, await alone(x, 1, 2));
      const width = latentWidth(config);
      const stored = (await cache.data()) as Float32Array;
      expect(stored.subarray(5 * width, 8 * width).every((v) => v === 7)).toBe(true);
      expect(stored.subarray(10 * width).every((v) => v === 7)).toBe(true);
    },
  );

  test.each([["expanded"], ["absorbed"]] as const)(
    "pages in any order hold what a contiguous cache holds (%s)",
    async (form) => {
      const x = inputs(2, 7);
      const pages = tensor(
        [
          [5, 0, 3],
          [2, 4, -1],
        ] as number[][],
        { dtype: "i32" },
      );
      let cache = latentCache(config, 6, 3);
      let done = 0;
      for (const tokens of [4, 1, 1]) {
        const lengths = tensor([done + tokens, done + tokens], { dtype: "i32" });
        const step = cacheStep(config, cache, tokens, lengths, pages);
        const chunk = sliceAxis(x, 1, done, done + tokens);
        const result = mlaCached(p(), chunk, cache, step, config, form);
        cache = result.cache;
        done += tokens;
        for (const b of [0, 1]) {
          const expected = (await alone(x, b, done)).subarray((done - tokens) * D);
          await expectClose(sliceAxis(result.output, 0, b, b + 1), expected);
        }
      }
      const unused = (await sliceAxis(cache, 0, 1, 2).data()) as Float32Array;
      expect(unused.every((v) => v === 0)).toBe(true);
    },
  );

  test("keeps bf16 rows under f32 activations", async () => {
    const x = inputs(1, 6);
    const cache = latentCache(config, 1, 6, "bf16");
    const step = cacheStep(config, cache, 6, tensor([6], { dtype: "i32" }));
    for (const form of ["expanded", "absorbed"] as const) {
      const result = mlaCached(p(), x, cache, step, config, form);
      expect(result.output.dtype).toBe("f32");
      expect(result.cache.dtype).toBe("bf16");
      await expectClose(result.output, await alone(x, 0, 6), 0.05);
    }
  });
});

test("tokens of other segments are not seen", async () => {
  const p = params(config);
  const x = inputs(1, 6);
  const rope = ropeTables(config, 6);
  const segments = tensor([[0, 0, 1, 1, 1, 2]] as number[][], { dtype: "i32" });
  const packed = mla(p, x, rope, config, { segments });
  // Rotation is relative: a segment alone, at any position, gives the same.
  for (const [start, end] of [
    [0, 2],
    [2, 5],
    [5, 6],
  ] as const) {
    const own = mla(p, sliceAxis(x, 1, start, end), ropeTables(config, end - start), config);
    await expectClose(sliceAxis(packed, 1, start, end), (await own.data()) as Float32Array);
  }
});

describe("dropout of the attention's weights", () => {
  const weights = () => initMla(config, key(1), 0.5);

  test("at rate 0 changes nothing, packed samples included", async () => {
    const p = weights();
    const x = inputs(2, 6);
    const rope = ropeTables(config, 6);
    const segments = tensor([0, 0, 1, 1, 1, 2, 0, 0, 0, 0, 1, 1], { dtype: "i32", shape: [2, 6] });
    const dropout = { rate: 0, key: key(5) };
    for (const options of [{}, { segments }]) {
      const plain = await mla(p, x, rope, config, options).data();
      await expectClose(mla(p, x, rope, config, { ...options, dropout }), plain);
    }
  });

  test("of the only token leaves each head out or doubles it, as the key says", async () => {
    const x = inputs(8, 1);
    const rope = ropeTables(config, 1);
    // With W_O the identity, the output is the heads'.
    const heads = config.numAttentionHeads * config.vHeadDim;
    const bare = { ...weights(), oProj: tensor(identity(heads), { shape: [heads, heads] }) };
    const whole = await mla(bare, x, rope, config).data();
    const draw = async (seed: number) => [
      ...(await mla(bare, x, rope, config, { dropout: { rate: 0.5, key: key(seed) } }).data()),
    ];
    const dropped = await draw(5);
    const factors = dropped.map((y, i) => y / (whole[i] as number));
    for (let head = 0; head < 8 * config.numAttentionHeads; head++) {
      const own = factors.slice(head * config.vHeadDim, (head + 1) * config.vHeadDim);
      const kept = Math.abs(own[0] as number) > 1;
      for (const factor of own) expect(factor).toBeCloseTo(kept ? 2 : 0, 4);
    }
    expect(new Set(factors.map(Math.round))).toEqual(new Set([0, 2]));
    expect(await draw(5)).toEqual(dropped);
    expect(await draw(6)).not.toEqual(dropped);
  });

  test("keeps the expectation", async () => {
    const p = weights();
    const x = inputs(1, 5);
    const rope = ropeTables(config, 5);
    const whole = await mla(p, x, rope, config).data();
    const draws = 300;
    const many = broadcastTo(x, [draws, 5, config.hiddenSize]);
    const dropped = mla(p, many, rope, config, { dropout: { rate: 0.2, key: key(7) } });
    // Within five standard errors of the mean of so many draws.
    const values = (await dropped.data()) as Float32Array;
    for (const [i, expected] of whole.entries()) {
      const own = Array.from({ length: draws }, (_, d) => values[d * whole.length + i] as number);
      const mean = own.reduce((a, b) => a + b) / draws;
      const variance = own.reduce((s, y) => s + (y - mean) ** 2, 0) / draws;
      expect(Math.abs(mean - expected)).toBeLessThan(5 * Math.sqrt(variance / draws));
    }
  });
});

test("bf16 activations stay bf16, near the f32 result", async () => {
  const p = initMla(config, key(1), 0.3);
  const x = inputs(1, 5);
  const rope = ropeTables(config, 5);
  const narrow = treeMap((w: Tensor) => (w.rank > 1 ? cast(w, "bf16") : w), p);
  const result = mla(narrow, cast(x, "bf16"), rope, config);
  expect(result.dtype).toBe("bf16");
  await expectClose(result, (await mla(p, x, rope, config).data()) as Float32Array, 0.03);
});

test("the cheaper form changes at 171 queries for DeepSeek-V3", () => {
  const v3 = { ...config, kvLoraRank: 512, qkNopeHeadDim: 128, qkRopeHeadDim: 64, vHeadDim: 128 };
  expect(cheaperForm(v3, 1)).toBe("absorbed");
  expect(cheaperForm(v3, 170)).toBe("absorbed");
  expect(cheaperForm(v3, 171)).toBe("expanded");
});

test("parameters have the shapes that mlaParamShapes tells, and the same for the same key", async () => {
  for (const [, c] of variants) {
    const shapes = treeMap((t: Tensor) => t.shape, initMla(c, key(3), 0.02));
    expect(shapes).toEqual(mlaParamShapes(c));
  }
  const [a, b] = [initMla(config, key(3), 0.02), initMla(config, key(3), 0.02)];
  expect(await a.oProj.data()).toEqual(await b.oProj.data());
  const spread = scope(() => [...(a.kvBProj.dataSync() as Float32Array)]);
  const deviation = Math.sqrt(spread.reduce((s, v) => s + v * v, 0) / spread.length);
  expect(deviation).toBeGreaterThan(0.018);
  expect(deviation).toBeLessThan(0.022);
});
