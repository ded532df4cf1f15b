/** The matrix kernels at the sizes that decide DeepSeek-V3's speed. */
import type { BufferSpec, DType, HeadsView, Kernel, MatrixView } from "../src/contract.ts";
import { dtypeBytes } from "../src/contract.ts";
import { type Case, RATE, type Sample, some, totalBytes } from "./case.ts";

export interface Slot {
  readonly dtype: DType;
  readonly elements: number;
  /** What an input holds; random numbers if absent. */
  readonly data?: Int32Array | Float32Array;
}

type Read = (slot: number, index: number) => number;

interface Single {
  readonly name: string;
  readonly kernel: Kernel;
  readonly slots: readonly Slot[];
  readonly writes: readonly number[];
  readonly flops: number;
  readonly bytes: number;
  readonly rate: number;
  /** Samples by slot. */
  expected(read: Read): { slot: number; index: number; value: number }[];
}

/** A program of one step. */
export function single(c: Single): Case {
  const inputs = c.slots.flatMap((_, slot) => (c.writes.includes(slot) ? [] : [slot]));
  const order = [...inputs, ...c.writes];
  const bufferOf = (slot: number) => order.indexOf(slot);
  return {
    name: c.name,
    program: {
      name: c.name,
      buffers: order.map((slot): BufferSpec => {
        const { dtype, elements } = c.slots[slot] as Slot;
        const role = c.writes.includes(slot) ? "output" : "input";
        return { dtype, elements, bytes: totalBytes(dtype, elements), role };
      }),
      inputs: inputs.length,
      outputs: c.writes.length,
      steps: [
        {
          kernel: c.kernel,
          buffers: c.slots.map((_, slot) => bufferOf(slot)),
          writes: c.writes,
          label: c.name,
          flops: c.flops,
          traffic: c.bytes,
        },
      ],
      scratchBytes: 0,
    },
    given: new Map(
      c.slots.flatMap(({ data }, slot) => (data ? [[bufferOf(slot), data] as const] : [])),
    ),
    flops: c.flops,
    bytes: c.bytes,
    rate: c.rate,
    expected: (input) =>
      c
        .expected((slot, index) => input(bufferOf(slot), index))
        .map(({ slot, index, value }): Sample => ({ buffer: bufferOf(slot), index, value })),
    tolerance: 8e-3,
  };
}

function heads(slot: number, t: number, h: number, w: number): HeadsView {
  return { slot, dtype: "bf16", offset: 0, strides: [t * h * w, h * w, w, 1] };
}

export function dot(n: number, a: (i: number) => number, b: (i: number) => number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a(i) * b(i);
  return sum;
}

