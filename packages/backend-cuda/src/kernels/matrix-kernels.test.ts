/** Attention and grouped products without a GPU: which kernel takes what, and that launches fit. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type {
  AttentionGradKernel,
  AttentionKernel,
  GroupedMatmulKernel,
  HeadsView,
  MatrixView,
} from "../contract.ts";
import { dtypeBytes } from "../contract.ts";
import { H100, type Launch, type Lowered } from "../kernel.ts";
import { hopperGroupedMatmul, tileWidth } from "./grouped-matmul.ts";
import { plainGroupedMatmul } from "./grouped-plain.ts";
import { roundUp, tile } from "./hopper.ts";
import { lower } from "./index.ts";
import { splitCount } from "./mla-parts.ts";

type Float = "bf16" | "f32";

function heads(slot: number, dtype: Float, t: number, h: number, w: number): HeadsView {
  return { slot, dtype, offset: 0, strides: [t * h * w, h * w, w, 1] };
}

interface Size {
  batch: number;
  queries: number;
  keys: number;
  heads: number;
  keyHeads: number;
  qkWidth: number;
  vWidth: number;
}

const TYPICAL: Size = {
  batch: 2,
  queries: 300,
  keys: 300,
  heads: 4,
  keyHeads: 4,
  qkWidth: 192,
  vWidth: 128,
};

function attention(size: Partial<Size> = {}, dtype: Float = "bf16"): AttentionKernel {
  const s = { ...TYPICAL, ...size };
  return {
    kind: "attention",
    ...s,
    scale: 0.1,
    causal: true,
    q: heads(0, dtype, s.queries, s.heads, s.qkWidth),
    k: heads(1, dtype, s.keys, s.keyHeads, s.qkWidth),
    v: heads(2, dtype, s.keys, s.keyHeads, s.vWidth),
    out: heads(3, dtype, s.queries, s.heads, s.vWidth),
    lse: 4,
  };
}

function attentionGrad(size: Partial<Size> = {}, dtype: Float = "bf16"): AttentionGradKernel {
  const forward = attention(size, dtype);
  const s = { ...TYPICAL, ...size };
  return {
    ...forward,
    kind: "attentionGrad",
    dout: heads(5, dtype, s.queries, s.heads, s.vWidth),
    dq: heads(6, dtype, s.queries, s.heads, s.qkWidth),
    dk: heads(7, dtype, s.keys, s.keyHeads, s.qkWidth),
    dv: heads(8, dtype, s.keys, s.keyHeads, s.vWidth),
  };
}

/** Latent cache of pages [pages, pageSize, 1, width]. */
function latent(size: Partial<Size> = {}, pageSize = 64): AttentionKernel {
  const k = attention({ queries: 1, keys: 4096, heads: 16, qkWidth: 576, vWidth: 512, ...size });
  const view: HeadsView = {
    slot: 1,
    dtype: "bf16",
    offset: 0,
    strides: [pageSize * k.qkWidth, k.qkWidth, k.qkWidth, 1],
  };
  return { ...k, keyHeads: 1, k: view, v: view, lengths: 5, pages: { slot: 6, pageSize } };
}

function entries(lowered: Lowered): string[] {
  return lowered.launches.map((launch) => ("entry" in launch ? launch.entry : "gemm"));
}

