import type { DType, MatmulKernel } from "@dsv3/tensor";
import { dtypeBytes, toF32 } from "@dsv3/tensor/dtype";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { matmul } from "./matmul.ts";
import { loadKernel } from "./run-kernel.ts";

/** Rows [m, k] of f32 times weights given as codes, [n, k] and contiguous, with a scale for each RUN. */
function product(
  dtype: DType,
  rows: readonly (readonly number[])[],
  codes: Uint8Array,
  k: number,
  scales?: readonly number[],
) {
  const n = codes.length / dtypeBytes(dtype) / k;
  const m = rows.length;
  const runs = Math.ceil(k / RUN);
  const scale = scales && { slot: 3, block: [RUN, 1] as const, batch: [], row: 1, col: runs };
  const kernel: MatmulKernel = {
    kind: "matmul",
    batch: [],
    m,
    n,
    k,
    a: { slot: 0, dtype: "f32", offset: 0, batch: [], row: k, col: 1 },
    b: { slot: 1, dtype, offset: 0, batch: [], row: 1, col: k, ...(scale && { scale }) },
    out: { slot: 2, dtype: "f32", offset: 0, batch: [], row: n, col: 1 },
  };
  const a = new Uint8Array(Float32Array.from(rows.flat()).buffer);
  const targets = [
    { relaxedSimd: true, quickDots: true },
    { relaxedSimd: true },
    { relaxedSimd: true, quickDots: true, wideVectors: true },
    { relaxedSimd: false },
  ];
  return targets.map((target) => {
    const loaded = loadKernel(matmul(kernel, target), [
      a,
      codes,
      new Uint8Array(4 * m * n),
      ...(scales ? [new Uint8Array(Float32Array.from(scales).buffer)] : []),
    ]);
    loaded.run();
    return toF32(loaded.slot(2).slice(), "f32");
  });
}

/** One row of weights for every code of a format: the code at place `at`, zeros elsewhere. */
function everyCode(dtype: DType, at: number, k: number): Uint8Array {
  const size = dtypeBytes(dtype);
  const count = 2 ** (8 * size);
  const codes = size === 1 ? new Uint8Array(count * k) : new Uint16Array(count * k);
  for (let c = 0; c < count; c++) codes[c * k + at] = c;
  return new Uint8Array(codes.buffer);
}

const RUN = 32;
const FORMATS = ["bf16", "f16", "f8e4m3", "f8e5m2", "i8"] as const;

