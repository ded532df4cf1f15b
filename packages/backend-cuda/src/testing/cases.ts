/**
 * Cases that take each way of lowering at least once: vectors of every width, rows on part of a warp,
 * a warp, a block; columns; reductions in pieces; long sorts. The conformance suite's shapes are small
 * and odd, so most of these ways are not taken there.
 */
import {
  add,
  attention,
  type Backend,
  bitcast,
  broadcastTo,
  cast,
  compile,
  concat,
  countingSort,
  crossEntropy,
  cumsum,
  type DType,
  div,
  eq,
  exp,
  expandDims,
  iota,
  lt,
  matmul,
  mul,
  permute,
  quantizeFp8,
  rem,
  reshape,
  rmsNorm,
  scatter,
  scope,
  setBackend,
  shl,
  silu,
  sliceAxis,
  softmax,
  split,
  sub,
  sum,
  swiglu,
  type Tensor,
  take,
  tensor,
  topK,
  transpose,
  treeLeaves,
  valueAndGrad,
  where,
} from "@dsv3/tensor";
import { groupedOuter, quantize } from "@dsv3/tensor/testing";
import { isFloat } from "../contract.ts";

export interface PathCase {
  readonly name: string;
  readonly args: readonly {
    readonly shape: readonly number[];
    readonly dtype?: DType;
    readonly below?: number;
  }[];
  readonly fn: (...xs: Tensor[]) => Tensor | readonly Tensor[];
  readonly tolerance?: number;
}

const x = (...shape: number[]) => ({ shape });
const of = (dtype: DType, ...shape: number[]) => ({ shape, dtype });
const ids = (below: number, ...shape: number[]) => ({ shape, dtype: "i32" as const, below });

/**
 * Attention and its gradients as in Multi-head Latent Attention: queries and keys are a part of a
 * product beside a part that is computed, of the keys one for all heads.
 */
function attentionInParts(
  dtype: "bf16" | "f32",
  [n, r, v]: readonly [nope: number, rope: number, v: number],
  [time, heads, keyHeads]: readonly [time: number, heads: number, keyHeads: number],
  tolerance: number,
): PathCase {
  return {
    name: `attention of ${dtype} in parts of ${n} and ${r}`,
    args: [
      of(dtype, 2, time, heads, n + r),
      of(dtype, 2, time, keyHeads, n + v),
      of(dtype, 2, time, r),
      x(2, time, heads, v),
      ids(2, 2, time),
    ],
    fn: (qs, kvs, rope, weights, segments) => {
      const loss = (qs: Tensor, kvs: Tensor, rope: Tensor) => {
        const [qNope, qRope] = split(qs, [n, r], 3) as [Tensor, Tensor];
        const [kNope, values] = split(kvs, [n, v], 3) as [Tensor, Tensor];
        const shared = broadcastTo(expandDims(mul(rope, 0.5), 2), [2, time, keyHeads, r]);
        const o = attention(
          concat([qNope, mul(qRope, 0.5)], 3),
          concat([kNope, shared], 3),
          values,
          {
            ...{ scale: (n + r) ** -0.5, causal: true, segments },
          },
        );
        return sum(mul(cast(o, "f32"), weights));
      };
      return treeLeaves(valueAndGrad(loss, { argnums: [0, 1, 2] })(qs, kvs, rope));
    },
    tolerance,
  };
}