function expectSane(lowered: Lowered): void {
  for (const action of lowered.launches) {
    const launch = action as Launch;
    expect(launch.shared ?? 0).toBeLessThanOrEqual(H100.sharedPerBlock);
    expect(launch.block.reduce<number>((a, b) => a * (b ?? 1), 1)).toBeLessThanOrEqual(1024);
    for (const n of launch.grid) expect(n).toBeGreaterThan(0);
    for (const n of launch.grid.slice(1)) expect(n).toBeLessThan(65_536);
    expect(lowered.source).toContain(`${launch.entry}(`);
    for (const arg of launch.args) {
      if ("workspace" in arg) expect(arg.workspace).toBeLessThanOrEqual(lowered.workspace ?? 0);
      if ("workspace" in arg) expect(arg.workspace % 16).toBe(0);
      if (!("tensorMap" in arg)) continue;
      const { dims, strides, box, swizzle, dtype } = arg.tensorMap;
      expect(strides).toHaveLength(dims.length - 1);
      expect(box).toHaveLength(dims.length);
      for (const stride of strides) expect(stride % 16).toBe(0);
      for (const side of box) expect(side).toBeLessThanOrEqual(256);
      const line = (box[0] as number) * dtypeBytes(dtype);
      if (swizzle > 0) expect(line).toBe(swizzle);
      else expect(line % 16).toBe(0);
    }
  }
  expect(lowered.source).not.toMatch(/undefined|NaN,|\[object/);
}

describe("attention", () => {
  test("bf16 goes to the tensor cores, everything else to the plain kernels", () => {
    expect(entries(lower(attention(), H100))).toEqual(["attention"]);
    expect(entries(lower(attention({}, "f32"), H100))).toEqual(["attention_plain"]);
    expect(entries(lower(attention({ qkWidth: 20 }), H100))).toEqual(["attention_plain"]);
    expect(entries(lower(attention({ qkWidth: 576, vWidth: 512 }), H100))).toEqual([
      "attention_plain",
    ]);
    const k = attention();
    expect(entries(lower({ ...k, q: { ...k.q, offset: 4 } }, H100))).toEqual(["attention_plain"]);
    expect(entries(lower(k, { ...H100, computeCapability: 80 }))).toEqual(["attention_plain"]);
  });

  test("the derivative likewise, in two passes after the row statistics", () => {
    const passes = ["attention_grad_statistics", "attention_grad_q", "attention_grad_kv"];
    for (const dtype of ["bf16", "f32"] as const) {
      const lowered = lower(attentionGrad({}, dtype), H100);
      expect(entries(lowered)).toEqual(passes);
      expect(lowered.source.includes("wgmma")).toBe(dtype === "bf16");
      expectSane(lowered);
    }
    const wide = lower(attentionGrad({ qkWidth: 256, vWidth: 128 }), H100);
    expect(wide.source).not.toContain("wgmma");
  });

  test("values inside the keys of one key head go to the latent kernel", () => {
    expect(entries(lower(latent({ batch: 64 }), H100))).toEqual(["mla_decode", "mla_combine"]);
    expect(entries(lower(latent({ batch: 128 }), H100))).toEqual(["mla_decode"]);
    const apart = latent();
    const lowered = lower({ ...apart, v: { ...apart.v, slot: 2 } }, H100);
    expect(entries(lowered)).toEqual(["attention_plain"]);
  });

  test("queries and keys in two parts are copied part by part, into panels that end with the first", () => {
    const inParts = <K extends AttentionKernel>(k: K, from: number): K => {
      const { queries, keys, heads: h, qkWidth } = k;
      const tail = (slot: number, time: number, head: number) =>
        ({ slot, from, dtype: k.q.dtype, offset: 8, strides: [time * head, head, 0, 1] }) as const;
      return {
        ...k,
        q: { ...heads(0, "bf16", queries, h, from), tail: tail(10, queries, qkWidth - from) },
        k: { ...heads(1, "bf16", keys, h, from), tail: tail(11, keys, qkWidth - from) },
      };
    };
    for (const [qkWidth, vWidth, from, panel] of [
      [192, 128, 128, 64],
      [96, 64, 64, 32],
      [128, 64, 96, 32],
      [48, 32, 16, 16],
    ] as const) {
      for (const kernel of [attention({ qkWidth, vWidth }), attentionGrad({ qkWidth, vWidth })]) {
        const lowered = lower(inParts(kernel as AttentionKernel, from), H100);
        expectSane(lowered);
        expect(lowered.source).toContain("wgmma");
        expect(lowered.source).toContain(`QK_PANEL = ${panel};`);
        // Of each tile of q and k: the first columns into the first panels, the tail behind them.
        const copies = [...lowered.source.matchAll(/copy_tile<(\w+), (\d+), \2, QK_PANEL/g)];
        const tails = lowered.source.match(new RegExp(`, QK - ${from}, QK_PANEL, 128>`, "g"));
        expect(copies).toHaveLength(kernel.kind === "attention" ? 2 : 4);
        expect(tails).toHaveLength(copies.length);
        for (const [, rows] of copies)
          expect(lowered.source).toContain(` + ${rows} * ${2 * from}, thread, q,`);
        for (const launch of lowered.launches as Launch[]) {
          if (launch.entry === "attention_grad_statistics") continue;
          expect(launch.args.slice(-2)).toEqual([
            { slot: 10, offset: 16 },
            { slot: 11, offset: 16 },
          ]);
        }
      }
    }
    // Latent queries too; but the latent kernel reads keys and values from one place.
    const decode = latent({ batch: 64 });
    const { q, k } = inParts(decode, 512);
    expect(entries(lower({ ...decode, q }, H100))).toEqual(["mla_decode", "mla_combine"]);
    expect(entries(lower({ ...decode, k }, H100))).toEqual(["attention_plain"]);
  });

  test("pages that a tile would cross are not copied as boxes", () => {
    const boxed = (pageSize: number) =>
      lower(latent({}, pageSize), H100).launches.some(
        (launch) => "args" in launch && launch.args.some((arg) => "tensorMap" in arg),
      );
    expect([16, 64, 96, 128].map(boxed)).toEqual([false, true, false, true]);
  });

  test("launches fit the device for any shape", () => {
    const sizes = fc.record({
      batch: fc.integer({ min: 1, max: 5 }),
      queries: fc.integer({ min: 1, max: 700 }),
      keys: fc.integer({ min: 1, max: 700 }),
      heads: fc.integer({ min: 1, max: 9 }),
      keyHeads: fc.integer({ min: 1, max: 3 }),
      qkWidth: fc.integer({ min: 1, max: 300 }),
      vWidth: fc.integer({ min: 1, max: 300 }),
    });
    fc.assert(
      fc.property(sizes, fc.constantFrom("bf16" as const, "f32" as const), (size, dtype) => {
        const s = { ...size, keyHeads: Math.min(size.keyHeads, size.heads) };
        expectSane(lower(attention(s, dtype), H100));
        expectSane(lower(attentionGrad(s, dtype), H100));
      }),
      { numRuns: 60 },
    );
    for (const batch of [1, 7, 64, 300]) expectSane(lower(latent({ batch }), H100));
  });

  test("empty shapes launch nothing that has no blocks", () => {
    for (const empty of [{ batch: 0 }, { queries: 0 }, { keys: 0 }]) {
      expectSane(lower(attention(empty), H100));
      expectSane(lower(attentionGrad(empty), H100));
    }
    // Keys without queries still get gradients: zeros.
    expect(entries(lower(attentionGrad({ queries: 0 }), H100))).toEqual(["attention_grad_kv"]);
  });

  test("rows too wide for shared memory are refused with numbers", () => {
    expect(() => lower(attention({ vWidth: 2000 }, "f32"), H100)).toThrow(/2000.*268672.*232448/);
  });

  test("equal shapes share a source, different ones do not", () => {
    expect(lower(attention(), H100).source).toBe(lower(attention(), H100).source);
    expect(lower(attention({ keys: 301 }), H100).source).not.toBe(lower(attention(), H100).source);
  });
});

describe("splits of the keys", () => {
  test("fill the device without empty parts", () => {
    expect(splitCount(64, 64, 132)).toBe(2); // 128 blocks of 132
    expect(splitCount(128, 64, 132)).toBe(1);
    expect(splitCount(1, 1, 132)).toBe(1);
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 500 }),
        fc.integer({ min: 1, max: 400 }),
        (b, tiles) => {
          const splits = splitCount(b, tiles, 132);
          expect(splits).toBeGreaterThanOrEqual(1);
          expect(splits).toBeLessThanOrEqual(tiles);
          // Never slower than not splitting, by the model's own measure.
          const waves = Math.ceil((b * splits) / 132) * Math.ceil(tiles / splits);
          expect(waves).toBeLessThanOrEqual(Math.ceil(b / 132) * tiles);
        },
      ),
    );
  });
});

