import type { AttentionKernel, DType, HeadsView } from "@dsv3/tensor";
import { fromF32, toF32 } from "@dsv3/tensor/dtype";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { attention } from "./attention.ts";
import { checkKernel, randomValues, type TestSlot } from "./check-kernel.ts";
import { loadKernel } from "./run-kernel.ts";

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
  /** Values are the first columns of keys, and memory ends where these do. */
  latent?: boolean;
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
  const { kernel, slots } = build(c);
  checkKernel(kernel, attention, slots);
}

function build(c: Case): { kernel: AttentionKernel; slots: TestSlot[] } {
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
  const latent = { ...k, slot: slots.length };
  if (c.latent) slots.push(ks);
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
    ...(c.latent ? { k: latent, v: latent } : { k, v }),
    out,
    lse: 4,
    ...(lengths !== undefined && { lengths }),
    ...(segments !== undefined && { segments }),
    ...(table !== undefined && c.pageSize && { pages: { slot: table, pageSize: c.pageSize } }),
  };
  return { kernel, slots };
}

/** Output and log-sum-exp of the last query of the first sequence, which is always the same, by heads. */
function lastQuery(c: Case): Float32Array[] {
  const { kernel, slots } = build(c);
  const { offset, strides } = kernel.q;
  const query = randomValues(strides[1] - 1, 99);
  const { values } = slots[0] as TestSlot;
  (values as Float32Array).set(query, offset + (c.queries - 1) * strides[1]);
  const code = attention(kernel, { relaxedSimd: true });
  const loaded = loadKernel(
    code,
    slots.map(({ dtype, values }) => fromF32(values, dtype)),
  );
  loaded.run();
  const [out, lse] = [3, 4].map((slot) => toF32(loaded.slot(slot), "f32")) as Float32Array[];
  const row = c.heads * c.vWidth;
  return [
    (out as Float32Array).slice((c.queries - 1) * row, c.queries * row),
    Float32Array.from(
      { length: c.heads },
      (_, h) => lse?.[h * c.queries + c.queries - 1] as number,
    ),
  ];
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

  describe("in parts", () => {
    const LATENT = { keyHeads: 1, qkWidth: 20, vWidth: 14, causal: true, latent: true };

    it("reads caches of any length, in pages and not, as far as they go", () => {
      const lengths = [0, 1, 47, 48, 49, 239, 240, 241, 255, 256, 257, 300, 512, 600];
      for (const pageSize of [undefined, 64]) {
        const batch = lengths.length;
        check({ ...LATENT, batch, queries: 1, keys: 640, heads: 8, lengths, pageSize });
      }
      check({ ...LATENT, queries: 1, keys: 599, heads: 8 });
    });

    it.each([2, 3, 5, 7])("checks %i tokens at once", (queries) => {
      for (const heads of [1, 3, 6, 16]) {
        const lengths = [queries - 1, 258, 320];
        check({ ...LATENT, batch: 3, queries, keys: 320, heads, lengths, pageSize: 32 });
      }
    });

    it.each(["f32", "bf16", "f16"] as const)("takes any widths of %s", (dtype) => {
      for (const [qkWidth, vWidth] of [
        [1, 1],
        [3, 2],
        [37, 35],
        [256, 250],
      ] as const) {
        const sizes = { queries: 1, keys: 300, heads: 5, qkWidth, vWidth, dtype };
        check({ ...LATENT, ...sizes });
        check({ ...LATENT, ...sizes, latent: false, lengths: [299] });
        // Keys beside those of another head, in rows that are or are not a multiple of 1 KiB apart.
        check({ ...LATENT, ...sizes, heads: 6, keyHeads: 2 });
      }
    });

    it("takes queries of several heads of keys, that lie in no one distance", () => {
      for (const queries of [2, 5, 12]) {
        check({ ...LATENT, queries, keys: 300, heads: 12, keyHeads: 2 });
      }
    });

    it("reads nothing that no query sees", () => {
      const c: Case = { ...LATENT, queries: 2, keys: 640, heads: 8, lengths: [290], pageSize: 64 };
      const { kernel, slots } = build(c);
      const table = slots[kernel.pages?.slot as number]?.values as number[];
      const pages = slots[kernel.k.slot]?.values as Float32Array;
      const beyond = (table[4] as number) * 64 + (290 % 64);
      pages.fill(Number.NaN, beyond * c.qkWidth, ((table[4] as number) + 1) * 64 * c.qkWidth);
      table.fill(2 ** 30, 5);
      checkKernel(kernel, attention, slots);
    });

    it("lets what is not a number through to the queries that see it", () => {
      const { kernel, slots } = build({ ...LATENT, batch: 2, queries: 1, keys: 300, heads: 8 });
      (slots[kernel.k.slot]?.values as Float32Array)[271 * LATENT.qkWidth + 4] = Number.NaN;
      checkKernel(kernel, attention, slots);
    });

    it("gives a query the same bits alone, among others, and where parts are no tasks", () => {
      for (const pageSize of [undefined, 64]) {
        const c: Case = { ...LATENT, queries: 1, keys: 640, heads: 6, lengths: [601], pageSize };
        const alone = lastQuery(c);
        for (const queries of [2, 7, 60]) {
          expect(lastQuery({ ...c, queries })).toEqual(alone);
        }
        const batch = 64;
        const lengths = Array.from({ length: batch }, (_, b) => 601 - b);
        const many = { ...c, batch, lengths };
        expect(attention(build(many).kernel, { relaxedSimd: true }).phases).toHaveLength(1);
        expect(attention(build(c).kernel, { relaxedSimd: true }).phases).toHaveLength(2);
        if (pageSize === undefined) expect(lastQuery(many)).toEqual(alone);
      }
    });
  });
});
