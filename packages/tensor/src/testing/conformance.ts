/**
 * One suite for every backend: each operation forward against float64, and its gradient against
 * central differences; results of whole programs; memory.
 *
 * The expected values come from the reference backend, which computes in float64 and is itself
 * checked against hand-computed values in this package's tests.
 */
import type { Backend } from "../backend.ts";
import { compile } from "../compile.ts";
import { DTYPES, type DType, dtypeBytes, isFloat } from "../dtype.ts";
import { inFp8, quantizeFp8 } from "../fp8.ts";
import { customGradient, grad, remat, valueAndGrad } from "../grad.ts";
import * as nn from "../nn.ts";
import { attention } from "../ops/attention.ts";
import { full, iota, zeros } from "../ops/create.ts";
import * as indexed from "../ops/indexed.ts";
import { dequantize, groupedMatmul, groupedOuter, matmul } from "../ops/matrix.ts";
import * as p from "../ops/pointwise.ts";
import * as r from "../ops/reduce.ts";
import * as s from "../ops/shape.ts";
import * as random from "../random.ts";
import { fromBytes, getBackend, scope, setBackend, type Tensor, tensor } from "../tensor.ts";
import { treeLeaves } from "../tree.ts";
import { referenceBackend } from "./reference-backend.ts";

/** What the suite needs of a test runner: vitest, node:test and jest all have it. */
export interface TestRunner {
  readonly describe: (name: string, body: () => void) => void;
  readonly it: (name: string, body: () => void | Promise<void>) => void;
}

interface Arg {
  readonly shape: readonly number[];
  readonly dtype?: DType;
  /** Range of the random values. */
  readonly range?: readonly [number, number];
  /** Values given instead of random ones. */
  readonly values?: readonly number[];
}

interface Case {
  readonly name: string;
  readonly args: readonly Arg[];
  readonly fn: (...xs: Tensor[]) => Tensor | readonly Tensor[];
  /** Whether the gradient is checked (for f32 arguments). */
  readonly grad?: boolean;
  /** Bound on ‖got − expected‖ / ‖expected‖. */
  readonly tolerance?: number;
}

const f = (...shape: number[]): Arg => ({ shape });
const positive = (...shape: number[]): Arg => ({ shape, range: [0.3, 2] });
const away = (...shape: number[]): Arg => ({ shape, range: [0.4, 1.6] });
const ints = (shape: readonly number[], below: number, dtype: DType = "i32"): Arg => ({
  shape,
  dtype,
  range: [0, below],
});

/** Tensor cores add products of 8-bit numbers in about 14 bits (DeepSeek-V3's report, section 3.3.2). */
const FP8_SUMS = 5e-4;

/** Of a sum of x and its norm: the sum, and gradients of x and the norm's weights, whose parts come from every row. */
function normGradients(x: Tensor, w: Tensor, dy: Tensor): Tensor[] {
  const loss = (x: Tensor, w: Tensor): [Tensor, Tensor] => {
    const y = p.add(x, nn.rmsNorm(x, w, 1e-6));
    return [r.sum(p.mul(p.cast(y, "f32"), p.cast(dy, "f32"))), y];
  };
  const [[, y], grads] = valueAndGrad(loss, { argnums: [0, 1] })(x, w);
  return [y, ...grads];
}

/** A product in FP8 and its gradients: no smooth function, so these are compared as values. */
function fp8Gradients(
  fn: (x: Tensor, w: Tensor) => Tensor,
  x: Tensor,
  w: Tensor,
  dy: Tensor,
): Tensor[] {
  const loss = (x: Tensor, w: Tensor) => r.sum(p.mul(fn(x, w), dy));
  return [fn(x, w), ...valueAndGrad(loss, { argnums: [0, 1] })(x, w)[1]];
}