describe("tiles", () => {
  test("are padded to whole panels", () => {
    expect(tile(64, 576)).toEqual({ rows: 64, width: 576, panel: 64, bytes: 73_728 });
    expect(tile(64, 24).panel).toBe(32);
    expect(tile(64, 48).panel).toBe(16);
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 600 }), (width) => {
        const t = tile(128, width);
        expect(t.width % t.panel).toBe(0);
        expect(t.width).toBe(roundUp(width, 16));
        expect((t.rows * t.panel * 2) % 1024).toBe(0); // panels start where the swizzle does
      }),
    );
  });

  test("of grouped products waste little", () => {
    expect([2048, 7168, 384, 192, 64, 8].map(tileWidth)).toEqual([256, 256, 192, 192, 64, 64]);
  });
});

describe("grouped products", () => {
  const view = (slot: number, over: Partial<MatrixView>): MatrixView => ({
    slot,
    dtype: "bf16",
    offset: 0,
    batch: [],
    row: 1,
    col: 1,
    ...over,
  });
  function product(over: Partial<GroupedMatmulKernel> = {}): GroupedMatmulKernel {
    const base = { groups: 8, rows: 1000, k: 256, n: 512, offsets: 3, ...over };
    return {
      kind: "groupedMatmul",
      form: "rows",
      a: view(0, { row: base.k }),
      b: view(1, { batch: [base.k * base.n], row: base.n }),
      out: view(2, { row: base.n }),
      ...base,
    };
  }
  const weights = (k: number, n: number) => view(1, { batch: [k * n], row: 1, col: k });

  test("bf16 both ways of lying, and the weights' gradient, run on the tensor cores", () => {
    for (const kernel of [
      product(),
      product({ b: weights(256, 512) }),
      product({
        form: "groups",
        b: view(1, { row: 512 }),
        out: view(2, { batch: [256 * 512], row: 512 }),
      }),
    ]) {
      const lowered = lower(kernel, H100);
      expect(entries(lowered)).toEqual(["grouped_matmul"]);
      expectSane(lowered);
    }
  });

  test("e4m3 with DeepSeek-V3's scales needs weights that lie along k", () => {
    const scale = (slot: number, block: [number, number]) => ({
      slot,
      block,
      batch: [8],
      row: 2,
      col: 1,
    });
    const a = view(0, { dtype: "f8e4m3", row: 256, scale: scale(4, [1, 128]) });
    const b = { ...weights(256, 512), dtype: "f8e4m3" as const, scale: scale(5, [128, 128]) };
    const lowered = lower(product({ a, b }), H100);
    expect(lowered.source).toContain("e4m3.e4m3");
    expectSane(lowered);
    const across = { ...b, row: 512, col: 1 };
    expect(entries(lower(product({ a, b: across }), H100))).toEqual([
      "turn_weights",
      "grouped_matmul",
    ]);
    const coarser = { ...a, scale: scale(4, [1, 256]) };
    expect(entries(lower(product({ a: coarser, b }), H100))).toEqual(["grouped_matmul_plain"]);
  });

  test("e4m3 scaled along runs of whole blocks, turned over, gives the weights' gradient", () => {
    const [rows, k, n] = [1024, 200, 136];
    const turned = (slot: number, width: number, scaleSlot: number): MatrixView => ({
      ...view(slot, { dtype: "f8e4m3", row: 1, col: rows }),
      scale: { slot: scaleSlot, block: [128, 1], batch: [], row: width, col: 1 },
    });
    const kernel = product({
      ...{ form: "groups", rows, k, n },
      a: turned(0, k, 4),
      b: turned(1, n, 5),
      out: view(2, { batch: [k * n], row: n }),
    });
    const lowered = lower(kernel, H100);
    expect(entries(lowered)).toEqual(["grouped_matmul"]);
    expect(lowered.source).toContain("e4m3.e4m3");
    expectSane(lowered);
    const maps = (lowered.launches[0] as Launch).args.filter((arg) => "tensorMap" in arg);
    expect(maps.map(({ tensorMap }) => [tensorMap.dims, tensorMap.box])).toEqual([
      [
        [rows, k],
        [128, 128],
      ],
      [
        [rows, n],
        [128, 128],
      ],
      [
        [k, rows / 128],
        [128, 1],
      ],
      [
        [n, rows / 128],
        [128, 1],
      ],
    ]);
    // As they lie, or with scales of other blocks, they are not for the tensor cores.
    const asTheyLie = { ...kernel.a, row: k, col: 1 };
    const coarse = { ...kernel.a, scale: { ...kernel.a.scale, block: [256, 1] } } as MatrixView;
    for (const a of [asTheyLie, coarse])
      expect(entries(lower({ ...kernel, a }, H100))).toEqual(["grouped_matmul_plain"]);
  });

  test("rows that are looked up are copied by threads, which arrive at the barrier, too", () => {
    const aRows = { slot: 6, extent: 40 };
    const plain = lower(product(), H100);
    for (const kernel of [
      product({ aRows }),
      product({
        form: "groups",
        b: view(1, { row: 512 }),
        out: view(2, { batch: [256 * 512], row: 512 }),
        aRows,
        bRows: { slot: 7, extent: 50 },
      }),
    ]) {
      const lowered = lower(kernel, H100);
      expectSane(lowered);
      expect(lowered.source).toContain("ring.init(129, 8)");
      expect(lowered.source).toContain("a_lines.find(thread, a, a_rows");
      expect(lowered.source.includes("b_lines.find(thread, b, b_rows")).toBe(
        kernel.form === "groups",
      );
    }
    expect(plain.source).toContain("ring.init(1, 8)");
  });

  test("odd widths and other dtypes are left to the plain kernel", () => {
    expect(hopperGroupedMatmul(product({ n: 510 }), H100)).toBeUndefined();
    const f32 = product({ a: view(0, { dtype: "f32", row: 256 }) });
    expect(hopperGroupedMatmul(f32, H100)).toBeUndefined();
    expectSane(plainGroupedMatmul(f32));
  });

  test("empty products", () => {
    for (const empty of [{ rows: 0 }, { n: 0 }, { k: 0 }, { groups: 0 }])
      expectSane(lower(product(empty), H100));
  });
});

