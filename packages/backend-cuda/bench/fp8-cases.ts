/** Quantisation both ways and experts' weights' gradients in FP8, as a training step has them. */
import { dtypeBytes, fromF32, type MatrixView, toF32 } from "../src/contract.ts";
import { type Case, RATE, some } from "./case.ts";
import { dot, type Slot, single, unevenRuns } from "./matrix-cases.ts";

const BLOCK = 128;

/** A number of a block in E4M3, and the block's scale. */
function quantized(block: readonly number[], at: number): { value: number; scale: number } {
  const most = block.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
  const scale = 2 ** Math.ceil(Math.log2(most / 448));
  const byte = fromF32([(block[at] as number) / scale], "f8e4m3");
  return { value: toF32(byte, "f8e4m3")[0] as number, scale };
}

/** bf16 [rows, width] along rows and columns; with `groups`, in runs; with `tokens`, rows looked up. */
function bothWays(
  rows: number,
  width: number,
  { groups = 0, tokens = 0 }: { readonly groups?: number; readonly tokens?: number } = {},
): Case {
  const ends = groups ? unevenRuns(groups, rows / groups) : [0, rows];
  const length = Math.floor((rows + (BLOCK - 1) * Math.max(1, groups)) / BLOCK) * BLOCK;
  const token = (r: number) => (tokens ? (r * 7919) % tokens : r);
  const scales = (width / BLOCK) * rows + (length / BLOCK) * width;
  const slots: Slot[] = [
    { dtype: "bf16", elements: (tokens || rows) * width },
    { dtype: "f8e4m3", elements: rows * width },
    { dtype: "f32", elements: (width / BLOCK) * rows },
    { dtype: "f8e4m3", elements: length * width },
    { dtype: "f32", elements: (length / BLOCK) * width },
  ];
  const add = (slot: Slot) => slots.push(slot) - 1;
  const lookup = tokens && {
    xRows: {
      slot: add({
        dtype: "i32",
        elements: rows,
        data: Int32Array.from({ length: rows }, (_, r) => token(r)),
      }),
      extent: tokens,
    },
  };
  const runs = groups && {
    groups,
    offsets: add({ dtype: "i32", elements: groups + 1, data: Int32Array.from(ends) }),
    starts: add({ dtype: "i32", elements: groups + 1 }),
  };
  return single({
    name: `e4m3 both ways, bf16 ${rows} x ${width}${groups ? `, ${groups} runs` : ""}${tokens ? ` of ${tokens}` : ""}`,
    kernel: {
      kind: "quantize",
      rows,
      width,
      x: { slot: 0, dtype: "bf16", offset: 0, batch: [], row: width, col: 1 },
      ...(lookup || {}),
      alongRows: { values: 1, scale: 2 },
      alongColumns: { values: 3, scale: 4, length, ...(runs && { runs }) },
    },
    slots,
    writes: [1, 2, 3, 4, ...(runs ? [runs.starts] : [])],
    flops: 0,
    bytes: slots.slice(0, 4).reduce((sum, s) => sum + s.elements * dtypeBytes(s.dtype), scales * 4),
    rate: RATE.f32,
    expected: (read) => {
      const x = (r: number, c: number) => read(0, token(r) * width + c);
      return some(rows * width, 400).flatMap((index) => {
        const [r, c] = [Math.floor(index / width), index % width];
        const run = ends.findIndex((end) => end > r) - 1;
        const [from, to] = [ends[run] as number, ends[run + 1] as number];
        let start = 0;
        for (let g = 0; g < run; g++)
          start += Math.ceil(((ends[g + 1] as number) - (ends[g] as number)) / BLOCK) * BLOCK;
        const top = r - ((r - from) % BLOCK);
        const left = c - (c % BLOCK);
        const inRow = Array.from({ length: BLOCK }, (_, i) => x(r, left + i));
        const inColumn = Array.from({ length: Math.min(BLOCK, to - top) }, (_, i) => x(top + i, c));
        const [row, column] = [quantized(inRow, c - left), quantized(inColumn, r - top)];
        const place = start + r - from;
        return [
          { slot: 1, index, value: row.value },
          { slot: 2, index: (left / BLOCK) * rows + r, value: row.scale },
          { slot: 3, index: c * length + place, value: column.value },
          { slot: 4, index: Math.floor(place / BLOCK) * width + c, value: column.scale },
        ];
      });
    },
  });
}

/** Experts' weights' gradient of operands as `bothWays` makes them: [groups, k, n]. */
function weightsGradient(groups: number, each: number, k: number, n: number): Case {
  const starts = unevenRuns(groups, each).map((end) => Math.round(end / BLOCK) * BLOCK);
  const rows = groups * each;
  const operand = (slot: number, width: number): MatrixView => ({
    ...{ slot, dtype: "f8e4m3", offset: 0, batch: [], row: 1, col: rows },
    scale: { slot: slot + 3, block: [BLOCK, 1], batch: [], row: width, col: 1 },
  });
  return single({
    name: `grouped x^T·y e4m3, ${groups} x about ${each} rows, ${k} x ${n}`,
    kernel: {
      ...{ kind: "groupedMatmul", form: "groups", groups, rows, k, n, offsets: 2 },
      a: operand(0, k),
      b: operand(1, n),
      out: { slot: 5, dtype: "bf16", offset: 0, batch: [k * n], row: n, col: 1 },
    },
    slots: [
      { dtype: "f8e4m3", elements: rows * k },
      { dtype: "f8e4m3", elements: rows * n },
      { dtype: "i32", elements: groups + 1, data: Int32Array.from(starts) },
      { dtype: "f32", elements: (rows / BLOCK) * k },
      { dtype: "f32", elements: (rows / BLOCK) * n },
      { dtype: "bf16", elements: groups * k * n },
    ],
    writes: [5],
    flops: 2 * rows * k * n,
    bytes: rows * (k + n) + 2 * groups * k * n,
    rate: RATE.f8e4m3,
    expected: (read) =>
      some(groups * k, 32).flatMap((m) => {
        const [g, i] = [Math.floor(m / k), m % k];
        const [from, to] = [starts[g] as number, starts[g + 1] as number];
        const element = (slot: number, width: number, c: number) => (r: number) =>
          read(slot, c * rows + from + r) *
          read(slot + 3, Math.floor((from + r) / BLOCK) * width + c);
        return some(n, 64).map((c) => ({
          slot: 5,
          index: m * n + c,
          value: dot(to - from, element(0, k, i), element(1, n, c)),
        }));
      }),
  });
}

export const FP8_CASES: readonly (() => Case)[] = [
  () => bothWays(16_384, 7168),
  () => bothWays(16_384, 1024),
  () => bothWays(98_304, 384, { groups: 64 }),
  () => bothWays(98_304, 1024, { groups: 64, tokens: 16_384 }),
  () => weightsGradient(64, 1536, 768, 1024),
  () => weightsGradient(64, 1536, 1024, 384),
  () => weightsGradient(32, 512, 7168, 2048),
];