function pointwiseCases(): Case[] {
  const unary: [string, (x: Tensor) => Tensor, Arg][] = [
    ["neg", p.neg, f(5, 7)],
    ["abs", p.abs, f(33)],
    ["sqrt", p.sqrt, positive(4, 9)],
    ["rsqrt", p.rsqrt, positive(13)],
    ["exp", p.exp, f(3, 5, 7)],
    ["log", p.log, positive(29)],
    ["sin", p.sin, { shape: [57], range: [-20, 20] }],
    ["cos", p.cos, { shape: [57], range: [-20, 20] }],
    ["tanh", p.tanh, { shape: [41], range: [-4, 4] }],
    ["sigmoid", p.sigmoid, f(6, 6)],
    ["silu", p.silu, f(2, 17)],
    ["square", p.square, f(11)],
  ];
  const binary: [string, (a: Tensor, b: Tensor) => Tensor][] = [
    ["add", p.add],
    ["sub", p.sub],
    ["mul", p.mul],
    ["div", p.div],
    ["maximum", p.maximum],
    ["minimum", p.minimum],
  ];
  const shapes: [number[], number[]][] = [
    [[7], [7]],
    [[3, 5], [5]],
    [
      [2, 1, 4],
      [3, 1],
    ],
    [[1], [6, 9]],
  ];
  return [
    ...unary.map(([name, fn, arg]): Case => ({ name, args: [arg], fn, grad: true })),
    ...binary.flatMap(([name, fn]) =>
      shapes.map(
        ([a, b]): Case => ({
          name: `${name} [${a}] [${b}]`,
          args: [f(...a), away(...b)],
          fn: fn as Case["fn"],
          grad: true,
        }),
      ),
    ),
    {
      name: "floor, ceil, round",
      args: [{ shape: [67], range: [-9, 9] }],
      fn: (x) => [p.floor(x), p.ceil(x), p.round(x)],
    },
    {
      name: "round ties to even",
      args: [{ shape: [6], values: [0.5, 1.5, 2.5, -0.5, -1.5, -2.5] }],
      fn: p.round,
    },
    {
      name: "rem",
      args: [
        { shape: [31], range: [-9, 9] },
        { shape: [31], range: [1, 3] },
      ],
      fn: p.rem as Case["fn"],
    },
    {
      name: "comparisons",
      args: [f(40), f(40)],
      fn: (a, b) => [p.lt(a, b), p.le(a, b), p.gt(a, b), p.ge(a, b), p.eq(a, a), p.ne(a, b)],
    },
    {
      name: "where",
      args: [f(4, 6), f(4, 6), f(6)],
      fn: (c, a, b) => p.where(p.lt(c, 0), a, b),
      grad: true,
    },
    {
      name: "special values of exp, log and tanh",
      args: [{ shape: [8], values: [0, -0, 88.8, -104, 1e-38, 1, -1, 30] }],
      fn: (x) => [p.exp(x), p.log(p.abs(x)), p.tanh(x)],
    },
    {
      name: "i32 arithmetic",
      args: [
        { shape: [37], dtype: "i32", range: [-1000, 1000] },
        { shape: [37], dtype: "i32", range: [1, 50] },
      ],
      fn: (a, b) => [
        p.add(a, b),
        p.mul(a, b),
        p.div(a, b),
        p.rem(a, b),
        p.maximum(a, b),
        p.neg(a),
        p.abs(a),
      ],
    },
    {
      name: "i32 wraps around",
      args: [{ shape: [4], dtype: "i32", values: [2147483647, -2147483648, 65536, -7] }],
      fn: (a) => [p.add(a, 1), p.mul(a, a), p.shr(a, 1), p.shl(a, 3)],
    },
    {
      name: "u32 arithmetic",
      args: [{ shape: [4], dtype: "u32", values: [4294967295, 2147483648, 7, 0] }],
      fn: (a) => [
        p.add(a, 1),
        p.shr(a, 4),
        p.shl(a, 2),
        p.xor(a, 0x55),
        p.not(a),
        p.lt(a, 8),
        p.div(a, 3),
        p.maximum(a, 5),
      ],
    },
    {
      name: "bool logic",
      args: [f(20), f(20)],
      fn: (a, b) => [
        p.and(p.lt(a, 0), p.lt(b, 0)),
        p.or(p.lt(a, 0), p.lt(b, 0)),
        p.xor(p.lt(a, 0), p.lt(b, 0)),
        p.not(p.lt(a, 0)),
      ],
    },
    {
      name: "f32 to integers saturates",
      args: [{ shape: [6], values: [1e10, -1e10, 2.9, -2.9, 0, 4e9] }],
      fn: (x) => [p.cast(x, "i32"), p.cast(x, "u32")],
    },
    { name: "bitcast", args: [f(9)], fn: (x) => p.bitcast(p.bitcast(x, "u32"), "i32") },
    ...DTYPES.flatMap((from) =>
      DTYPES.map(
        (to): Case => ({
          name: `cast ${from} to ${to}`,
          args: [{ shape: [21], dtype: from, range: isFloat(from) ? [-6, 6] : [0, 7] }],
          fn: (x) => p.cast(x, to),
        }),
      ),
    ),
    {
      name: "bf16 arithmetic rounds",
      args: [
        { shape: [50], dtype: "bf16" },
        { shape: [50], dtype: "bf16" },
      ],
      fn: (a, b) => [p.add(a, b), p.mul(a, b)],
    },
    {
      name: "fp8 saturates",
      args: [{ shape: [5], values: [1e5, -1e5, 460, 0.001, 448] }],
      fn: (x) => [p.cast(x, "f8e4m3"), p.cast(x, "f8e5m2")],
    },
  ];
}