describe("FP8 weights that lie across the contraction", () => {
  const kernel = (over: Partial<GroupedMatmulKernel> = {}): GroupedMatmulKernel => ({
    kind: "groupedMatmul",
    form: "rows",
    ...{ groups: 4, rows: 512, k: 384, n: 256, offsets: 3 },
    a: {
      ...{ slot: 0, dtype: "f8e4m3", offset: 0, batch: [], row: 384, col: 1 },
      scale: { slot: 4, block: [1, 128], batch: [], row: 3, col: 1 },
    },
    b: {
      ...{ slot: 1, dtype: "f8e4m3", offset: 0, batch: [384 * 256], row: 256, col: 1 },
      scale: { slot: 5, block: [128, 128], batch: [6], row: 2, col: 1 },
    },
    out: { slot: 2, dtype: "bf16", offset: 0, batch: [], row: 256, col: 1 },
    ...over,
  });

  test("are turned over in the workspace, and multiplied by the tensor cores", () => {
    const lowered = lower(kernel(), H100);
    expect(lowered.launches.map((l) => "entry" in l && l.entry)).toEqual([
      "turn_weights",
      "grouped_matmul",
    ]);
    expect(lowered.workspace).toBe(4 * 384 * 256);
    // 128 × 128 bytes a block.
    expect((lowered.launches[0] as Launch).grid).toEqual([2, 3, 4]);
  });

  test("stay as they are for the plain kernel, which takes any layout", () => {
    const odd = kernel({ k: 392, a: { ...kernel().a, row: 392 } });
    expect(lower(odd, { ...H100, computeCapability: 80 }).launches).toHaveLength(1);
  });
});

test("columns quantised by the kernel for that are multiplied as they lie, scales and all", () => {
  const [m, n, k] = [192, 320, 1024];
  const operand = { dtype: "f8e4m3", offset: 0, batch: [] } as const;
  const lowered = lower(
    {
      ...{ kind: "matmul", batch: [], m, n, k },
      a: {
        ...{ ...operand, slot: 0, row: k, col: 1 },
        scale: { slot: 3, block: [1, 128], batch: [], row: 1, col: m },
      },
      b: {
        ...{ ...operand, slot: 1, row: 1, col: k },
        scale: { slot: 4, block: [128, 1], batch: [], row: n, col: 1 },
      },
      out: { slot: 2, dtype: "bf16", offset: 0, batch: [], row: n, col: 1 },
    },
    H100,
  );
  expect(lowered.workspace).toBe(0);
  expect(lowered.launches).toMatchObject([
    {
      gemm: {
        a: { at: { slot: 0 }, dtype: "f8e4m3", scale: { at: { slot: 3 }, mode: "vec128" } },
        b: { at: { slot: 1 }, dtype: "f8e4m3", scale: { at: { slot: 4 }, mode: "vec128" } },
      },
    },
  ]);
});
