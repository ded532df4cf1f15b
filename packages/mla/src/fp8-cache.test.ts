/** The cache in FP8: what it keeps of each number, and that attention reads just that. */
import {
  cast,
  dtypeBytes,
  key,
  mul,
  normal,
  setBackend,
  sliceAxis,
  type Tensor,
  tensor,
} from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { beforeAll, expect, test } from "vitest";
import { appendLatents, cacheStep, gatherLatents, latentBytes, latentCache } from "./cache.ts";
import { initMla, type MlaConfig } from "./config.ts";
import { mlaCached } from "./mla.ts";
import { SMALL } from "./testing.ts";

beforeAll(() => setBackend(referenceBackend()));

/** Latents of one run of 128 and a bit. */
const config: MlaConfig = { ...SMALL, kvLoraRank: 160 };
const [C, R, RUN] = [160, 4, 128];
const i32 = (values: number[] | number[][]) => tensor(values as number[][], { dtype: "i32" });
const numbers = async (t: Tensor) => (await cast(t, "f32").data()) as Float32Array;

test("latents keep four significant bits, whatever the size of their run; rotary keys are in bf16", async () => {
  // Runs of sizes that differ by 10^8, and a token of zeros.
  const sizes = Float32Array.from({ length: 5 * (C + R) }, (_, i) => {
    const [token, at] = [Math.floor(i / (C + R)), i % (C + R)];
    return token === 4 ? 0 : 10 ** (2 * token - 4) * (at < RUN ? 1e-2 : 1);
  });
  const rows = mul(normal(key(1), [1, 5, C + R]), tensor(sizes, { shape: [1, 5, C + R] }));
  const cache = latentCache(config, 1, 6, "fp8");
  const step = cacheStep(config, cache, 5, i32([5]));
  const stored = appendLatents(cache, rows, step);
  const read = gatherLatents(stored, step);
  expect(read.dtype).toBe("bf16");

  const [given, kept] = [await numbers(rows), await numbers(read)];
  for (let token = 0; token < 5; token++) {
    const row = (values: Float32Array) => values.subarray(token * (C + R), (token + 1) * (C + R));
    for (const [start, end] of [
      [0, RUN],
      [RUN, C],
    ] as const) {
      const run = row(given).subarray(start, end);
      const largest = Math.max(...run.map(Math.abs));
      for (const [i, x] of run.entries()) {
        const error = Math.abs(row(kept)[start + i]! - x);
        // Half a unit of the fourth bit, or of E4M3's least number, 2^-9, times the scale.
        expect(error).toBeLessThanOrEqual(Math.max(Math.abs(x) / 16, (largest / 224) * 2 ** -10));
      }
    }
  }
  const keys = await numbers(cast(sliceAxis(rows, 2, C, C + R), "bf16"));
  expect(await numbers(sliceAxis(sliceAxis(read, 1, 0, 5), 2, C, C + R))).toEqual(keys);
  expect(kept.subarray(5 * (C + R)).every((v) => v === 0)).toBe(true); // nothing was stored there
});

test("both forms, pages and chunks read the same rows", async () => {
  const p = initMla(config, key(2), 0.5);
  const x = normal(key(3), [2, 7, config.hiddenSize]);
  const table = i32([
    [5, 0, 3],
    [2, 4, 1],
  ]);
  // The same pages, of which the table counts those that are used.
  const local = i32([
    [3, 1, 2],
    [0, 4, 5],
  ]);
  const used = i32([2, 0, 3, 5, 4, 1, 0, 0]);
  async function outputs(
    dtype: "f32" | "fp8",
    form: "expanded" | "absorbed",
    pages?: Tensor,
    used?: Tensor,
  ) {
    let cache = pages ? latentCache(config, 6, 3, dtype) : latentCache(config, 2, 9, dtype);
    const all: Float32Array[] = [];
    for (const [start, end] of [
      [0, 4],
      [4, 5],
      [5, 7],
    ] as const) {
      const step = cacheStep(config, cache, end - start, i32([end, end]), pages, used);
      const result = mlaCached(p, sliceAxis(x, 1, start, end), cache, step, config, form);
      cache = result.cache;
      all.push(await numbers(result.output));
    }
    return all.flatMap((values) => [...values]);
  }
  const farthest = (a: number[], b: number[]) => Math.max(...a.map((v, i) => Math.abs(v - b[i]!)));
  const absorbed = await outputs("fp8", "absorbed");
  expect(await outputs("fp8", "absorbed", table)).toEqual(absorbed);
  expect(await outputs("fp8", "absorbed", local, used)).toEqual(absorbed);
  const expanded = await outputs("fp8", "expanded", local, used);
  expect(farthest(expanded, absorbed)).toBeLessThan(1e-4 * Math.max(...absorbed.map(Math.abs)));
  const exact = await outputs("f32", "absorbed");
  const size = Math.hypot(...exact) / Math.sqrt(exact.length);
  const error = Math.hypot(...exact.map((v, i) => v - absorbed[i]!)) / Math.sqrt(exact.length);
  expect(error).toBeGreaterThan(0.001 * size);
  expect(error).toBeLessThan(0.05 * size);
});

test("DeepSeek-V3's cache in FP8 takes 648 bytes a token and layer", () => {
  const full = { ...config, kvLoraRank: 512, qkRopeHeadDim: 64 };
  expect(latentBytes(full, "fp8")).toBe(512 + 2 * 4 + 2 * 64);
  expect(latentBytes(full, "bf16")).toBe(1152);
  const parts = Object.values(latentCache(full, 1, 1, "fp8"));
  expect(parts.reduce((sum, t) => sum + t.size * dtypeBytes(t.dtype), 0)).toBe(648);
});