function shapeCases(): Case[] {
  return [
    { name: "reshape", args: [f(4, 6)], fn: (x) => s.reshape(x, [2, -1, 3]), grad: true },
    {
      name: "reshape of a transpose",
      args: [f(4, 6)],
      fn: (x) => s.reshape(s.transpose(x), [3, 8]),
      grad: true,
    },
    { name: "permute", args: [f(2, 3, 5)], fn: (x) => s.permute(x, [2, 0, 1]), grad: true },
    { name: "broadcastTo", args: [f(3, 1)], fn: (x) => s.broadcastTo(x, [2, 3, 4]), grad: true },
    {
      name: "slice with steps",
      args: [f(7, 9)],
      fn: (x) => s.slice(x, [1, 0], [7, 9], [2, 3]),
      grad: true,
    },
    {
      name: "slice from the end",
      args: [f(5, 8)],
      fn: (x) => s.slice(x, [-3, 2], [-1, 7]),
      grad: true,
    },
    { name: "flip", args: [f(3, 7)], fn: (x) => s.flip(x, [0, 1]), grad: true },
    {
      name: "pad",
      args: [f(3, 5)],
      fn: (x) =>
        s.pad(
          x,
          [
            [1, 2],
            [0, 3],
          ],
          7,
        ),
      grad: true,
    },
    {
      name: "concat",
      args: [f(2, 3), f(2, 5), f(2, 1)],
      fn: (...xs) => s.concat(xs, 1),
      grad: true,
    },
    { name: "stack", args: [f(4), f(4)], fn: (...xs) => s.stack(xs, 1), grad: true },
    {
      name: "concat of values of one shape, which share operands",
      args: [f(6, 33), f(6, 33)],
      fn: (a, b) => s.concat([p.mul(a, p.sigmoid(b)), p.add(a, b), p.square(a)], 1),
      grad: true,
    },
    {
      name: "concat of rounded matrices, and what is computed from it",
      args: [f(3, 5, 16), f(3, 5, 16)],
      fn: (a, b) => {
        const c = s.concat([p.cast(a, "bf16"), p.cast(b, "bf16")], 1);
        return [c, r.sum(p.cast(c, "f32"), 2), s.sliceAxis(p.cast(c, "f32"), 1, 4, 7)];
      },
    },
    { name: "split", args: [f(4, 9)], fn: (x) => s.split(x, [2, 3, 4], 1), grad: true },
    {
      name: "iota, full",
      args: [],
      fn: () => [iota([3, 5], { axis: 0 }), iota(7, { dtype: "f32" }), full([2, 2], -1.5)],
    },
    {
      name: "empty tensors",
      args: [f(0, 3), f(0, 3)],
      fn: (a, b) => [p.add(a, b), r.sum(a, 0), s.concat([a, b], 0)],
    },
    { name: "scalars", args: [f(), f()], fn: (a, b) => p.mul(a, b), grad: true },
  ];
}

function reductionCases(): Case[] {
  const axes: [string, number | number[] | undefined][] = [
    ["all", undefined],
    ["last", -1],
    ["first", 0],
    ["middle", 1],
    ["outer two", [0, 1]],
    ["ends", [0, 2]],
  ];
  return [
    ...axes.map(
      ([name, a]): Case => ({
        name: `sum over ${name}`,
        args: [f(5, 6, 7)],
        fn: (x) => r.sum(x, a),
        grad: true,
      }),
    ),
    ...axes.map(
      ([name, a]): Case => ({
        name: `max over ${name}`,
        args: [f(4, 3, 9)],
        fn: (x) => [r.max(x, a), r.min(x, a)],
      }),
    ),
    { name: "gradient of max", args: [f(4, 9)], fn: (x) => r.max(x, 1), grad: true },
    {
      name: "mean, keepDims",
      args: [f(8, 5)],
      fn: (x) => p.sub(x, r.mean(x, 1, { keepDims: true })),
      grad: true,
    },
    {
      name: "long sums",
      args: [f(3, 4096), f(700, 24)],
      // Random signs nearly cancel: the error is relative to what was added, not to the rest.
      tolerance: 3e-5,
      fn: (a, b) => [r.sum(a, 1), r.sum(b, 0), r.sum(b)],
    },
    { name: "argmax", args: [f(6, 21)], fn: (x) => r.argmax(x, 1) },
    {
      name: "argmax of equal values",
      args: [{ shape: [2, 4], values: [1, 3, 3, 0, 2, 2, 2, 2] }],
      fn: (x) => r.argmax(x, 1),
    },
    { name: "softmax", args: [f(5, 13)], fn: (x) => r.softmax(x), grad: true },
    {
      name: "softmax over the first axis",
      args: [f(5, 13)],
      fn: (x) => r.softmax(x, 0),
      grad: true,
    },
    {
      name: "softmax of large numbers",
      args: [{ shape: [2, 9], range: [-300, 300] }],
      fn: (x) => r.softmax(x),
    },
    { name: "logSumExp", args: [f(7, 6)], fn: (x) => r.logSumExp(x), grad: true },
    {
      name: "i32 sums",
      args: [ints([9, 5], 1000)],
      fn: (x) => [r.sum(x, 0), r.sum(x), r.max(x, 1)],
    },
    { name: "reductions of nothing", args: [f(3, 0)], fn: (x) => [r.sum(x, 1), r.max(x, 1)] },
  ];
}

function indexedCases(): Case[] {
  return [
    {
      name: "take rows",
      args: [f(9, 5), ints([2, 4], 9)],
      fn: (x, i) => indexed.take(x, i),
      grad: true,
    },
    {
      name: "take along axis 1",
      args: [f(3, 6, 2), ints([4], 6)],
      fn: (x, i) => indexed.take(x, i, 1),
      grad: true,
    },
    {
      name: "takeAlong",
      args: [f(5, 8), ints([5, 3], 8)],
      fn: (x, i) => indexed.takeAlong(x, i),
      grad: true,
    },
    {
      name: "scatter add",
      args: [f(6, 3), { shape: [5], dtype: "i32", values: [0, 5, 0, 2, 9] }, f(5, 3)],
      fn: (b, i, u) => indexed.scatter(b, i, u, "add"),
      grad: true,
    },
    {
      name: "scatter set",
      args: [f(6, 3), { shape: [4], dtype: "i32", values: [1, 5, 1, -1] }, f(4, 3)],
      fn: (b, i, u) => indexed.scatter(b, i, u, "set"),
      grad: true,
    },
    { name: "topK", args: [f(7, 19)], fn: (x) => Object.values(indexed.topK(x, 4)) },
    {
      name: "topK with ties and −inf",
      args: [
        { shape: [2, 6], values: [1, 2, 2, 0, 2, Number.NEGATIVE_INFINITY, 0, 0, 0, 0, 0, 0] },
      ],
      fn: (x) => Object.values(indexed.topK(x, 6)),
    },
    {
      name: "values of topK",
      args: [{ shape: [2, 5], values: [1, 5, 2, 4, 3, 9, 7, 8, 5, 6] }],
      fn: (x) => indexed.topK(x, 3).values,
      grad: true,
    },
    {
      name: "countingSort",
      args: [ints([101], 7)],
      fn: (i) => Object.values(indexed.countingSort(i, 7)),
    },
    {
      name: "countingSort with ids outside",
      args: [{ shape: [7], dtype: "i32", values: [3, -1, 0, 9, 3, 0, 1] }],
      fn: (i) => Object.values(indexed.countingSort(i, 4)),
    },
    { name: "cumsum", args: [f(3, 11, 2)], fn: (x) => indexed.cumsum(x, 1), grad: true },
  ];
}

