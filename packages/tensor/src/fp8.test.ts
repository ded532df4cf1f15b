import { beforeAll, describe, expect, it } from "vitest";
import type { QuantizeKernel } from "./backend.ts";
import { compile } from "./compile.ts";
import { inFp8, quantizeFp8 } from "./fp8.ts";
import { valueAndGrad } from "./grad.ts";
import { groupedLinear, linear } from "./nn.ts";
import { take } from "./ops/indexed.ts";
import { dequantize } from "./ops/matrix.ts";
import { mul } from "./ops/pointwise.ts";
import { quantize } from "./ops/quantize.ts";
import { sum } from "./ops/reduce.ts";
import { slice } from "./ops/shape.ts";
import { key, normal } from "./random.ts";
import { setBackend, type Tensor, tensor } from "./tensor.ts";
import { referenceBackend } from "./testing/reference-backend.ts";

beforeAll(() => setBackend(referenceBackend()));

/** With the kernel that quantises both ways, and with loops. */
const BACKENDS = [
  { name: "a kernel", backend: { ...referenceBackend(), quantizes: true } },
  { name: "loops", backend: referenceBackend() },
];

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

describe("quantize", () => {
  const [N, D] = [300, 140];
  /** Random numbers, and blocks of zeros both ways. */
  const matrix = () => {
    using k = key(4);
    const x = Float32Array.from(normal(k, [N, D]).dataSync() as Float32Array);
    x.fill(0, 0, 128 * D);
    for (let r = 128; r < N; r++) x.fill(0, r * D, r * D + 128);
    return tensor(x, { shape: [N, D] });
  };
  const both = (x: Tensor, rows: readonly (readonly [number, number])[]) =>
    compile((x: Tensor) =>
      [
        quantizeFp8(x, [1, 128]),
        ...rows.map(([from, to]) => quantizeFp8(slice(x, [from, 0], [to, D]), [128, 1])),
      ].map(({ values, scale }) => ({ values, scale })),
    )(x);

  it("gives rows and columns as quantizeFp8 does, columns padded", async () => {
    const x = matrix();
    const [rows, columns] = both(x, [[0, N]]) as { values: Tensor; scale: Tensor }[];
    const got = compile((x: Tensor) => {
      const q = quantize(x);
      return [q.rows, q.columns].map(({ values, scale }) => ({ values, scale }));
    })(x);
    expect(await numbers(got[0]!.values)).toEqual(await numbers(rows!.values));
    expect(await numbers(got[0]!.scale)).toEqual(await numbers(rows!.scale));
    const values = await numbers(got[1]!.values);
    expect(values.slice(0, N * D)).toEqual(await numbers(columns!.values));
    expect(new Set(values.slice(N * D))).toEqual(new Set([0]));
    expect(got[1]!.values.shape).toEqual([384, D]);
    expect(await numbers(got[1]!.scale)).toEqual(await numbers(columns!.scale));
  });

  it("pads every run to blocks of its own", async () => {
    const x = matrix();
    const offsets = [0, 0, 129, 130, 130, 258]; // 0, 129, 1, 0 and 128 rows, and 42 in none
    const runs = offsets.slice(1).map((to, g) => [offsets[g] as number, to] as const);
    const want = both(x, runs).slice(1);
    const got = compile((x: Tensor, offsets: Tensor) => {
      const { columns, starts } = quantize(x, offsets);
      return { values: columns.values, scale: columns.scale, starts: starts as Tensor };
    })(x, tensor(offsets, { dtype: "i32" }));
    const starts = await numbers(got.starts);
    expect(starts).toEqual([0, 0, 256, 384, 384, 512]);
    const P = got.values.shape[0] as number;
    expect(P).toBe(Math.floor((N + 127 * 5) / 128) * 128);
    const values = new Array(P * D).fill(0);
    const scale = new Array((P / 128) * D).fill(0);
    for (const [g, w] of want.entries()) {
      const start = starts[g] as number;
      values.splice(start * D, w.values.size, ...(await numbers(w.values)));
      scale.splice((start / 128) * D, w.scale.size, ...(await numbers(w.scale)));
    }
    expect(await numbers(got.values)).toEqual(values);
    expect(await numbers(got.scale)).toEqual(scale);
  });

  it("computes what is used, of rows that it looks up", () => {
    const x = matrix();
    const ids = tensor([5, 5, 299], { dtype: "i32" });
    const compiled = compile((x: Tensor, ids: Tensor) => quantize(take(x, ids)).columns.values);
    const { steps } = compiled.program(x, ids).program;
    expect(steps.map(({ kernel }) => kernel.kind)).toEqual(["quantize", "loop"]);
    const kernel = steps[0]!.kernel as QuantizeKernel;
    expect(kernel.xRows?.extent).toBe(N);
    expect(kernel.alongRows).toBeUndefined();
    expect(kernel.alongColumns?.length).toBe(128);
  });

  it("refuses what is no matrix of floats, and offsets that are none", () => {
    expect(() => quantize(tensor([1, 2]))).toThrow(/quantize needs a matrix of floats/);
    const x = tensor([1, 2], { shape: [1, 2] });
    expect(() => quantize(x, tensor([0, 1]))).toThrow(/offsets should be i32/);
  });
});

describe.each(BACKENDS)("products in FP8, quantised by $name", ({ backend }) => {
  beforeAll(() => setBackend(backend));
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

it("a layer's operands are quantised once each, both ways", () => {
  setBackend({ ...referenceBackend(), quantizes: true });
  const offsets = tensor([0, 20, 48], { dtype: "i32" });
  const step = (fn: (x: Tensor, w: Tensor) => Tensor) =>
    compile((x: Tensor, w: Tensor) =>
      valueAndGrad((x: Tensor, w: Tensor) => sum(fn(x, inFp8(w))), { argnums: [0, 1] })(x, w),
    );
  const x = tensor(new Float32Array(48 * 128), { shape: [48, 128] });
  const w = tensor(new Float32Array(2 * 64 * 128), { shape: [2, 64, 128] });
  const { steps } = step((x, w) => groupedLinear(x, w, offsets)).program(x, w).program;
  const kernels = steps.map(({ kernel }) => kernel);
  const quantized = kernels.filter(({ kind }) => kind === "quantize") as QuantizeKernel[];
  expect(quantized.map((k) => [k.alongRows, k.alongColumns].every(Boolean))).toEqual([true, true]);
  const products = kernels.filter((k) => k.kind === "groupedMatmul");
  expect(products.map((k) => [k.form, k.a.scale?.block, k.b.scale?.block])).toEqual([
    ["rows", [1, 128], [128, 128]],
    ["rows", [1, 128], [128, 128]],
    ["groups", [128, 1], [128, 1]],
  ]);
});

it("products that learn nothing quantise rows where these are computed", () => {
  setBackend({ ...referenceBackend(), keepsRows: true, quantizes: true });
  const multiply = compile((x: Tensor, values: Tensor, scale: Tensor) =>
    linear(mul(x, 2), inFp8(dequantize(values, { scale, block: [128, 128] }))),
  );
  const x = tensor(new Float32Array(48 * 128), { shape: [48, 128] });
  const values = tensor(new Float32Array(64 * 128), { shape: [64, 128], dtype: "f8e4m3" });
  const scale = tensor([1], { shape: [1, 1] });
  const { steps } = multiply.program(x, values, scale).program;
  expect(steps.map(({ kernel }) => kernel.kind)).toEqual(["loop", "matmul"]);
});