describe("weights in narrow formats", () => {
  it.each(FORMATS)("every code of %s is read exactly, at every place of a chunk", (dtype) => {
    const k = 16;
    const places = dtypeBytes(dtype) === 1 ? Array.from({ length: k }, (_, at) => at) : [0, 5, 15];
    for (const at of places) {
      const codes = everyCode(dtype, at, k);
      const all = toF32(codes, dtype);
      const expected = all.filter((_, i) => i % k === at);
      const row = Array.from({ length: k }, () => 1);
      for (const got of product(dtype, [row], codes, k))
        expect(got).toEqual(expected.map((x) => x + 0));
    }
  });

  it.each(FORMATS)("rows of any magnitude times %s are as exact as sums in f32", (dtype) => {
    const size = dtypeBytes(dtype);
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 16, max: 70 }),
        fc.integer({ min: -90, max: 50 }),
        fc.infiniteStream(fc.double({ min: -1, max: 1, noNaN: true })),
        fc.infiniteStream(fc.integer({ min: 0, max: 255 })),
        (m, k, exponent, numbers, bytes) => {
          const n = 5;
          const rows = Array.from({ length: m }, () =>
            Array.from({ length: k }, () =>
              Math.fround((numbers.next().value as number) * 2 ** exponent),
            ),
          );
          // Codes below every format's infinities, with either sign.
          const codes = Uint8Array.from({ length: n * k * size }, () =>
            (bytes.next().value as number) % 192 < 96
              ? (bytes.next().value as number) & 0x5f
              : 0xa5,
          );
          const weights = toF32(codes, dtype);
          const results = product(dtype, rows, codes, k);
          rows.forEach((row, i) => {
            for (let j = 0; j < n; j++) {
              let [sum, bound] = [0, 0];
              const most = Math.max(...row.map(Math.abs));
              row.forEach((x, s) => {
                const w = weights[j * k + s] as number;
                sum += x * w;
                bound += most * Math.abs(w);
              });
              for (const got of results) {
                expect(Math.abs((got[i * n + j] as number) - sum)).toBeLessThanOrEqual(
                  k * 2 ** -24 * bound + k * 2 ** -126,
                );
              }
            }
          });
        },
      ),
      { numRuns: 50 },
    );
  });

  it.each(FORMATS)("infinities and NaN in a row meet %s as they do elsewhere", (dtype) => {
    const k = 32;
    const one = { bf16: [0x80, 0x3f], f16: [0, 0x3c], f8e4m3: [0x38], f8e5m2: [0x3c], i8: [1] }[
      dtype
    ];
    const ones = new Uint8Array(k * one.length).map((_, i) => one[i % one.length] as number);
    const row = (x: number) => Array.from({ length: k }, (_, i) => (i === 7 ? x : 1));
    const rows = [
      row(Number.POSITIVE_INFINITY),
      row(Number.NaN),
      row(Number.NEGATIVE_INFINITY),
      row(1),
    ];
    for (const got of product(dtype, rows, ones, k)) {
      expect([...got]).toEqual([Number.POSITIVE_INFINITY, Number.NaN, Number.NEGATIVE_INFINITY, k]);
    }
  });

  it("rows that meet scaled i8 are rounded by 2^-15 of each run's largest, whatever the others hold", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 16, max: 300 }),
        fc.infiniteStream(fc.integer({ min: -80, max: 60 })),
        fc.infiniteStream(fc.double({ min: -1, max: 1, noNaN: true })),
        fc.infiniteStream(fc.integer({ min: -128, max: 127 })),
        (m, k, exponents, numbers, bytes) => {
          const n = 5;
          const runs = Math.ceil(k / RUN);
          const next = (exponent: number) =>
            Math.fround((numbers.next().value as number) * 2 ** exponent);
          const magnitudes = Array.from({ length: runs }, () => exponents.next().value as number);
          const rows = Array.from({ length: m }, () =>
            Array.from({ length: k }, (_, i) => next(magnitudes[Math.floor(i / RUN)] as number)),
          );
          const codes = Int8Array.from({ length: n * k }, () => bytes.next().value as number);
          const scales = Array.from({ length: n * runs }, () => Math.abs(next(0)));
          const results = product("i8", rows, new Uint8Array(codes.buffer), k, scales);
          // The same integers are summed, in one instruction or in several.
          expect(results[0]).toEqual(results[1]);
          expect(results[0]).toEqual(results[2]);
          rows.forEach((row, i) => {
            for (let j = 0; j < n; j++) {
              let [sum, rounding, all] = [0, 0, 0];
              for (let run = 0; run < runs; run++) {
                const part = row.slice(run * RUN, (run + 1) * RUN);
                const most = Math.max(...part.map(Math.abs));
                part.forEach((x, s) => {
                  const w =
                    (codes[j * k + run * RUN + s] as number) * (scales[j * runs + run] as number);
                  sum += x * w;
                  rounding += 2 ** -15 * most * Math.abs(w);
                  all += most * Math.abs(w);
                });
              }
              const bound = rounding + 16 * runs * 2 ** -24 * all + k * 2 ** -119;
              for (const got of results) {
                expect(Math.abs((got[i * n + j] as number) - sum)).toBeLessThanOrEqual(bound);
              }
            }
          });
        },
      ),
      { numRuns: 50 },
    );
  });

  it("infinities and NaN in a row meet scaled i8 as they do elsewhere", () => {
    const k = 2 * RUN;
    const row = (x: number) => Array.from({ length: k }, (_, i) => (i === 40 ? x : 1));
    const odd = [Number.POSITIVE_INFINITY, Number.NaN, Number.NEGATIVE_INFINITY, 3e38];
    const ones = new Uint8Array(k).fill(1);
    for (const got of product("i8", odd.map(row), ones, k, [0.5, 0.5])) {
      expect([...got]).toEqual([...odd.slice(0, 3), Math.fround(1.5e38)]);
    }
  });
});