function matrixCases(): Case[] {
  const sizes: [number, number, number][] = [
    [1, 1, 1],
    [3, 5, 7],
    [16, 16, 16],
    [17, 33, 9],
    [1, 64, 50],
    [65, 3, 130],
    [4, 0, 3],
  ];
  const offsets: Arg = { shape: [5], dtype: "i32", values: [0, 3, 3, 10, 12] };
  /** For the rows of all runs and three more: rows from the first to the last, repeated and out of order. */
  const someRows = (last: number, first = 0): Arg => ({
    shape: [15],
    dtype: "i32",
    values: [4, first, first, last, 3, 1, 5, 4, 2, last, first, 2, 1, last, 3],
  });
  const scaled = (x: Tensor) => ({ scale: x, block: [1, 4] as const });
  return [
    ...sizes.map(
      ([m, k, n]): Case => ({
        name: `matmul ${m}×${k}×${n}`,
        args: [f(m, k), f(k, n)],
        fn: (a, b) => matmul(a, b),
        grad: m * k * n < 3000,
      }),
    ),
    {
      name: "matmul of transposes",
      args: [f(9, 6), f(11, 9)],
      fn: (a, b) => matmul(a, b, { transposeA: true, transposeB: true }),
      grad: true,
    },
    {
      name: "batched matmul",
      args: [f(2, 3, 4, 5), f(3, 5, 6)],
      fn: (a, b) => matmul(a, b),
      grad: true,
    },
    {
      name: "matmul of slices",
      args: [f(8, 12), f(12, 10)],
      fn: (a, b) => matmul(s.sliceAxis(a, 1, 3, 9), s.slice(b, [2, 1], [8, 10])),
      grad: true,
    },
    {
      name: "matmul of mixed dtypes",
      args: [f(6, 24), { shape: [10, 24], dtype: "bf16" }],
      fn: (a, b) => matmul(a, b, { transposeB: true }),
    },
    {
      name: "matmul in bf16",
      args: [
        { shape: [16, 32], dtype: "bf16" },
        { shape: [32, 8], dtype: "bf16" },
      ],
      fn: (a, b) => matmul(a, b),
      tolerance: 5e-3,
    },
    {
      name: "matrix-vector with i8 block scales",
      args: [f(1, 16), { shape: [6, 16], dtype: "i8", range: [-100, 100] }, positive(6, 4)],
      fn: (x, w, sc) => matmul(x, w, { transposeB: true, bScale: scaled(sc) }),
    },
    {
      name: "matmul with fp8 block scales",
      args: [f(5, 8), { shape: [6, 8], dtype: "f8e4m3" }, positive(3, 2)],
      fn: (x, w, sc) => matmul(x, w, { transposeB: true, bScale: { scale: sc, block: [2, 4] } }),
    },
    {
      name: "groupedMatmul",
      args: [f(12, 5), f(4, 5, 6), offsets],
      fn: (x, w, o) => groupedMatmul(x, w, o),
      grad: true,
    },
    {
      name: "groupedMatmul, transposed weights",
      args: [f(12, 16), f(4, 24, 16), offsets],
      fn: (x, w, o) => groupedMatmul(x, w, o, { transposeB: true }),
    },
    {
      name: "groupedMatmul with i8 block scales",
      args: [
        f(12, 16),
        { shape: [4, 6, 16], dtype: "i8", range: [-100, 100] },
        offsets,
        positive(4, 6, 4),
      ],
      fn: (x, w, o, sc) =>
        groupedMatmul(x, w, o, { transposeB: true, bScale: scaled(sc as Tensor) }),
    },
    {
      name: "products with dequantized matrices",
      args: [f(5, 10), { shape: [6, 10], dtype: "i8", range: [-100, 100] }, positive(6, 3)],
      fn: (x, w, sc) => matmul(x, dequantize(w, scaled(sc)), { transposeB: true }),
    },
    {
      name: "a dequantized matrix by itself",
      args: [{ shape: [2, 5, 10], dtype: "i8", range: [-100, 100] }, positive(2, 3, 3)],
      fn: (w, sc) => dequantize(w, { scale: sc, block: [2, 4] }),
    },
    {
      name: "quantizeFp8 in blocks of rows, columns and tiles",
      args: [f(3, 130, 140)],
      fn: (x) =>
        (
          [
            [1, 128],
            [128, 1],
            [128, 128],
          ] as const
        ).flatMap((block) => {
          const { values, scale } = quantizeFp8(x, block);
          return [values, scale];
        }),
    },
    {
      name: "linear in FP8, with both gradients",
      args: [f(128, 128), f(128, 128), f(128, 128)],
      fn: (x, w, dy) => fp8Gradients((x, w) => nn.linear(x, inFp8(w)), x, w, dy),
      tolerance: FP8_SUMS,
    },
    {
      name: "linear in FP8 of ragged sizes",
      args: [f(5, 40), f(24, 40), f(5, 24)],
      fn: (x, w, dy) => fp8Gradients((x, w) => nn.linear(x, inFp8(w)), x, w, dy),
      tolerance: FP8_SUMS,
    },
    {
      name: "linears in FP8, with their gradients",
      args: [f(12, 128), f(2, 128, 128), f(12, 256)],
      fn: (x, w, dy) => {
        const each = (w: Tensor) => s.split(w, [1, 1], 0).map((m) => inFp8(s.squeeze(m, 0)));
        return fp8Gradients((x, w) => s.concat(nn.linears(x, each(w)), 1), x, w, dy);
      },
      tolerance: FP8_SUMS,
    },
    {
      name: "groupedLinears of rounded matrices, with their gradients",
      args: [f(12, 24), f(4, 48, 24), f(12, 48), offsets],
      fn: (x, w, dy, o) => {
        const each = (w: Tensor) => s.split(w, [16, 32], 1).map((m) => p.cast(m, "bf16"));
        return fp8Gradients(
          (x, w) =>
            p.cast(s.concat(nn.groupedLinears(p.cast(x, "bf16"), each(w), o as Tensor), 1), "f32"),
          x,
          w,
          dy,
        );
      },
      tolerance: 4e-3,
    },
    {
      name: "groupedLinear in FP8, with both gradients",
      args: [f(12, 128), f(4, 128, 128), f(12, 128), offsets],
      fn: (x, w, dy, o) =>
        fp8Gradients((x, w) => nn.groupedLinear(x, inFp8(w), o as Tensor), x, w, dy),
      tolerance: FP8_SUMS,
    },
    {
      name: "groupedLinear in FP8 of runs longer than blocks, rows looked up, with both gradients",
      args: [
        f(50, 64),
        f(4, 32, 64),
        f(160, 32),
        { shape: [5], dtype: "i32", values: [0, 129, 129, 130, 150] },
        ints([160], 50),
      ],
      fn: (x, w, dy, o, ids) =>
        fp8Gradients(
          (x, w) => nn.groupedLinear(indexed.take(x, ids as Tensor), inFp8(w), o as Tensor),
          x,
          w,
          dy,
        ),
      tolerance: FP8_SUMS,
    },
    {
      name: "groupedOuter of operands scaled in blocks of rows",
      args: [
        { shape: [256, 24], dtype: "f8e4m3" },
        { shape: [256, 40], dtype: "f8e4m3" },
        { shape: [4], dtype: "i32", values: [0, 128, 128, 256] },
        positive(2, 24),
        positive(2, 40),
      ],
      fn: (a, b, o, aScale, bScale) =>
        groupedOuter(a, b, o as Tensor, "f32", {
          aScale: { scale: aScale as Tensor, block: [128, 1] },
          bScale: { scale: bScale as Tensor, block: [128, 1] },
        }),
    },
    {
      name: "groupedMatmul with rows in no group",
      args: [f(15, 5), f(4, 5, 6), offsets],
      fn: (x, w, o) => groupedMatmul(x, w, o),
      grad: true,
    },
    ...[false, true].map(
      (transposeB): Case => ({
        name: `groupedMatmul of taken rows${transposeB ? ", transposed weights" : ""}`,
        args: [f(7, 12), transposeB ? f(4, 5, 12) : f(4, 12, 5), offsets, someRows(6)],
        fn: (x, w, o, ids) => groupedMatmul(indexed.take(x, ids as Tensor), w, o, { transposeB }),
        grad: true,
      }),
    ),
    {
      name: "groupedMatmul of taken rows that are results, too",
      args: [f(7, 5), f(4, 5, 6), offsets, someRows(9, -1)],
      fn: (x, w, o, ids) => {
        const rows = indexed.take(x, ids as Tensor);
        return [groupedMatmul(rows, w, o), rows];
      },
    },
    {
      name: "groupedMatmul of rows taken from a part of what is computed",
      args: [f(9, 8), f(4, 5, 6), offsets, someRows(5)],
      fn: (x, w, o, ids) => {
        const part = s.slice(p.mul(x, 2), [2, 3], [8, 8]);
        return groupedMatmul(indexed.take(part, ids as Tensor), w, o);
      },
      grad: true,
    },
    ...(["f32", "bf16"] as const).map(
      (dtype): Case => ({
        name: `grouped products in ${dtype} of rows taken of one matrix and of both, also from outside`,
        args: [
          { shape: [9, 64], dtype },
          { shape: [11, 40], dtype },
          { shape: [4, 48, 64], dtype },
          { shape: [15, 40], dtype },
          offsets,
          someRows(13, -2),
        ],
        fn: (x, y, w, rows, o, ids) => {
          const [a, b] = [indexed.take(x, ids as Tensor), indexed.take(y, ids as Tensor)];
          return [
            groupedMatmul(a, w, o as Tensor, { transposeB: true, dtype: "f32" }),
            groupedOuter(a, b, o as Tensor, "f32"),
            groupedOuter(b, a, o as Tensor, "f32"),
            groupedOuter(rows as Tensor, a, o as Tensor, "f32"),
            groupedOuter(a, rows as Tensor, o as Tensor, "f32"),
          ];
        },
      }),
    ),
    {
      name: "attention",
      args: [f(2, 6, 3, 8), f(2, 6, 3, 8), f(2, 6, 3, 4)],
      fn: (q, k, v) => attention(q, k, v, { scale: 0.4 }),
      grad: true,
    },
    {
      name: "causal attention",
      args: [f(2, 9, 2, 6), f(2, 9, 2, 6), f(2, 9, 2, 5)],
      fn: (q, k, v) => attention(q, k, v, { scale: 0.4, causal: true }),
      grad: true,
    },
    {
      name: "attention over segments",
      args: [
        f(1, 7, 2, 4),
        f(1, 7, 2, 4),
        f(1, 7, 2, 4),
        { shape: [1, 7], dtype: "i32", values: [1, 1, 2, 2, 2, 3, 3] },
      ],
      fn: (q, k, v, g) => attention(q, k, v, { scale: 0.5, causal: true, segments: g as Tensor }),
      grad: true,
    },
    {
      name: "attention with fewer heads of keys",
      args: [f(1, 5, 4, 8), f(1, 5, 2, 8), f(1, 5, 2, 8)],
      fn: (q, k, v) => attention(q, k, v, { scale: 0.3, causal: true }),
      grad: true,
    },
    {
      name: "attention of queries and keys in two parts",
      args: [f(1, 3, 2, 24), f(1, 3, 2, 16), f(1, 3, 1, 24), f(1, 3, 16)],
      fn: (qs, qTail, kv, kTail) => {
        const [q, k, v] = [
          s.sliceAxis(qs, 3, 0, 16),
          s.sliceAxis(kv, 3, 0, 16),
          s.sliceAxis(kv, 3, 16, 24),
        ];
        const shared = s.broadcastTo(s.expandDims(kTail, 2), [1, 3, 1, 16]);
        const queries = s.concat([q, p.mul(qTail, qTail)], 3);
        return attention(queries, s.concat([k, shared], 3), v, { scale: 0.2, causal: true });
      },
      grad: true,
    },
    {
      name: "attention over a cache",
      args: [f(3, 2, 4, 8), f(3, 10, 1, 8), { shape: [3], dtype: "i32", values: [10, 4, 2] }],
      fn: (q, c, n) =>
        attention(q, c, s.sliceAxis(c, 3, 0, 6), {
          scale: 0.3,
          causal: true,
          lengths: n as Tensor,
        }),
    },
    {
      name: "attention over pages",
      args: [
        f(2, 1, 4, 8),
        f(5, 4, 1, 8),
        { shape: [2], dtype: "i32", values: [7, 3] },
        { shape: [2, 2], dtype: "i32", values: [4, 1, 2, 0] },
      ],
      fn: (q, c, n, t) =>
        attention(q, c, s.sliceAxis(c, 3, 0, 6), {
          scale: 0.3,
          causal: true,
          lengths: n as Tensor,
          pages: { table: t as Tensor, pageSize: 4 },
        }),
    },
    {
      name: "attention over longer rows",
      args: [f(1, 70, 2, 24), f(1, 70, 2, 24), f(1, 70, 2, 16)],
      fn: (q, k, v) => attention(q, k, v, { scale: 0.2, causal: true }),
    },
  ];
}

