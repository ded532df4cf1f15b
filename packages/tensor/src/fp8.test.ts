import { beforeAll, describe, expect, it } from "vitest";
import { compile } from "./compile.ts";
import { inFp8, quantizeFp8 } from "./fp8.ts";
import { valueAndGrad } from "./grad.ts";
import { groupedLinear, linear } from "./nn.ts";
import { dequantize } from "./ops/matrix.ts";
import { mul } from "./ops/pointwise.ts";
import { sum } from "./ops/reduce.ts";
import { key, normal } from "./random.ts";
import { setBackend, type Tensor, tensor } from "./tensor.ts";
import { referenceBackend } from "./testing/reference-backend.ts";

beforeAll(() => setBackend(referenceBackend()));

const numbers = async (t: Tensor) => Array.from((await t.data()) as Float32Array);

/** ‖a − b‖ / ‖b‖ */
function distance(a: readonly number[], b: readonly number[]): number {
  const square = (xs: readonly number[]) => xs.reduce((n, x) => n + x * x, 0);
  return Math.sqrt(square(a.map((x, i) => x - (b[i] as number))) / square(b));
}

describe("quantizeFp8", () => {
  it("scales blocks by the least power of two that lets their largest number fit", async () => {
    // Rows of 256: largest numbers 448 (fits as it is), 449 (needs 2), 0 and 7 (2^-6: 448 · 2^-6 = 7).
    const x = new Float32Array(512);
    x.set([448, -1, 0.5], 0);
    x.set([-449, 3], 128);
    x.set([7, 0.01], 384);
    const { values, scale } = compile((x: Tensor) => {
      const q = quantizeFp8(x, [1, 128]);
      return { values: q.values, scale: q.scale };
    })(tensor(x, { shape: [2, 256] }));
    expect(await numbers(scale)).toEqual([1, 2, 0, 2 ** -6]);
    const read = (await values.data()) as Float32Array;
    expect([read[0], read[1], read[2]]).toEqual([448, -1, 0.5]);
    expect([read[128], read[129]]).toEqual([-224, 1.5]); // −224.5 is nearest to −224
    expect(read[384]).toBe(448);
    expect(read[385]).toBe(0.625); // 0.64 between 0.625 and 0.6875
  });

  it("keeps every number within half a step of E4M3", async () => {
    using k = key(3);
    const x = normal(k, [64, 256]);
    const q = compile((x: Tensor) => {
      const { values, scale } = quantizeFp8(x, [1, 128]);
      return { values, scale };
    })(x);
    const [exact, values, scales] = [
      await numbers(x),
      await numbers(q.values),
      await numbers(q.scale),
    ];
    exact.forEach((e, i) => {
      const s = scales[Math.floor(i / 128)] as number;
      expect(Math.abs((values[i] as number) * s - e)).toBeLessThanOrEqual(
        Math.max(Math.abs(e) / 16, s * 2 ** -10) + 1e-12,
      );
    });
  });
});

describe("products in FP8", () => {
  const products = {
    linear: (x: Tensor, w: Tensor) => linear(x, w),
    groupedLinear: (x: Tensor, w: Tensor) =>
      groupedLinear(x, w, tensor([0, 20, 48], { dtype: "i32" })),
  };
  for (const [name, fn] of Object.entries(products)) {
    it(`${name}: results and gradients differ from the exact ones by the rounding alone`, async () => {
      using k = key(7);
      const grouped = name === "groupedLinear";
      const x = normal(k, [48, 128]);
      using k2 = key(8);
      const w = normal(k2, grouped ? [2, 64, 128] : [64, 128]);
      using k3 = key(9);
      const dy = normal(k3, [48, 64]);
      const both = (fp8: boolean) =>
        compile((x: Tensor, w: Tensor, dy: Tensor) => {
          const loss = (x: Tensor, w: Tensor) => {
            const y = fn(x, fp8 ? inFp8(w) : w);
            return [sum(mul(y, dy)), y] as const;
          };
          const [[, y], [dx, dw]] = valueAndGrad(loss, { argnums: [0, 1] })(x, w);
          return { y, dx, dw };
        })(x, w, dy);
      const [got, exact] = [both(true), both(false)];
      for (const part of ["y", "dx", "dw"] as const) {
        const error = distance(await numbers(got[part]), await numbers(exact[part]));
        // Two factors rounded to 3 bits: relative errors of about 2.6 % each, independent.
        expect(error, part).toBeGreaterThan(0.02);
        expect(error, part).toBeLessThan(0.05);
      }
    });
  }

  for (const rows of [4, 24]) {
    it(`${rows} rows: a matrix stored in FP8 is multiplied as it is, and gets no gradient`, async () => {
      using k = key(11);
      const x = normal(k, [rows, 128]);
      using k2 = key(12);
      const w = normal(k2, [32, 128]);
      const run = compile((x: Tensor, w: Tensor) => {
        const { values, scale, block } = quantizeFp8(w, [128, 128]);
        const stored = dequantize(values, { scale, block });
        const loss = (x: Tensor, w: Tensor) => {
          const y = linear(x, inFp8(w));
          return [sum(y), y] as const;
        };
        const [[, y], dx] = valueAndGrad((x: Tensor) => loss(x, stored))(x);
        return { y, dx, exact: linear(x, stored), sums: sum(stored, 0) };
      })(x, w);
      const error = distance(await numbers(run.y), await numbers(run.exact));
      if (rows === 4) expect(error).toBe(0);
      else expect(error).toBeLessThan(0.04);
      const sums = await numbers(run.sums);
      const every = Array.from({ length: rows }, () => sums).flat();
      expect(distance(await numbers(run.dx), every)).toBeLessThan(1e-5);
    });
  }

  it("no gradient is lost where nothing is to be learnt", async () => {
    const x = tensor(new Float32Array(16 * 128), { shape: [16, 128] });
    const w = tensor(new Float32Array(32 * 128).fill(1), { shape: [32, 128] });
    const run = compile((x: Tensor, w: Tensor) =>
      valueAndGrad((x: Tensor, w: Tensor) => sum(linear(x, inFp8(w))), { argnums: [0, 1] })(x, w),
    );
    const [loss, [dx, dw]] = run(x, w);
    expect(await loss.item()).toBe(0);
    expect(new Set(await numbers(dx))).toEqual(new Set([32]));
    expect(new Set(await numbers(dw))).toEqual(new Set([0]));
  });
});