/** Causal self-attention [batch, time, h, width] and its derivative. */
function attention(
  batch: number,
  time: number,
  h: number,
  qk: number,
  v: number,
  grad: boolean,
): Case {
  const scale = qk ** -0.5;
  const shape = {
    batch,
    queries: time,
    keys: time,
    heads: h,
    keyHeads: h,
    qkWidth: qk,
    vWidth: v,
    scale,
    causal: true,
    q: heads(0, time, h, qk),
    k: heads(1, time, h, qk),
    v: heads(2, time, h, v),
    out: heads(3, time, h, v),
    lse: 4,
  };
  const rows = batch * time * h;
  const wide: Slot = { dtype: "bf16", elements: rows * qk };
  const narrow: Slot = { dtype: "bf16", elements: rows * v };
  // The derivative is a function of out and lse as they are given; near the true size of lse.
  const lse: Slot = {
    dtype: "f32",
    elements: rows,
    ...(grad ? { data: Float32Array.from({ length: rows }, (_, i) => 10 + (i % 7) / 4) } : {}),
  };
  const pairs = (rows * (time + 1)) / 2;
  const at = (b: number, t: number, hh: number, w: number) => ((b * time + t) * h + hh) * w;
  const lseAt = (b: number, hh: number, t: number) => (b * h + hh) * time + t;
  const expected = (read: Read) => {
    const samples: { slot: number; index: number; value: number }[] = [];
    const score = (b: number, hh: number, t: number, s: number) =>
      scale *
      dot(
        qk,
        (c) => read(0, at(b, t, hh, qk) + c),
        (c) => read(1, at(b, s, hh, qk) + c),
      );
    const row = (slot: number, index: number, values: ArrayLike<number>) => {
      for (let c = 0; c < values.length; c++)
        samples.push({ slot, index: index + c, value: values[c] as number });
    };
    // P and dS of the pair (t, s) in the derivative.
    const pair = (b: number, hh: number, t: number, s: number) => {
      const p = Math.exp(score(b, hh, t, s) - read(4, lseAt(b, hh, t)));
      const upstream = (c: number) => read(5, at(b, t, hh, v) + c);
      const delta = dot(v, (c) => read(3, at(b, t, hh, v) + c), upstream);
      const dp = dot(v, upstream, (c) => read(2, at(b, s, hh, v) + c));
      return { p, ds: p * (dp - delta) * scale };
    };
    some(time, 6).forEach((t, i) => {
      const [b, hh] = [i % batch, (i * 5) % h];
      if (!grad) {
        const s = Float64Array.from({ length: t + 1 }, (_, j) => score(b, hh, t, j));
        const top = s.reduce((x, y) => Math.max(x, y), -Infinity);
        const e = s.map((x) => Math.exp(x - top));
        const sum = e.reduce((x, y) => x + y, 0);
        row(
          3,
          at(b, t, hh, v),
          Float64Array.from(
            { length: v },
            (_, c) =>
              dot(
                t + 1,
                (j) => e[j] as number,
                (j) => read(2, at(b, j, hh, v) + c),
              ) / sum,
          ),
        );
        samples.push({ slot: 4, index: lseAt(b, hh, t), value: top + Math.log(sum) });
        return;
      }
      const dq = new Float64Array(qk);
      for (let s = 0; s <= t; s++) {
        const { ds } = pair(b, hh, t, s);
        for (let c = 0; c < qk; c++) dq[c] = (dq[c] as number) + ds * read(1, at(b, s, hh, qk) + c);
      }
      row(6, at(b, t, hh, qk), dq);
      const dk = new Float64Array(qk);
      const dv = new Float64Array(v);
      for (let later = t; later < time; later++) {
        const { p, ds } = pair(b, hh, later, t);
        for (let c = 0; c < qk; c++)
          dk[c] = (dk[c] as number) + ds * read(0, at(b, later, hh, qk) + c);
        for (let c = 0; c < v; c++)
          dv[c] = (dv[c] as number) + p * read(5, at(b, later, hh, v) + c);
      }
      row(7, at(b, t, hh, qk), dk);
      row(8, at(b, t, hh, v), dv);
    });
    return samples;
  };
  return single({
    name: `attention${grad ? " gradient" : ""} ${qk}/${v}, ${batch} x ${time}, ${h} heads`,
    kernel: grad
      ? {
          ...shape,
          kind: "attentionGrad",
          dout: heads(5, time, h, v),
          dq: heads(6, time, h, qk),
          dk: heads(7, time, h, qk),
          dv: heads(8, time, h, v),
        }
      : { ...shape, kind: "attention" },
    slots: [wide, wide, narrow, narrow, lse, ...(grad ? [narrow, wide, wide, narrow] : [])],
    writes: grad ? [6, 7, 8] : [3, 4],
    flops: 2 * pairs * (grad ? 3 * qk + 2 * v : qk + v),
    bytes: rows * (qk + v) * 2 * (grad ? 4 : 2),
    rate: RATE.bf16,
    expected,
  });
}

/** One query of every head over a paged latent cache. */
function latent(batch: number, keys: number, h: number, qk: number, v: number): Case {
  const pageSize = 64;
  const pages = Math.ceil(keys / pageSize);
  const scale = qk ** -0.5;
  const cache: HeadsView = {
    slot: 1,
    dtype: "bf16",
    offset: 0,
    strides: [pageSize * qk, qk, qk, 1],
  };
  // Every sequence's pages, spread over the pool.
  const table = Int32Array.from({ length: batch * pages }, (_, i) => (i * 7919) % (batch * pages));
  const expected = (read: Read) =>
    some(batch, 3).flatMap((b, i) => {
      const head = (i * 7) % h;
      const key = (s: number) =>
        ((table[b * pages + Math.floor(s / pageSize)] as number) * pageSize + (s % pageSize)) * qk;
      const q = (b * h + head) * qk;
      const s = Float64Array.from(
        { length: keys },
        (_, j) =>
          scale *
          dot(
            qk,
            (c) => read(0, q + c),
            (c) => read(1, key(j) + c),
          ),
      );
      const top = s.reduce((x, y) => Math.max(x, y), -Infinity);
      const e = s.map((x) => Math.exp(x - top));
      const sum = e.reduce((x, y) => x + y, 0);
      const out = Array.from({ length: v }, (_, c) => ({
        slot: 4,
        index: (b * h + head) * v + c,
        value:
          dot(
            keys,
            (j) => e[j] as number,
            (j) => read(1, key(j) + c),
          ) / sum,
      }));
      return [...out, { slot: 5, index: b * h + head, value: top + Math.log(sum) }];
    });
  return single({
    name: `latent decode ${qk}/${v}, ${batch} x ${keys}, ${h} heads`,
    kernel: {
      kind: "attention",
      batch,
      queries: 1,
      keys,
      heads: h,
      keyHeads: 1,
      qkWidth: qk,
      vWidth: v,
      scale,
      causal: true,
      q: heads(0, 1, h, qk),
      k: cache,
      v: cache,
      out: heads(4, 1, h, v),
      lse: 5,
      lengths: 2,
      pages: { slot: 3, pageSize },
    },
    slots: [
      { dtype: "bf16", elements: batch * h * qk },
      { dtype: "bf16", elements: batch * pages * pageSize * qk },
      { dtype: "i32", elements: batch, data: new Int32Array(batch).fill(keys) },
      { dtype: "i32", elements: table.length, data: table },
      { dtype: "bf16", elements: batch * h * v },
      { dtype: "f32", elements: batch * h },
    ],
    writes: [4, 5],
    flops: 2 * batch * h * keys * (qk + v),
    bytes: batch * keys * qk * 2,
    rate: RATE.bf16,
    expected,
  });
}