function layerCases(): Case[] {
  const targets: Arg = { shape: [5], dtype: "i32", values: [2, 0, -1, 8, 3] };
  return [
    {
      name: "linear",
      args: [f(2, 3, 8), f(5, 8), f(5)],
      fn: (x, w, b) => nn.linear(x, w, b),
      grad: true,
    },
    {
      name: "rmsNorm",
      args: [f(2, 3, 16), positive(16)],
      fn: (x, w) => nn.rmsNorm(x, w, 1e-6),
      grad: true,
    },
    {
      name: "rmsNorm of bf16",
      args: [{ shape: [4, 40], dtype: "bf16" }, positive(40)],
      fn: (x, w) => nn.rmsNorm(x, w, 1e-6),
      tolerance: 5e-3,
    },
    ...(
      [
        ["f32", [2, 515, 36]],
        ["f32", [9, 97]],
        ["bf16", [2, 5, 64]],
      ] as const
    ).map(([dtype, shape]) => ({
      name: `gradients of rmsNorm of ${dtype} [${shape}] beside a residual`,
      args: [{ shape, dtype }, positive(shape.at(-1) as number), { ...positive(...shape), dtype }],
      fn: normGradients as Case["fn"],
      tolerance: dtype === "bf16" ? 5e-3 : 3e-6,
    })),
    { name: "swiglu", args: [f(3, 10), f(3, 10)], fn: nn.swiglu as Case["fn"], grad: true },
    {
      name: "rotary",
      args: [f(2, 5, 2, 8), positive(4)],
      fn: (x, w) => nn.rotary(x, nn.rotaryTables(iota(5), w)),
      grad: true,
    },
    {
      name: "crossEntropy",
      args: [f(5, 9), targets],
      fn: nn.crossEntropy as Case["fn"],
      grad: true,
    },
    {
      name: "crossEntropy of bf16 logits",
      args: [{ shape: [5, 9], dtype: "bf16" }, targets],
      fn: nn.crossEntropy as Case["fn"],
    },
    {
      name: "random bits",
      args: [],
      fn: () => [
        random.randomBits(random.key(42), [37]),
        random.splitKey(random.key(7), 3),
        random.foldIn(random.key(7), 5),
      ],
    },
    {
      name: "random numbers",
      args: [],
      fn: () => [random.uniform(random.key(1), [100]), random.normal(random.key(1), [100])],
      tolerance: 1e-5,
    },
    {
      name: "remat",
      args: [f(4, 6)],
      fn: (x) => remat((y: Tensor) => p.exp(p.sin(p.mul(y, y))))(x),
      grad: true,
    },
    {
      name: "customGradient",
      args: [f(7)],
      fn: (x) =>
        customGradient(
          (y: Tensor) => ({ output: p.square(y), save: y }),
          (y, g) => [p.mul(p.mul(y, 2), g)],
        )(x),
      grad: true,
    },
    {
      name: "second derivative",
      args: [f(6)],
      fn: (x) => grad((y: Tensor) => r.sum(p.mul(p.sin(y), y)))(x),
      grad: true,
    },
  ];
}

