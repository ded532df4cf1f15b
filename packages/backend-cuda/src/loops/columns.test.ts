/** Sums of columns beside rows, against float64: the gradients of a norm, of rows and columns of all kinds. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type Backend,
  type BufferSpec,
  type DType,
  dtypeBytes,
  type Expr,
  fromF32,
  type LoopKernel,
  toF32,
} from "../contract.ts";
import { emulatedBackend, emulatorAvailable } from "../testing/emulator.ts";

const EPS = 1e-6;

/**
 * Slots: x, dy, w, the residual's gradient; dx + residual, dw in f32 and rounded, Σ dy. With three sums'
 * values from before the row's reductions and after.
 */
function kernel(rows: number, columns: number, dtypes: readonly DType[]): LoopKernel {
  let id = 0;
  const make = (e: object): Expr => ({ id: id++, type: "f32", ...e }) as Expr;
  const at = (strides: readonly number[]) => ({ offset: 0, strides, terms: [] });
  const load = (slot: number, strides: readonly number[] = [columns, 1]) =>
    make({ op: "load", slot, index: at(strides) });
  const constant = (value: number) => make({ op: "const", value });
  const op = (name: string, ...args: Expr[]) => make({ op: name, args });
  const acc = (n: number) => make({ op: "acc", acc: n });
  const [x, dy, w, residual] = [load(0), load(1), load(2, [0, 1]), load(3)] as const;
  const g = op("mul", dy, w);
  const mean = (n: number) => op("mul", acc(n), constant(1 / columns));
  const scale = op("div", constant(1), op("sqrt", op("add", mean(0), constant(EPS))));
  const along = op("mul", op("mul", op("mul", scale, scale), mean(1)), x);
  const dx = op("mul", scale, op("sub", g, along));
  const dw = op("mul", dy, op("mul", x, scale));
  const [row, column] = [at([columns, 1]), at([0, 1])];
  return {
    kind: "loop",
    vars: [rows, columns],
    outer: 1,
    stages: [
      {
        inner: [1],
        reduces: [
          { op: "sum", value: op("mul", x, x), acc: 0 },
          { op: "sum", value: op("mul", g, x), acc: 1 },
        ],
        stores: [],
        columnSums: [{ slot: 7, index: column, value: dy }],
      },
      {
        inner: [1],
        reduces: [],
        stores: [{ slot: 4, index: row, value: op("add", residual, dx) }],
        columnSums: [
          { slot: 5, index: column, value: dw },
          { slot: 6, index: column, value: dw },
        ],
      },
    ],
    slots: dtypes,
  };
}

/** The same by its definition. */
function expected(rows: number, columns: number, values: readonly ArrayLike<number>[]): number[][] {
  const at = (slot: number, i: number) => values[slot]?.[i] as number;
  const dx = new Array<number>(rows * columns).fill(0);
  const [dw, sum] = [new Array<number>(columns).fill(0), new Array<number>(columns).fill(0)];
  for (let r = 0; r < rows; r++) {
    let [square, dot] = [0, 0];
    for (let c = 0; c < columns; c++) {
      const i = r * columns + c;
      square += at(0, i) ** 2;
      dot += at(1, i) * at(2, c) * at(0, i);
    }
    const scale = 1 / Math.sqrt(square / columns + EPS);
    for (let c = 0; c < columns; c++) {
      const i = r * columns + c;
      const part = scale ** 2 * (dot / columns) * at(0, i);
      dx[i] = at(3, i) + scale * (at(1, i) * at(2, c) - part);
      dw[c] = (dw[c] as number) + at(1, i) * at(0, i) * scale;
      sum[c] = (sum[c] as number) + at(1, i);
    }
  }
  return [dx, dw, dw, sum];
}

function run(backend: Backend, loop: LoopKernel, inputs: readonly Uint8Array[]): Uint8Array[] {
  const [rows, columns] = loop.vars as [number, number];
  const elements = [rows, rows, 1, rows, rows, 1, 1, 1].map((n) => n * columns);
  const buffers = loop.slots.map((dtype, s): BufferSpec => {
    const n = elements[s] as number;
    return { dtype, elements: n, bytes: n * dtypeBytes(dtype), role: s < 4 ? "input" : "output" };
  });
  const writes = [4, 5, 6, 7];
  const step = { kernel: loop, buffers: [0, 1, 2, 3, ...writes], writes, label: "", flops: 0 };
  const program = { name: "columns", buffers, inputs: 4, outputs: 4, scratchBytes: 0 };
  const executable = backend.compile({ ...program, steps: [{ ...step, traffic: 0 }] });
  const memory = buffers.map((b) => backend.alloc(b.bytes));
  inputs.forEach((data, i) => {
    backend.write(memory[i] as (typeof memory)[number], data);
  });
  executable.run(memory);
  const results = memory.slice(4).map((buffer) => backend.readSync(buffer));
  executable.dispose();
  for (const buffer of memory) backend.free(buffer);
  return results;
}

const error = (got: ArrayLike<number>, want: readonly number[]) => {
  const difference = want.reduce((sum, x, i) => sum + (x - (got[i] as number)) ** 2, 0);
  return Math.sqrt(difference / want.reduce((sum, x) => sum + x * x, 0));
};

describe.skipIf(!emulatorAvailable())("sums of columns beside rows on the CPU", () => {
  let cache: string;
  let backend: Backend;
  beforeAll(() => {
    cache = mkdtempSync(join(tmpdir(), "dsv3-columns-"));
    backend = emulatedBackend(cache);
  });
  afterAll(() => {
    backend.dispose();
    rmSync(cache, { recursive: true, force: true });
  });

  test.each([
    ["one row", 1, 96, "f32"],
    ["fewer rows than blocks", 3, 1024, "bf16"],
    ["fewer rows than a block takes", 3, 40, "f32"],
    ["one column", 700, 1, "f32"],
    ["odd sizes", 301, 101, "bf16"],
    ["a part of a warp's vectors", 203, 264, "bf16"],
    ["several warps, a part of the last pass", 37, 3592, "bf16"],
    ["several warps, one by one", 11, 2729, "f32"],
  ] as const)("%s: %i rows of %i %s", { timeout: 120_000 }, (_, rows, columns, wide) => {
    const dtypes: DType[] = [wide, "bf16", "f32", wide, wide, "f32", "bf16", "f32"];
    const inputs = [rows, rows, 1, rows].map((n, slot) => {
      const values = Float32Array.from({ length: n * columns }, (_, i) =>
        // None of the sums is near 0.
        slot === 1 ? Math.sin(i * 0.7) + 0.5 : Math.sin(i * (slot + 1.3) + slot) * 1.5 + 0.5,
      );
      return fromF32(values, dtypes[slot] as DType);
    });
    const values = inputs.map((data, slot) => toF32(data, dtypes[slot] as DType));
    const loop = kernel(rows, columns, dtypes);
    const first = run(backend, loop, inputs);
    const want = expected(rows, columns, values);
    want.forEach((w, n) => {
      const dtype = dtypes[4 + n] as DType;
      const got = toF32(first[n] as Uint8Array, dtype);
      expect(error(got, w), `result ${n}`).toBeLessThan(dtype === "bf16" ? 3e-3 : 2e-6);
    });
    expect(run(backend, loop, inputs)).toEqual(first);
  });
});
