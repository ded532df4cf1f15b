import type { AttentionGradKernel, DType, HeadsView } from "@dsv3/tensor";
import fc from "fast-check";
import { describe, it } from "vitest";
import { attentionGrad } from "./attention-grad.ts";
import { checkKernel, randomValues, type TestSlot } from "./check-kernel.ts";

interface Case {
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
  dtype?: DType;
}

function check(c: Case): void {
  const {
    batch = 1,
    queries,
    keys,
    heads,
    keyHeads,
    qkWidth,
    vWidth,
    causal = false,
    dtype = "f32",
  } = c;
  const slots: TestSlot[] = [];
  const view = (
    time: number,
    count: number,
    width: number,
    kind: DType,
    pad: number,
  ): HeadsView => {
    const row = count * (width + pad);
    const size = pad + batch * time * row;
    const values = randomValues(size, slots.length + 5);
    return {
      slot: slots.push({ dtype: kind, values }) - 1,
      dtype: kind,
      offset: pad,
      strides: [time * row, row, width + pad, 1],
    };
  };
  const gradient = (time: number, count: number, width: number): HeadsView => {
    const values = new Float32Array(batch * time * count * width);
    const slot = slots.push({ dtype: "f32", values, tolerance: 1e-4 }) - 1;
    return {
      slot,
      dtype: "f32",
      offset: 0,
      strides: [time * count * width, count * width, width, 1],
    };
  };
  const q = view(queries, heads, qkWidth, dtype, 1);
  const k = view(keys, keyHeads, qkWidth, dtype, 0);
  const v = view(keys, keyHeads, vWidth, dtype, 2);
  const out = view(queries, heads, vWidth, "f32", 0);
  const dout = view(queries, heads, vWidth, dtype, 0);
  // Any log-sum-exps will do, if large enough that weights stay below 1.
  const lse =
    slots.push({
      dtype: "f32",
      values: randomValues(batch * heads * queries, 3).map((x) => x + qkWidth / 2 + 2),
    }) - 1;
  const dq = gradient(queries, heads, qkWidth);
  const dk = gradient(keys, keyHeads, qkWidth);
  const dv = gradient(keys, keyHeads, vWidth);
  const extra = (values: readonly number[] | undefined) =>
    values && slots.push({ dtype: "i32", values }) - 1;
  const lengths = extra(c.lengths);
  const segments = extra(c.segments);
  const kernel: AttentionGradKernel = {
    kind: "attentionGrad",
    batch,
    queries,
    keys,
    heads,
    keyHeads,
    qkWidth,
    vWidth,
    scale: 0.7,
    causal,
    q,
    k,
    v,
    out,
    dout,
    lse,
    dq,
    dk,
    dv,
    ...(lengths !== undefined && { lengths }),
    ...(segments !== undefined && { segments }),
  };
  checkKernel(kernel, attentionGrad, slots);
}

describe("attentionGrad", () => {
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
      { numRuns: 30 },
    );
  });

  it("goes through many blocks", () => {
    check({
      queries: 130,
      keys: 130,
      heads: 2,
      keyHeads: 2,
      qkWidth: 24,
      vWidth: 16,
      causal: true,
    });
    check({ queries: 50, keys: 150, heads: 2, keyHeads: 1, qkWidth: 17, vWidth: 18 });
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
    const segments = Array.from({ length: 2 * 60 }, (_, i) => Math.floor((i * 3) / 60));
    check({
      batch: 2,
      queries: 60,
      keys: 60,
      heads: 2,
      keyHeads: 2,
      qkWidth: 8,
      vWidth: 8,
      causal: true,
      segments,
    });
  });

  it("gives 0 for queries that see nothing, and for their keys", () => {
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

  it("reads bf16", () => {
    check({
      queries: 17,
      keys: 33,
      heads: 2,
      keyHeads: 2,
      qkWidth: 16,
      vWidth: 8,
      causal: true,
      dtype: "bf16",
    });
  });
});