/** A small generator of its own, so that the suite's inputs are the same everywhere. */
function numbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function makeArgs(args: readonly Arg[]): Tensor[] {
  const next = numbers(args.length * 7919 + 17);
  return args.map(({ shape, dtype = "f32", range = [-1.5, 1.5], values }) => {
    const count = shape.reduce((a, b) => a * b, 1);
    const [lo, hi] = range;
    const whole = !isFloat(dtype);
    const data =
      values ??
      Array.from({ length: count }, () => {
        const x = lo + (hi - lo) * next();
        return whole ? Math.floor(x) : x;
      });
    return tensor(data, { shape, dtype });
  });
}

type Numbers = ArrayLike<number>;

function run(backend: Backend, c: Case): Numbers[] {
  setBackend(backend);
  return scope(() => {
    const compiled = compile((...xs: Tensor[]) => c.fn(...xs), { name: c.name });
    const out = treeLeaves(compiled(...makeArgs(c.args))).map((t) => Array.from(t.dataSync()));
    compiled.dispose();
    return out;
  });
}

/** The gradients of Σ weights · outputs for the f32 arguments. */
function runGrad(backend: Backend, c: Case): Numbers[] {
  setBackend(backend);
  return scope(() => {
    const args = makeArgs(c.args);
    const which = c.args.flatMap((a, i) => ((a.dtype ?? "f32") === "f32" ? [i] : []));
    const compiled = compile((...xs: Tensor[]) =>
      valueAndGrad((...ys: Tensor[]) => weighted(c.fn(...ys)), { argnums: which })(...xs),
    );
    const [, grads] = compiled(...args) as unknown as [Tensor, Tensor[]];
    const out = grads.map((t) => Array.from(t.dataSync()));
    compiled.dispose();
    return out;
  });
}

