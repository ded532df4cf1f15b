import type { DType, MatmulKernel, MatrixView } from "@dsv3/tensor";
import { fromF32 } from "@dsv3/tensor/dtype";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checkKernel, randomValues, type TestSlot } from "./check-kernel.ts";
import { matmul } from "./matmul.ts";
import { loadKernel } from "./run-kernel.ts";

type Layout = "rows" | "columns" | "spread";

/** A matrix of a batch in slot `slot`, and values for the slot. */
function matrix(
  slot: number,
  shape: { matrices: number; rows: number; cols: number },
  layout: Layout,
  dtype: DType = "f32",
): [MatrixView, TestSlot] {
  const { matrices, rows, cols } = shape;
  const offset = 3;
  const [row, col] = { rows: [cols, 1], columns: [1, rows], spread: [2 * cols + 1, 2] }[layout] as [
    number,
    number,
  ];
  const each = layout === "spread" ? rows * (2 * cols + 1) : rows * cols;
  const values = randomValues(offset + matrices * each, slot + rows);
  const scaled = dtype === "i8" ? values.map((x) => Math.round(x * 100)) : values;
  return [
    { slot, dtype, offset, batch: [each], row, col },
    { dtype, values: scaled },
  ];
}

function product(
  m: number,
  n: number,
  k: number,
  matrices: number,
  a: [Layout, DType?],
  b: [Layout, DType?],
  out: DType = "f32",
  tolerance = 2e-5,
) {
  const [av, as] = matrix(0, { matrices, rows: m, cols: k }, ...a);
  const [bv, bs] = matrix(1, { matrices, rows: k, cols: n }, ...b);
  const kernel: MatmulKernel = {
    kind: "matmul",
    batch: [matrices],
    m,
    n,
    k,
    a: av,
    b: bv,
    out: { slot: 2, dtype: out, offset: 0, batch: [m * n], row: n, col: 1 },
  };
  const outSlot: TestSlot = { dtype: out, values: new Float32Array(matrices * m * n), tolerance };
  return { kernel, slots: [as, bs, outSlot] };
}

const layout = fc.constantFrom<Layout>("rows", "columns", "spread");
const extent = fc.oneof(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 1, max: 70 }));