/** Ends of runs that differ but for the mean. */
export function unevenRuns(groups: number, each: number): number[] {
  return Array.from({ length: groups + 1 }, (_, g) =>
    Math.floor(each * groups * (g / groups) ** 1.2),
  );
}

type Way = "x·w" | "x·wᵀ" | "xᵀ·y";

/**
 * Products of `groups` runs of `each` rows, or of rows that differ but for the mean; out f32 or bf16.
 * With `tokens`, rows of a are looked up among so many.
 */
function grouped(
  way: Way,
  groups: number,
  each: number,
  k: number,
  n: number,
  { f8 = false, uneven = false, tokens = 0, out: outType = "bf16" as "bf16" | "f32" } = {},
): Case {
  const rows = groups * each;
  const ends = uneven
    ? unevenRuns(groups, each)
    : Array.from({ length: groups + 1 }, (_, g) => each * g);
  const runOf = (row: number) => ends.findIndex((end) => end > row) - 1;
  const dtype = f8 ? "f8e4m3" : "bf16";
  const view = (slot: number, row: number, over: Partial<MatrixView> = {}): MatrixView => ({
    slot,
    dtype,
    offset: 0,
    batch: [],
    row,
    col: 1,
    ...over,
  });
  const form = way === "xᵀ·y" ? "groups" : "rows";
  const kBlocks = Math.ceil(k / 128);
  const nBlocks = Math.ceil(n / 128);
  const scaleA = { slot: 4, block: [1, 128] as const, batch: [], row: kBlocks, col: 1 };
  const scaleB = {
    slot: 5,
    block: [128, 128] as const,
    batch: [kBlocks * nBlocks],
    row: 1,
    col: kBlocks,
  };
  const weights = way === "x·wᵀ" ? { row: 1, col: k, batch: [k * n] } : { batch: [k * n] };
  const outElements = form === "rows" ? rows * n : groups * k * n;
  const bElements = form === "rows" ? groups * k * n : rows * n;
  const aRowCount = tokens || rows;
  const token = (r: number) => (tokens ? (r * 7919) % tokens : r);
  const expected = (read: Read) => {
    const columns = some(n, 64);
    const element = (r: number, c: number) =>
      read(0, token(r) * k + c) * (f8 ? read(4, r * kBlocks + (c >> 7)) : 1);
    const weight = (g: number, i: number, c: number) =>
      read(1, g * k * n + (way === "x·w" ? i * n + c : c * k + i)) *
      (f8 ? read(5, (g * nBlocks + (c >> 7)) * kBlocks + (i >> 7)) : 1);
    if (form === "rows")
      return some(rows, 16).flatMap((r) =>
        columns.map((c) => ({
          slot: 3,
          index: r * n + c,
          value: dot(
            k,
            (i) => element(r, i),
            (i) => weight(runOf(r), i, c),
          ),
        })),
      );
    return some(groups * k, 32).flatMap((m) => {
      const [g, i] = [Math.floor(m / k), m % k];
      return columns.map((c) => ({
        slot: 3,
        index: m * n + c,
        value: dot(
          ends[g + 1]! - ends[g]!,
          (r) => element(ends[g]! + r, i),
          (r) => read(1, (ends[g]! + r) * n + c),
        ),
      }));
    });
  };
  return single({
    name: `grouped ${way} ${dtype}${outType === "f32" ? " to f32" : ""}, ${groups} x ${uneven ? "about " : ""}${each} rows${tokens ? ` of ${tokens}` : ""}, ${k} x ${n}`,
    kernel: {
      kind: "groupedMatmul",
      form,
      groups,
      rows,
      k,
      n,
      offsets: 2,
      a: view(0, k, f8 ? { scale: scaleA } : {}),
      b: view(1, n, form === "rows" ? { ...weights, ...(f8 ? { scale: scaleB } : {}) } : {}),
      out: { ...view(3, n, form === "rows" ? {} : { batch: [k * n] }), dtype: outType },
      ...(tokens && { aRows: { slot: 4, extent: tokens } }),
    },
    slots: [
      { dtype, elements: aRowCount * k },
      { dtype, elements: bElements },
      {
        dtype: "i32",
        elements: groups + 1,
        data: Int32Array.from(ends),
      },
      { dtype: outType, elements: outElements },
      ...(f8
        ? [
            { dtype: "f32" as const, elements: rows * kBlocks },
            { dtype: "f32" as const, elements: groups * kBlocks * nBlocks },
          ]
        : []),
      ...(tokens
        ? [
            {
              dtype: "i32" as const,
              elements: rows,
              data: Int32Array.from({ length: rows }, (_, r) => token(r)),
            },
          ]
        : []),
    ],
    writes: [3],
    flops: 2 * rows * k * n,
    bytes: (aRowCount * k + bElements) * dtypeBytes(dtype) + totalBytes(outType, outElements),
    rate: RATE[dtype],
    expected,
  });
}