/** A scalar that weighs every element of the outputs differently. */
function weighted(outputs: Tensor | readonly Tensor[]): Tensor {
  return treeLeaves(outputs)
    .map((t) => {
      const weights = p.add(p.sin(p.mul(p.cast(iota(Math.max(1, t.size)), "f32"), 0.7)), 1.3);
      return r.sum(
        p.mul(s.reshape(p.cast(t, "f32"), [t.size]), t.size === 0 ? zeros([0]) : weights),
      );
    })
    .reduce((a, b) => p.add(a, b));
}

/** Central differences of the same scalar, in float64 on the reference backend. */
function numericGrad(reference: Backend, c: Case): Numbers[] {
  setBackend(reference);
  return scope(() => {
    const args = makeArgs(c.args);
    const host = args.map((t) => Float32Array.from(t.dataSync()));
    const value = compile((...xs: Tensor[]) => treeLeaves(c.fn(...xs)));
    const evaluate = (): number => {
      const xs = args.map((t, i) =>
        tensor(host[i] as Float32Array, { shape: t.shape, dtype: t.dtype }),
      );
      const outs = value(...xs);
      let total = 0;
      for (const t of outs) {
        t.dataSync().forEach((x: number, i: number) => {
          total += x * (Math.sin(Math.fround(i * Math.fround(0.7))) + 1.3);
        });
        t.dispose();
      }
      for (const x of xs) x.dispose();
      return total;
    };
    return host.flatMap((data, i) => {
      if ((c.args[i]?.dtype ?? "f32") !== "f32") return [];
      // Steps of 2⁻⁶: results are stored in f32, so smaller ones would drown in rounding.
      const step = 2 ** -6;
      return [
        Array.from(data, (x, at) => {
          const slope = (h: number) => {
            data[at] = Math.fround(x + h);
            const up = evaluate();
            data[at] = Math.fround(x - h);
            const down = evaluate();
            data[at] = x;
            return (up - down) / (Math.fround(x + h) - Math.fround(x - h));
          };
          return (4 * slope(step / 2) - slope(step)) / 3; // Richardson: error of fourth order
        }),
      ];
    });
  });
}