describe("matmul", () => {
  it("agrees with float64 for any shape and strides", () => {
    fc.assert(
      fc.property(
        extent,
        extent,
        extent,
        fc.integer({ min: 0, max: 3 }),
        layout,
        layout,
        (m, n, k, matrices, a, b) => {
          const { kernel, slots } = product(m, n, k, matrices, [a], [b]);
          checkKernel(kernel, matmul, slots);
        },
      ),
      { numRuns: 60 },
    );
  });

  it("gives a row the same bits whatever it comes with, from 5 rows on", () => {
    const [n, k] = [61, 333];
    const first = (m: number, dtype: DType) => {
      const { kernel, slots } = product(m, n, k, 1, ["rows"], ["columns", dtype]);
      const bytes = [randomValues(3 + 200 * k, 1), slots[1]!.values, new Float32Array(m * n)];
      const loaded = loadKernel(
        matmul(kernel, { relaxedSimd: true }),
        bytes.map((values, i) => fromF32(values, i === 1 ? dtype : "f32")),
      );
      loaded.run();
      return loaded.slot(2).slice(0, 4 * 5 * n);
    };
    for (const dtype of ["f32", "bf16"] as const) {
      const expected = first(150, dtype);
      for (const m of [5, 6, 8, 9, 12, 16, 23, 128, 129]) expect(first(m, dtype)).toEqual(expected);
    }
  });

  it("adds to what the result's place held, each number once, though tiles overlap", () => {
    for (const [m, n] of [
      [5, 25],
      [12, 31],
    ] as const) {
      const { kernel, slots } = product(m, n, 40, 1, ["rows"], ["columns"]);
      checkKernel({ ...kernel, add: kernel.out }, matmul, [
        ...slots.slice(0, 2),
        { dtype: "f32", values: randomValues(m * n, 9), tolerance: 2e-5 },
      ]);
    }
  });

  it("cuts long sums into blocks", () => {
    for (const [m, n] of [
      [13, 50],
      [50, 13],
    ] as const) {
      const { kernel, slots } = product(m, n, 1003, 1, ["rows"], ["columns"], "f32", 2e-4);
      checkKernel(kernel, matmul, slots);
    }
  });

  it.each(["bf16", "f16", "f8e4m3", "f8e5m2", "i8", "u8"] as const)(
    "converts %s operands while packing",
    (dtype) => {
      for (const l of ["rows", "columns", "spread"] as const) {
        const { kernel, slots } = product(19, 21, 30, 2, ["rows"], [l, dtype], "f32", 2e-3);
        checkKernel(kernel, matmul, slots);
        const swapped = product(19, 21, 30, 2, [l, dtype], ["rows"], "f32", 2e-3);
        checkKernel(swapped.kernel, matmul, swapped.slots);
      }
    },
  );

  it("sums products of i8 in i32", () => {
    for (const out of ["i32", "f32"] as const) {
      const { kernel, slots } = product(17, 9, 701, 2, ["rows", "i8"], ["columns", "i8"], out, 0);
      checkKernel(kernel, matmul, slots);
    }
  });

  it.each([
    [1, 32],
    [128, 128],
    [7, 5],
    [4, 1],
  ])("multiplies scales of %i × %i blocks in", (across, along) => {
    for (const name of ["a", "b"] as const) {
      for (const dtype of ["i8", "f8e4m3"] as const) {
        for (const l of ["rows", "columns", "spread"] as const) {
          const { kernel, slots } = product(
            40,
            20,
            140,
            2,
            name === "a" ? [l, dtype] : ["rows"],
            name === "b" ? [l, dtype] : ["rows"],
            "f32",
            1e-2,
          );
          const [rows, cols] = name === "a" ? [40, 140] : [140, 20];
          const block: [number, number] = name === "a" ? [across, along] : [along, across];
          const [sr, sc] = [Math.ceil(rows / block[0]), Math.ceil(cols / block[1])];
          const view = {
            ...kernel[name],
            scale: { slot: 3, block, batch: [sr * sc], row: sc, col: 1 },
          };
          checkKernel({ ...kernel, [name]: view }, matmul, [
            ...slots,
            { dtype: "f32", values: randomValues(2 * sr * sc, 9) },
          ]);
        }
      }
    }
  });

  it("adds a matrix, a row or a column, and narrows the result", () => {
    for (const [row, col] of [
      [21, 1],
      [0, 1],
      [1, 0],
      [2, 3],
      [0, 0],
    ] as const) {
      for (const dtype of ["f32", "bf16"] as const) {
        const { kernel, slots } = product(
          19,
          21,
          40,
          1,
          ["rows"],
          ["rows"],
          dtype,
          dtype === "f32" ? 2e-5 : 1e-2,
        );
        const add: MatrixView = { slot: 3, dtype, offset: 1, batch: [0], row, col };
        checkKernel({ ...kernel, add }, matmul, [
          ...slots,
          { dtype, values: randomValues(500, 5) },
        ]);
      }
    }
  });

  it("shares a matrix among a batch", () => {
    const { kernel, slots } = product(20, 30, 40, 3, ["rows"], ["columns"]);
    checkKernel({ ...kernel, b: { ...kernel.b, batch: [0] } }, matmul, slots);
    checkKernel({ ...kernel, a: { ...kernel.a, batch: [0] } }, matmul, slots);
  });

  it("keeps NaN and infinity in their rows and columns", () => {
    const { kernel, slots } = product(13, 11, 9, 1, ["rows"], ["rows"]);
    const values = Float32Array.from((slots[0] as TestSlot).values);
    values.set([Number.NaN, 0, Number.POSITIVE_INFINITY], 3 + 9 * 4);
    values[3 + 9 * 12] = Number.POSITIVE_INFINITY;
    checkKernel(kernel, matmul, [{ dtype: "f32", values }, ...slots.slice(1)]);
    expect(values.some(Number.isNaN)).toBe(true);
  });

  it.each(["f32", "bf16", "f16", "f8e4m3", "i8"] as const)(
    "streams a matrix of %s past a few rows",
    (dtype) => {
      for (const few of [1, 2, 3, 4]) {
        for (const k of [0, 5, 64, 77]) {
          const { kernel, slots } = product(
            few,
            27,
            k,
            2,
            ["rows"],
            ["columns", dtype],
            "f32",
            2e-3,
          );
          checkKernel(kernel, matmul, slots);
          const swapped = product(27, few, k, 2, ["rows", dtype], ["columns"], "f32", 2e-3);
          checkKernel(swapped.kernel, matmul, swapped.slots);
          // Scales of 3 columns × 32 steps of k, and something to add.
          const [scaleRows, scaleCols] = [Math.ceil(k / 32), 9];
          const scale = {
            slot: 3,
            block: [32, 3] as const,
            batch: [scaleRows * scaleCols],
            row: scaleCols,
            col: 1,
          };
          const add = { slot: 4, dtype: "f32", offset: 0, batch: [0], row: 0, col: 1 } as const;
          // Rows that meet scaled i8 are rounded: matmul-quick.test.ts says by how much.
          const tolerance = dtype === "i8" ? 2e-2 : 2e-3;
          const own = slots.map((slot) => (slot.tolerance ? { ...slot, tolerance } : slot));
          checkKernel({ ...kernel, b: { ...kernel.b, scale }, add }, matmul, [
            ...own,
            { dtype: "f32", values: randomValues(2 * scaleRows * scaleCols, 8) },
            { dtype: "f32", values: randomValues(27, 9) },
          ]);
        }
      }
    },
  );

  it.each(["f32", "bf16", "f16", "f8e4m3", "i8"] as const)(
    "goes down stripes of a matrix of %s with contiguous rows",
    (dtype) => {
      for (const few of [1, 2, 3, 4]) {
        for (const [k, n] of [
          [64, 64],
          [77, 259],
          [65, 1031],
        ] as const) {
          const { kernel, slots } = product(few, n, k, 2, ["rows"], ["rows", dtype], "f32", 2e-3);
          checkKernel(kernel, matmul, slots);
          const swapped = product(n, few, k, 2, ["columns", dtype], ["spread"], "f32", 2e-3);
          checkKernel(swapped.kernel, matmul, swapped.slots);
          // Onto what the result's place held: each number once, though stripes overlap.
          const { kernel: sum, slots: held } = product(few, n, k, 1, ["rows"], ["rows", dtype]);
          const old = randomValues(few * n, 9);
          checkKernel({ ...sum, add: sum.out }, matmul, [
            ...held.slice(0, 2),
            { dtype: "f32", values: old, tolerance: 2e-3 },
          ]);
        }
      }
    },
  );
});
