import type { DType, GroupedMatmulKernel } from "@dsv3/tensor";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checkKernel, randomValues } from "./check-kernel.ts";
import { groupedMatmul } from "./grouped-matmul.ts";
import { loadKernel } from "./run-kernel.ts";

/**
 * Runs of the given lengths, after `before` rows and before `after` rows that are in none. Rows of a, and
 * of b over groups, may be taken from matrices of so many rows, by indices of which some lie outside.
 */
function check(
  form: "rows" | "groups",
  lengths: readonly number[],
  k: number,
  n: number,
  {
    before = 0,
    after = 0,
    transposed = false,
    dtype = "f32" as DType,
    tolerance = 5e-5,
    aExtent = 0,
    bExtent = 0,
  } = {},
): void {
  const offsets = [before];
  for (const length of lengths) offsets.push((offsets.at(-1) as number) + length);
  const rows = (offsets.at(-1) as number) + after;
  const groups = lengths.length;
  const [row, col] = transposed ? [1, k] : [n, 1];
  const rowForm = form === "rows";
  const aStored = aExtent || rows;
  const bStored = bExtent || rows;
  const indices = (extent: number, seed: number) =>
    Int32Array.from(randomValues(rows, seed), (x) => Math.floor(((x + 1) / 2) * (extent + 3)) - 1);
  const kernel: GroupedMatmulKernel = {
    kind: "groupedMatmul",
    form,
    groups,
    rows,
    k,
    n,
    offsets: 3,
    a: {
      slot: 0,
      dtype: aExtent ? dtype : "f32",
      offset: 2,
      batch: [],
      row: transposed ? 1 : k,
      col: transposed ? aStored : 1,
    },
    b: rowForm
      ? { slot: 1, dtype, offset: 1, batch: [k * n], row, col }
      : { slot: 1, dtype, offset: 1, batch: [], row: n, col: 1 },
    out: { slot: 2, dtype: "f32", offset: 0, batch: rowForm ? [] : [k * n], row: n, col: 1 },
    ...(aExtent && { aRows: { slot: 4, extent: aExtent } }),
    ...(bExtent && !rowForm && { bRows: { slot: 5, extent: bExtent } }),
  };
  checkKernel(kernel, groupedMatmul, [
    { dtype: kernel.a.dtype, values: randomValues(2 + aStored * k, 3) },
    { dtype, values: randomValues(1 + (rowForm ? groups * k * n : bStored * n), 4) },
    { dtype: "f32", values: new Float32Array(rowForm ? rows * n : groups * k * n), tolerance },
    { dtype: "i32", values: offsets },
    { dtype: "i32", values: indices(aExtent, 5) },
    { dtype: "i32", values: indices(bExtent, 6) },
  ]);
}

describe.each(["rows", "groups"] as const)("groupedMatmul over %s", (form) => {
  it("agrees with float64 for any runs", () => {
    const lengths = fc.array(fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 20 })), {
      maxLength: 7,
    });
    const extent = fc.integer({ min: 0, max: 30 });
    const outside = fc.integer({ min: 0, max: 8 });
    fc.assert(
      fc.property(
        lengths,
        extent,
        extent,
        outside,
        outside,
        fc.boolean(),
        (l, k, n, before, after, transposed) => check(form, l, k, n, { before, after, transposed }),
      ),
      { numRuns: 50 },
    );
  });

  it("looks rows up, of either operand and in any order, and stays inside the matrix", () => {
    const lengths = fc.array(fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 20 })), {
      maxLength: 5,
    });
    const extent = fc.integer({ min: 0, max: 30 });
    const stored = fc.integer({ min: 1, max: 40 });
    fc.assert(
      fc.property(
        fc.record({ before: fc.nat(8), after: fc.nat(8), transposed: fc.boolean() }),
        fc.constantFrom<DType>("f32", "bf16", "f16"),
        fc.constantFrom("a", "b", "both"),
        ...([lengths, extent, extent, stored, stored] as const),
        (options, dtype, which, l, k, n, aRows, bRows) =>
          check(form, l, k, n, {
            ...options,
            dtype,
            tolerance: dtype === "f32" ? 5e-5 : 1e-3,
            ...(which !== "b" && { aExtent: aRows }),
            ...(which !== "a" && { bExtent: bRows }),
          }),
      ),
      { numRuns: 50 },
    );
    check(form, [700, 0, 30], 40, 48, { aExtent: 90, bExtent: 1, tolerance: 3e-4 });
  });

  it("takes one long run, many runs, and no rows", () => {
    check(form, [1100], 20, 40, { tolerance: 3e-4 });
    check(
      form,
      Array.from({ length: 40 }, (_, g) => g % 5),
      18,
      24,
    );
    check(form, [0, 0, 0], 16, 16);
  });

  it("converts matrices while packing", () => {
    check(form, [9, 0, 14], 20, 24, { dtype: "bf16", tolerance: 1e-3 });
    check(form, [9, 3, 14], 20, 25, { dtype: "bf16", transposed: true, tolerance: 1e-3 });
    check(form, [9, 0, 14], 20, 24, { dtype: "f8e4m3", transposed: true, tolerance: 1e-3 });
  });
});

describe("groupedMatmul over rows", () => {
  it("gives a row the same bits in every run", () => {
    const [k, n, most] = [37, 50, 30];
    const rows = new Uint8Array(randomValues(most * k, 1).buffer);
    const weights = new Uint8Array(randomValues(k * n, 2).buffer);
    const product = (count: number, columns: boolean) => {
      const kernel: GroupedMatmulKernel = {
        kind: "groupedMatmul",
        form: "rows",
        groups: 1,
        rows: count,
        k,
        n,
        offsets: 3,
        a: { slot: 0, dtype: "f32", offset: 0, batch: [], row: k, col: 1 },
        b: {
          ...{ slot: 1, dtype: "f32", offset: 0, batch: [0] },
          ...(columns ? { row: 1, col: k } : { row: n, col: 1 }),
        },
        out: { slot: 2, dtype: "f32", offset: 0, batch: [], row: n, col: 1 },
      };
      const offsets = new Uint8Array(Int32Array.of(0, count).buffer);
      const out = new Uint8Array(4 * count * n);
      const loaded = loadKernel(groupedMatmul(kernel, { relaxedSimd: true }), [
        rows,
        weights,
        out,
        offsets,
      ]);
      loaded.run();
      return loaded.slot(2).slice();
    };
    for (const columns of [true, false]) {
      const all = product(most, columns);
      for (const count of [1, 3, 4, 5, 8, 9, 13, 16]) {
        expect(product(count, columns)).toEqual(all.slice(0, 4 * count * n));
      }
    }
  });
});