function compare(got: readonly Numbers[], expected: readonly Numbers[], tolerance: number): void {
  if (got.length !== expected.length)
    throw new Error(`${got.length} outputs instead of ${expected.length}`);
  expected.forEach((want, o) => {
    const have = got[o] as Numbers;
    if (have.length !== want.length)
      throw new Error(`output ${o} has ${have.length} elements instead of ${want.length}`);
    let difference = 0;
    let norm = 0;
    for (let i = 0; i < want.length; i++) {
      const [a, b] = [have[i] as number, want[i] as number];
      if (Object.is(a, b) || a === b) {
        if (Number.isFinite(b)) norm += b * b;
        continue;
      }
      if (!Number.isFinite(a) || !Number.isFinite(b))
        throw new Error(`output ${o}, element ${i}: ${a} instead of ${b}`);
      difference += (a - b) ** 2;
      norm += b * b;
    }
    if (Math.sqrt(difference) > tolerance * Math.sqrt(norm) + 1e-30 + tolerance * 1e-3) {
      throw new Error(
        `output ${o}: relative error ${(Math.sqrt(difference / norm)).toExponential(2)} exceeds ${tolerance}; got ${Array.from(have).slice(0, 6)}…, expected ${Array.from(want).slice(0, 6)}…`,
      );
    }
  });
}

/**
 * Defines the suite's tests with the given runner.
 * @param makeBackend gives the backend under test; called once.
 */
export function conformance(
  runner: TestRunner,
  makeBackend: () => Backend | Promise<Backend>,
): void {
  const { describe, it } = runner;
  let backend: Backend | undefined;
  let reference = referenceBackend();
  const get = async () => {
    if (backend === undefined) {
      backend = await makeBackend();
      // Programs quantise other blocks for a backend that has a kernel for that.
      reference = { ...reference, quantizes: backend.quantizes === true };
    }
    return backend;
  };
  const groups: [string, Case[]][] = [
    ["element-wise", pointwiseCases()],
    ["shape", shapeCases()],
    ["reductions", reductionCases()],
    ["indexed", indexedCases()],
    ["matrices and attention", matrixCases()],
    ["layers, random numbers, transforms", layerCases()],
  ];
  for (const [name, cases] of groups) {
    describe(name, () => {
      for (const c of cases) {
        it(c.name, async () => {
          const under = await get();
          compare(run(under, c), run(reference, c), c.tolerance ?? 3e-6);
        });
        if (!c.grad) continue;
        it(`gradient of ${c.name}`, async () => {
          const under = await get();
          const expected = runGrad(reference, c);
          compare(runGrad(under, c), expected, 1e-5);
          compare(expected, numericGrad(reference, c), 2e-3);
        });
      }
    });
  }
  describe("programs and memory", () => {
    it("updates donated state in place", async () => {
      setBackend(await get());
      const step = compile(
        (state: { w: Tensor; m: Tensor }, g: Tensor) => {
          const m = p.add(p.mul(state.m, 0.9), g);
          return { w: p.sub(state.w, p.mul(m, 0.1)), m };
        },
        { donate: [0] },
      );
      const g = full([1000], 1);
      let state = { w: full([1000], 0), m: full([1000], 0) };
      const before = getBackend().memory().liveBytes;
      for (let i = 0; i < 3; i++) state = step(state, g);
      const after = getBackend().memory().liveBytes;
      if (after !== before) throw new Error(`live bytes went from ${before} to ${after}`);
      compare([state.w.dataSync().slice(0, 1)], [[-(1 + 1.9 + 2.71) / 10]], 1e-5);
      for (const t of [g, state.w, state.m]) t.dispose();
      step.dispose();
    });
    it("frees everything that scopes and dispose() give back", async () => {
      setBackend(await get());
      const before = getBackend().memory().liveBytes;
      scope(() => {
        const x = full([333], 2);
        p.add(p.mul(x, x), 1);
      });
      if (getBackend().memory().liveBytes !== before)
        throw new Error("scope() left buffers behind");
    });
    it("writes and reads raw bytes of every dtype", async () => {
      setBackend(await get());
      for (const dtype of DTYPES) {
        const bytes = new Uint8Array(12 * dtypeBytes(dtype)).map((_, i) =>
          dtype === "bool" ? i % 2 : i,
        );
        const t = fromBytes(bytes, [12], dtype);
        const back = await t.bytes();
        if (back.join() !== bytes.join()) throw new Error(`${dtype} bytes changed on the device`);
        t.dispose();
      }
    });
    it("runs a fused program of many kernels twice with the same bits", async () => {
      setBackend(await get());
      const fn = compile((x: Tensor, w: Tensor) => {
        let h = x;
        for (let i = 0; i < 4; i++)
          h = p.add(h, nn.linear(nn.rmsNorm(p.silu(h), full([16], 1), 1e-6), w));
        return [r.softmax(h), r.sum(h)];
      });
      const [x, w] = makeArgs([f(9, 16), f(16, 16)]) as [Tensor, Tensor];
      const runs = [fn(x, w), fn(x, w)].map((outs) =>
        outs.flatMap((t) => Array.from(t.dataSync())),
      );
      if (JSON.stringify(runs[0]) !== JSON.stringify(runs[1])) throw new Error("two runs differ");
      fn.dispose();
    });
  });
}