export const PATH_CASES: readonly PathCase[] = [
  { name: "vectors of f32", args: [x(64, 256), x(64, 256)], fn: (a, b) => mul(add(a, b), a) },
  {
    name: "vectors of bf16 and f32",
    args: [of("bf16", 40, 1024), x(40, 1024)],
    fn: (a, b) => cast(add(cast(a, "f32"), b), "bf16"),
    tolerance: 1e-6,
  },
  {
    name: "vectors of fp8",
    args: [of("f8e4m3", 33, 512)],
    fn: (a) => cast(mul(cast(a, "f32"), 1.5), "f8e5m2"),
  },
  {
    name: "rows broadcast",
    args: [x(130, 64), x(64), x(130, 1)],
    fn: (a, b, c) => add(mul(a, b), c),
  },
  { name: "odd sizes", args: [x(37, 101), x(101)], fn: (a, b) => silu(add(a, b)) },
  {
    name: "permuted",
    args: [x(12, 40, 24)],
    fn: (a) => [permute(a, [1, 2, 0]), permute(a, [0, 2, 1])],
  },
  { name: "transposed large", args: [of("bf16", 300, 200)], fn: (a) => add(transpose(a), 1) },
  {
    name: "transposed in batches, rounded and joined with what lies along",
    args: [x(3, 130, 96), of("bf16", 3, 96, 130)],
    fn: (a, b) => {
      const turned = permute(a, [0, 2, 1]);
      return [cast(add(turned, cast(b, "f32")), "bf16"), mul(turned, 2)];
    },
    tolerance: 3e-3,
  },
  {
    name: "transposed with axes between, odd sizes",
    args: [of("bf16", 67, 9, 131)],
    fn: (a) => mul(permute(a, [2, 1, 0]), 2),
  },
  { name: "norm on part of a warp", args: [x(900, 32), x(32)], fn: (a, w) => rmsNorm(a, w, 1e-6) },
  {
    name: "norm in registers",
    args: [of("bf16", 70, 1536), of("f32", 1536)],
    fn: (a, w) => rmsNorm(a, w, 1e-6),
    tolerance: 3e-3,
  },
  { name: "norm of long rows", args: [x(3, 9216), x(9216)], fn: (a, w) => rmsNorm(a, w, 1e-6) },
  {
    name: "gradient of a norm",
    args: [x(48, 512), x(512)],
    fn: (a, w) =>
      treeLeaves(
        valueAndGrad((p: Tensor, q: Tensor) => sum(mul(rmsNorm(p, q, 1e-6), a)), {
          argnums: [0, 1],
        })(a, w),
      ),
    tolerance: 2e-5,
  },
  {
    name: "gradients of a norm of many rows beside a residual",
    args: [of("bf16", 2, 520, 40), x(40), of("bf16", 2, 520, 40)],
    fn: (a, w, g) => {
      const loss = (p: Tensor, q: Tensor) =>
        sum(mul(cast(add(p, rmsNorm(p, q, 1e-6)), "f32"), cast(add(g, 2), "f32")));
      return treeLeaves(valueAndGrad(loss, { argnums: [0, 1] })(a, w)[1]);
    },
    tolerance: 5e-3,
  },
  {
    name: "gradients of a norm of many long rows",
    args: [of("bf16", 1057, 3592), of("bf16", 3592), of("bf16", 1057, 3592)],
    fn: (a, w, g) => {
      const loss = (p: Tensor, q: Tensor) => sum(mul(rmsNorm(p, q, 1e-6), add(g, 2)));
      return treeLeaves(valueAndGrad(loss, { argnums: [0, 1] })(a, w)[1]);
    },
    tolerance: 5e-3,
  },
  { name: "sum of columns", args: [x(3000, 64)], fn: (a) => sum(a, 0) },
  { name: "sum of wide columns", args: [of("bf16", 520, 4096)], fn: (a) => sum(cast(a, "f32"), 0) },
  { name: "sum of everything", args: [x(700, 301)], fn: (a) => sum(mul(a, a)) },
  { name: "softmax of one long row", args: [x(1, 70_000)], fn: (a) => softmax(a) },
  { name: "softmax of columns", args: [x(2000, 48)], fn: (a) => softmax(a, 0) },
  {
    name: "cross-entropy over a vocabulary",
    args: [of("bf16", 24, 4096), ids(4096, 24)],
    fn: (a, t) =>
      treeLeaves(
        valueAndGrad((p: Tensor) => sum(crossEntropy(p, t)), { argnums: [0] })(cast(a, "f32")),
      ),
    tolerance: 1e-5,
  },
  {
    name: "cross-entropy over rows that registers do not hold",
    args: [x(33, 36_868), ids(36_868, 33)],
    fn: (a, t) =>
      treeLeaves(valueAndGrad((p: Tensor) => sum(crossEntropy(p, t)), { argnums: [0] })(a)),
    tolerance: 1e-5,
  },
  {
    name: "swiglu",
    args: [of("bf16", 64, 704), of("bf16", 64, 704)],
    fn: (a, b) => swiglu(a, b),
    tolerance: 1e-2,
  },
  { name: "gathered rows", args: [of("bf16", 500, 256), ids(500, 77)], fn: (a, i) => take(a, i) },
  // Batch, queries, heads, keys: one part of the keys or several, odd and even counts of tiles, more
  // rows than one block takes and fewer, lengths that end anywhere.
  ...[
    [3, 1, 70, 450],
    [2, 3, 30, 256],
    [35, 1, 66, 70],
    [3, 1, 16, 500],
    [1, 1, 128, 20],
  ].map(([batch, queries, heads, keys]) => ({
    name: `latents: ${batch} × ${queries} queries of ${heads} heads, ${keys} keys`,
    args: [
      of("bf16", batch as number, queries as number, heads as number, 576),
      of("bf16", batch as number, keys as number, 1, 576),
      ids((keys as number) + 1, batch as number),
    ],
    fn: (q: Tensor, k: Tensor, lengths: Tensor) =>
      attention(q, k, sliceAxis(k, 3, 0, 512), { scale: 0.05, causal: true, lengths }),
    tolerance: 3e-3,
  })),
  { name: "top 8 of 256", args: [x(61, 256)], fn: (a) => Object.values(topK(a, 8)) },
  {
    name: "top 40 of 100, many of them equal",
    args: [ids(7, 61, 100)],
    fn: (i) =>
      Object.values(topK(div(cast(sub(i, 3), "f32"), cast(sub(i, 3), "f32")), 40)).concat(
        Object.values(topK(cast(i, "f32"), 40)),
      ),
  },
  { name: "top 50 of 5000", args: [x(3, 5000)], fn: (a) => Object.values(topK(a, 50)) },
  { name: "top 700 of 900", args: [x(2, 900)], fn: (a) => Object.values(topK(a, 700)) },
  { name: "sort of 5000", args: [ids(64, 5000)], fn: (i) => Object.values(countingSort(i, 64)) },
  {
    name: "sort of 40000",
    args: [ids(256, 40_000)],
    fn: (i) => Object.values(countingSort(i, 256)),
  },
  { name: "cumsum of rows", args: [x(4, 5000)], fn: (a) => cumsum(a, 1), tolerance: 1e-5 },
  { name: "cumsum of columns", args: [x(5, 300, 40)], fn: (a) => cumsum(a, 1) },
  {
    name: "scatter of few",
    args: [x(40, 96), ids(40, 300), x(300, 96)],
    fn: (b, i, u) => scatter(b, i, u, "add"),
  },
  {
    name: "scatter of many",
    args: [x(3000, 24), ids(3000, 4000), x(4000, 24)],
    fn: (b, i, u) => [scatter(b, i, u, "add"), scatter(b, i, u, "set")],
  },
  {
    name: "scatter over a vocabulary",
    args: [x(20_000, 8), ids(20_000, 3000), x(3000, 8)],
    fn: (b, i, u) => [scatter(b, i, u, "add"), scatter(b, i, u, "set")],
  },
  ...[1, 3, 8, 24].flatMap((m) =>
    (["f32", "bf16", "i8", "f8e4m3"] as const).map(
      (dtype): PathCase => ({
        name: `${m} rows times ${dtype} weights`,
        args: [x(m, 512), of(dtype, 96, 512), x(96, 4)],
        fn: (a, w, s) =>
          dtype === "i8" || dtype === "f8e4m3"
            ? matmul(a, w, { transposeB: true, bScale: { scale: s, block: [1, 128] } })
            : matmul(a, w, { transposeB: true }),
        tolerance: 1e-5,
      }),
    ),
  ),
  {
    name: "few rows times weights by column, in batches",
    args: [of("bf16", 4, 2, 64), of("bf16", 4, 64, 256)],
    fn: (a, w) => matmul(a, w),
    tolerance: 5e-3,
  },
  {
    name: "fp8 with blocks of 128",
    args: [of("f8e4m3", 64, 384), of("f8e4m3", 256, 384), x(64, 3), x(2, 3)],
    fn: (a, w, sa, sw) =>
      matmul(a, w, {
        transposeB: true,
        aScale: { scale: exp(sa), block: [1, 128] },
        bScale: { scale: exp(sw), block: [128, 128] },
      }),
    tolerance: 1e-2,
  },
  {
    name: "fp8 whose operands lie across the contraction",
    args: [of("f8e4m3", 128, 144), of("f8e4m3", 128, 80), x(1, 144), x(1, 1)],
    fn: (a, w, sa, sw) =>
      matmul(a, w, {
        transposeA: true,
        aScale: { scale: exp(sa), block: [128, 1] },
        bScale: { scale: exp(sw), block: [128, 128] },
      }),
    tolerance: 1e-2,
  },
  {
    name: "quantised rows of a norm",
    args: [of("bf16", 40, 384), x(384)],
    fn: (a, w) => {
      const { values, scale } = quantizeFp8(rmsNorm(a, w, 1e-6), [1, 128]);
      return [cast(values, "f32"), scale];
    },
  },
  {
    name: "quantised in blocks of rows and columns",
    args: [of("bf16", 512, 512), of("bf16", 256, 384), x(300, 200)],
    fn: (...matrices) =>
      matrices.flatMap((m) =>
        ([128, 1] as const).flatMap((width) => {
          const { values, scale } = quantizeFp8(m, [128, width]);
          return [cast(values, "f32"), scale];
        }),
      ),
  },
  ...([384, 200, 131] as const).map((width) => ({
    name: `quantised both ways, ${width} wide`,
    args: [of("bf16", 300, width), x(130, width)],
    fn: (...matrices: Tensor[]) => matrices.flatMap((m) => halves(quantize(m))),
    tolerance: 0,
  })),
  {
    name: "quantised both ways in runs, empty ones and of 1, 127, 128 and 129 rows among them, some in none",
    args: [of("bf16", 430, 136), of("bf16", 100, 136), ids(100, 430)],
    fn: (a, few, i) => {
      const offsets = tensor([0, 0, 129, 129, 130, 257, 385, 400, 400], { dtype: "i32" });
      return [a, take(few, i)].flatMap((m) => halves(quantize(m, offsets)));
    },
    tolerance: 0,
  },
  {
    name: "quantised both ways: blocks of zeros, the largest and the least numbers, infinities and NaN",
    args: [ids(12, 256, 256)],
    fn: (i) => {
      const mantissa = rem(mul(iota([256, 256]), 7919), 1 << 23);
      const wide = bitcast(add(shl(mul(i, 23), 23), mantissa), "f32"); // from below 2^−126 to 2^127
      const lines = iota([256, 256], { axis: 0 });
      const least = bitcast(add(iota([256, 256], { axis: 1 }), 97), "f32"); // to 448 · 2^−150, and above
      const zeros = where(lt(lines, 130), 0, where(lt(lines, 160), least, wide));
      const odd = where(eq(lines, 7), div(cast(sub(i, 6), "f32"), 0), mul(wide, -1));
      return [wide, zeros, cast(odd, "bf16")].flatMap((m) => halves(quantize(m)));
    },
    tolerance: 0,
  },
  {
    name: "a product along quantised columns",
    args: [of("bf16", 300, 64), of("bf16", 300, 96)],
    fn: (a, b) => {
      const [aScale, bScale] = [quantize(a).columns, quantize(b).columns];
      return matmul(aScale.values, bScale.values, { transposeA: true, aScale, bScale });
    },
    tolerance: 5e-4,
  },
  {
    name: "weights' gradients of runs in e4m3",
    args: [of("bf16", 400, 72), of("bf16", 90, 136), ids(90, 400)],
    fn: (a, few, i) => {
      const offsets = tensor([0, 129, 129, 130, 257, 390], { dtype: "i32" });
      const [left, right] = [quantize(a, offsets), quantize(take(few, i), offsets)];
      const [aScale, bScale] = [left.columns, right.columns];
      return (["f32", "bf16"] as const).map((dtype) =>
        groupedOuter(aScale.values, bScale.values, left.starts as Tensor, dtype, {
          aScale,
          bScale,
        }),
      );
    },
    tolerance: 3e-3,
  },
  {
    name: "sums of looked-up rows",
    args: [of("bf16", 120, 64), ids(120, 120), x(20, 6)],
    fn: (y, i, w) => {
      const rows = cast(reshape(take(y, i), [20, 6, 64]), "f32");
      return cast(sum(mul(rows, reshape(w, [20, 6, 1])), 1), "bf16");
    },
    tolerance: 5e-3,
  },
  ...[9, 32, 64].map((rows) => ({
    name: `${rows} rows of bf16, weights along and across`,
    args: [
      of("bf16", 3, rows, 96),
      of("bf16", 3, 72, 96),
      of("bf16", 3, 96, 200),
      of("bf16", rows, 1056),
      of("bf16", 40, 1056),
    ],
    fn: (a: Tensor, w: Tensor, v: Tensor, wide: Tensor, single: Tensor) => [
      matmul(a, w, { transposeB: true }),
      matmul(a, v),
      matmul(wide, single, { transposeB: true, dtype: "f32" }),
    ],
    tolerance: 5e-3,
  })),
  {
    name: "f32 times bf16 in parts",
    args: [of("bf16", 2048, 1024), x(48, 1024), x(2048, 48)],
    fn: (a, w, g) => [
      matmul(a, w, { transposeB: true, dtype: "f32" }),
      matmul(g, a, { transposeA: true, dtype: "f32" }),
    ],
  },
  {
    name: "f32 times f32 to bf16 in parts",
    args: [x(2048, 48), x(48, 1024)],
    fn: (g, w) => matmul(g, w, { dtype: "bf16" }),
    tolerance: 3e-3,
  },
  {
    name: "weights' gradient from an f32 loss",
    args: [x(96, 64), of("bf16", 96, 48)],
    fn: (g, a) => matmul(g, a, { transposeA: true, dtype: "bf16" }),
    tolerance: 5e-3,
  },
  attentionInParts("f32", [32, 16, 24], [37, 2, 1], 1e-5),
  attentionInParts("bf16", [32, 16, 32], [37, 2, 1], 1e-2),
  attentionInParts("bf16", [64, 32, 64], [131, 4, 2], 1e-2),
  attentionInParts("bf16", [128, 64, 128], [131, 2, 2], 1e-2),
  {
    name: "batches that share weights",
    args: [x(3, 20, 64), x(64, 48)],
    fn: (a, w) => matmul(a, w),
    tolerance: 1e-5,
  },
  {
    name: "large product",
    args: [x(200, 300), x(300, 100)],
    fn: (a, w) => exp(mul(matmul(a, w), 0.01)),
    tolerance: 1e-5,
  },
];

