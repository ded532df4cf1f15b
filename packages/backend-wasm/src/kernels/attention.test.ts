import type { AttentionKernel, DType, HeadsView } from "@dsv3/tensor";
import fc from "fast-check";
import { describe, it } from "vitest";
import { attention } from "./attention.ts";
import { checkKernel, randomValues, type TestSlot } from "./check-kernel.ts";

export interface Case {
  batch?: number;
  queries: number;
  keys: number;
  heads: number;
  keyHeads: number;
  qkWidth: number;
  vWidth: number;
  causal?: boolean;
  lengths?: number[];
  segments?: number[];
  pageSize?: number;
  dtype?: DType;
}

function heads(
  slot: number,
  batch: number,
  time: number,
  count: number,
  width: number,
  dtype: DType,
  pad = 0,
): [HeadsView, TestSlot] {
  const row = count * (width + pad);
  return [
    { slot, dtype, offset: pad, strides: [time * row, row, width + pad, 1] },
    { dtype, values: randomValues(pad + batch * time * row, slot + 7) },
  ];
}

function check(c: Case): void {
  const {
    batch = 1,
    queries,
    keys,
    heads: h,
    keyHeads,
    qkWidth,
    vWidth,
    causal = false,
    dtype = "f32",
  } = c;
  const pages = c.pageSize ? batch * Math.ceil(keys / c.pageSize) : 0;
  const [q, qs] = heads(0, batch, queries, h, qkWidth, dtype, 1);
  const [k, ks] = c.pageSize
    ? heads(1, pages, c.pageSize, keyHeads, qkWidth, dtype)
    : heads(1, batch, keys, keyHeads, qkWidth, dtype, 2);
  const [v, vs] = c.pageSize
    ? heads(2, pages, c.pageSize, keyHeads, vWidth, dtype)
    : heads(2, batch, keys, keyHeads, vWidth, dtype);
  const [out] = heads(3, batch, queries, h, vWidth, "f32");
  const slots: TestSlot[] = [
    qs,
    ks,
    vs,
    { dtype: "f32", values: new Float32Array(batch * queries * h * vWidth), tolerance: 2e-5 },
    { dtype: "f32", values: new Float32Array(batch * h * queries), tolerance: 2e-5 },
  ];
  const extra = (values: readonly number[] | undefined) =>
    values && slots.push({ dtype: "i32", values }) - 1;
  const lengths = extra(c.lengths);
  const segments = extra(c.segments);
  const table = extra(
    c.pageSize ? Array.from({ length: pages }, (_, i) => (i * 7 + 3) % pages) : undefined,
  );
  const kernel: AttentionKernel = {
    kind: "attention",
    batch,
    queries,
    keys,
    heads: h,
    keyHeads,
    qkWidth,
    vWidth,
    scale: 1.3,
    causal,
    q,
    k,
    v,
    out,
    lse: 4,
    ...(lengths !== undefined && { lengths }),
    ...(segments !== undefined && { segments }),
    ...(table !== undefined && c.pageSize && { pages: { slot: table, pageSize: c.pageSize } }),
  };
  checkKernel(kernel, attention, slots);
}

describe("attention", () => {
  it("agrees with float64 for any shape and mask", () => {
    const shape = fc.record({
      batch: fc.integer({ min: 0, max: 2 }),
      queries: fc.integer({ min: 0, max: 20 }),
      keys: fc.integer({ min: 0, max: 60 }),
      keyHeads: fc.integer({ min: 1, max: 2 }),
      group: fc.integer({ min: 1, max: 3 }),
      qkWidth: fc.integer({ min: 1, max: 20 }),
      vWidth: fc.integer({ min: 1, max: 20 }),
      causal: fc.boolean(),
    });
    fc.assert(
      fc.property(shape, fc.boolean(), (s, ragged) =>
        check({
          ...s,
          heads: s.keyHeads * s.group,
          ...(ragged && {
            lengths: Array.from({ length: s.batch }, (_, b) => (s.keys * (b + 1)) >> 1),
          }),
        }),
      ),
      { numRuns: 40 },
    );
  });

  it("goes through many blocks and panels", () => {
    check({
      queries: 130,
      keys: 130,
      heads: 2,
      keyHeads: 2,
      qkWidth: 24,
      vWidth: 16,
      causal: true,
    });
    check({ queries: 40, keys: 150, heads: 2, keyHeads: 1, qkWidth: 16, vWidth: 18, causal: true });
  });

  it("reads no segment beyond the last key, where memory may end", () => {
    for (let keys = 16; keys <= 96; keys += 16) {
      const [heads, width] = [1, 4];
      const segments = Array.from({ length: keys }, (_, i) => Math.floor((2 * i) / keys));
      check({
        ...{ batch: 1, queries: keys, keys, heads, keyHeads: heads },
        ...{ qkWidth: width, vWidth: width, causal: true, segments },
      });
    }
  });

  it("keeps to segments", () => {
    const segments = Array.from(
      { length: 2 * 50 },
      (_, i) => Math.floor((i * 3) / 50) - (i === 70 ? 9 : 0),
    );
    check({
      batch: 2,
      queries: 50,
      keys: 50,
      heads: 2,
      keyHeads: 2,
      qkWidth: 8,
      vWidth: 8,
      causal: true,
      segments,
    });
    check({
      batch: 2,
      queries: 50,
      keys: 50,
      heads: 2,
      keyHeads: 2,
      qkWidth: 8,
      vWidth: 8,
      segments,
    });
  });

  it("gives 0 and −∞ to queries that see nothing", () => {
    check({
      batch: 2,
      queries: 9,
      keys: 12,
      heads: 1,
      keyHeads: 1,
      qkWidth: 4,
      vWidth: 4,
      causal: true,
      lengths: [0, 5],
    });
  });

  it("decodes all heads over one latent cache, in pages of any size", () => {
    for (const pageSize of [1, 7, 16, 64]) {
      check({
        batch: 2,
        queries: 1,
        keys: 100,
        heads: 16,
        keyHeads: 1,
        qkWidth: 36,
        vWidth: 32,
        causal: true,
        lengths: [61, 100],
        pageSize,
      });
    }
    check({ queries: 3, keys: 100, heads: 16, keyHeads: 1, qkWidth: 36, vWidth: 32, causal: true });
  });

  it.each(["bf16", "f16"] as const)("reads %s", (dtype) => {
    check({
      queries: 17,
      keys: 33,
      heads: 2,
      keyHeads: 2,
      qkWidth: 16,
      vWidth: 8,
      causal: true,
      dtype,
    });
  });
});