/** A few rows times a linear layer's weights [n, k]. */
function vector(m: number, n: number, k: number): Case {
  return single({
    name: `${m} rows x bf16 weights, ${n} x ${k}`,
    kernel: {
      kind: "matmul",
      batch: [],
      m,
      n,
      k,
      a: { slot: 0, dtype: "bf16", offset: 0, batch: [], row: k, col: 1 },
      b: { slot: 1, dtype: "bf16", offset: 0, batch: [], row: 1, col: k },
      out: { slot: 2, dtype: "bf16", offset: 0, batch: [], row: n, col: 1 },
    },
    slots: [
      { dtype: "bf16", elements: m * k },
      { dtype: "bf16", elements: n * k },
      { dtype: "bf16", elements: m * n },
    ],
    writes: [2],
    flops: 2 * m * n * k,
    bytes: 2 * (m * k + n * k + m * n),
    rate: RATE.bf16,
    expected: (read) =>
      some(m * n, 64).map((index) => ({
        slot: 2,
        index,
        value: dot(
          k,
          (i) => read(0, Math.floor(index / n) * k + i),
          (i) => read(1, (index % n) * k + i),
        ),
      })),
  });
}

export const MATRIX_CASES: readonly (() => Case)[] = [
  () => attention(4, 4096, 16, 192, 128, false),
  () => attention(8, 2048, 16, 96, 64, false),
  () => attention(4, 4096, 16, 192, 128, true),
  () => attention(8, 2048, 16, 96, 64, true),
  () => latent(64, 4096, 16, 576, 512),
  () => latent(64, 4096, 64, 576, 512),
  () => latent(64, 4096, 128, 576, 512),
  () => latent(32, 4096, 128, 576, 512),
  () => latent(1, 4096, 128, 576, 512),
  () => grouped("x·w", 64, 512, 7168, 2048),
  () => grouped("x·wᵀ", 64, 512, 2048, 7168),
  () => grouped("x·wᵀ", 64, 512, 1024, 2048),
  () => grouped("x·wᵀ", 64, 1536, 1024, 384),
  () => grouped("x·wᵀ", 64, 1536, 384, 1024),
  () => grouped("x·wᵀ", 64, 1536, 1024, 384, { uneven: true }),
  () => grouped("x·w", 64, 1536, 384, 1024, { uneven: true }),
  () => grouped("x·wᵀ", 64, 1536, 1024, 768),
  () => grouped("x·wᵀ", 64, 1536, 1024, 768, { uneven: true, tokens: 16_384 }),
  () => grouped("x·w", 64, 1536, 1024, 384, { uneven: true, tokens: 16_384 }),
  () => grouped("xᵀ·y", 64, 1536, 1024, 768, { uneven: true }),
  () => grouped("xᵀ·y", 64, 1536, 1024, 768, { uneven: true, tokens: 16_384 }),
  () => grouped("x·wᵀ", 64, 3, 1024, 384),
  () => grouped("xᵀ·y", 32, 512, 7168, 2048),
  () => grouped("xᵀ·y", 32, 512, 7168, 2048, { out: "f32" }),
  () => grouped("x·wᵀ", 128, 8, 7168, 2048),
  () => grouped("x·wᵀ", 64, 512, 7168, 2048, { f8: true }),
  () => grouped("x·wᵀ", 256, 8, 7168, 2048, { f8: true }),
  () => vector(1, 18_432, 7168),
  () => vector(8, 18_432, 7168),
  () => vector(32, 18_432, 7168),
  () => vector(32, 1024, 1024),
  () => vector(64, 384, 1024),
  () => vector(1, 7168, 18_432),
];