/** What was quantised, as numbers. */
function halves({ rows, columns, starts }: ReturnType<typeof quantize>): Tensor[] {
  const parts = [rows, columns].flatMap(({ values, scale }) => [cast(values, "f32"), scale]);
  return starts ? [...parts, starts] : parts;
}

function arguments_(c: PathCase): Tensor[] {
  let state = 12345;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  return c.args.map(({ shape, dtype = "f32", below }) => {
    const count = shape.reduce((a, b) => a * b, 1);
    const whole = !isFloat(dtype);
    const scale = below ?? 100;
    return tensor(
      Float64Array.from({ length: count }, () =>
        whole ? Math.floor(next() * scale) : next() * 3 - 1.5,
      ),
      { shape, dtype },
    );
  });
}

/** Runs a case three times (step by step, recorded, replayed) or fewer; the results must be the same bits. */
export function runPathCase(backend: Backend, c: PathCase, runs = 3): ArrayLike<number>[] {
  setBackend(backend);
  return scope(() => {
    const compiled = compile((...xs: Tensor[]) => treeLeaves(c.fn(...xs)), { name: c.name });
    const args = arguments_(c);
    let first: ArrayLike<number>[] | undefined;
    for (let run = 0; run < runs; run++) {
      const outs = compiled(...args);
      const values = outs.map((t) => Array.from(t.dataSync()));
      for (const t of outs) t.dispose();
      first ??= values;
      if (JSON.stringify(values) !== JSON.stringify(first))
        throw new Error(`run ${run} differs from run 0`);
    }
    compiled.dispose();
    return first as ArrayLike<number>[];
  });
}

/** Relative error ‖got − want‖ / ‖want‖ of the worst output; NaN where the two don't agree on NaN. */
export function worstError(
  got: readonly ArrayLike<number>[],
  want: readonly ArrayLike<number>[],
): number {
  let worst = 0;
  want.forEach((w, o) => {
    const g = got[o] as ArrayLike<number>;
    let difference = 0;
    let norm = 0;
    for (let i = 0; i < w.length; i++) {
      const [a, b] = [g[i] as number, w[i] as number];
      if (Object.is(a, b)) norm += Number.isFinite(b) ? b * b : 0;
      else {
        difference += (a - b) ** 2;
        norm += b * b;
      }
    }
    const error =
      g.length === w.length ? Math.sqrt(difference / Math.max(norm, 1e-30)) : Number.NaN;
    if (!(error <= worst)) worst = error;
  });
  return worst;
}
