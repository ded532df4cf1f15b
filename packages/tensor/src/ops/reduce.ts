/** Reductions over axes. */
import { isFloat } from "../dtype.ts";
import { constantIndex, type Index } from "../loop.ts";
import { describe, sizeOf } from "../spec.ts";
import { getBackend, type Node, type Tensor } from "../tensor.ts";
import { iota } from "./create.ts";
import { add, cast, div, eq, exp, log, mul, sub, where } from "./pointwise.ts";
import { apply1, define } from "./registry.ts";
import { axisOf, broadcastTo, reshape, stopGradient } from "./shape.ts";

export type Axes = number | readonly number[];
type Options = { keepDims?: boolean };

/** The gradient (or result) of a reduction seen as the operand's shape. */
function spread(t: Tensor, like: Tensor, axes: readonly number[]): Tensor {
  return broadcastTo(
    reshape(
      t,
      like.shape.map((d, a) => (axes.includes(a) ? 1 : d)),
    ),
    like.shape,
  );
}

function reduction(op: string, grad: (g: Tensor, node: Node) => Tensor): void {
  define(op, {
    cost: 1,
    infer([x], attrs) {
      const t = x as Tensor;
      if (t.dtype === "bool")
        throw new Error(`${op} is not defined for ${describe(t)}; cast() it first`);
      const axes = attrs.axes as number[];
      return [{ shape: t.shape.filter((_, a) => !axes.includes(a)), dtype: t.dtype }];
    },
    grad: (node, [g]) => [g ? grad(g, node) : null],
  });
}

/** Sum and broadcast are each other's derivative, so both are defined here. */
define("broadcast", {
  infer: ([x], attrs) => [{ shape: attrs.shape as number[], dtype: (x as Tensor).dtype }],
  grad(node, [g]) {
    if (!g) return [null];
    const x = node.inputs[0] as Tensor;
    const lead = g.rank - x.rank;
    const axes = g.shape
      .map((_, i) => i)
      .filter((i) => i < lead || (x.shape[i - lead] === 1 && g.shape[i] !== 1));
    return [reshape(sum(g, axes), x.shape)];
  },
  source(_, node, index) {
    const x = node.inputs[0] as Tensor;
    const lead = index.length - x.rank;
    return x.shape.map((d, i) => (d === 1 ? constantIndex(0) : (index[i + lead] as Index)));
  },
});

reduction("sum", (g, node) => spread(g, node.inputs[0] as Tensor, node.attrs.axes as number[]));

/** To the elements that equal the extreme, shared equally. */
function extremeGrad(g: Tensor, node: Node): Tensor {
  const x = node.inputs[0] as Tensor;
  const axes = node.attrs.axes as number[];
  const hit = cast(eq(x, spread(node.outputs[0] as Tensor, x, axes)), g.dtype);
  return mul(hit, spread(div(g, sum(hit, axes)), x, axes));
}
reduction("reduceMax", extremeGrad);
reduction("reduceMin", extremeGrad);

function reduce(op: string, x: Tensor, axes: Axes | undefined, options: Options): Tensor {
  const list =
    axes === undefined ? x.shape.map((_, a) => a) : typeof axes === "number" ? [axes] : axes;
  const which = [...new Set(list.map((a) => axisOf(x, a, op)))].sort((a, b) => a - b);
  const shape = x.shape.map((d, a) => (which.includes(a) ? 1 : d));
  let result: Tensor;
  if (which.every((a) => x.shape[a] === 1)) {
    result = reshape(
      x,
      shape.filter((_, a) => !which.includes(a)),
    );
  } else {
    result = op === "sum" ? splitSum(x, which) : apply1(op, [x], { axes: which });
  }
  return options.keepDims ? reshape(result, shape) : result;
}

/** Below this many results, a long sum is done in two steps so that there is work for all threads. */
const PARALLEL_RESULTS = 8192;
const SHORTEST_PART = 64;
/** So many rows a backend that keeps them gets whole: their sums are one kernel with what else they are used for. */
const FEWEST_ROWS = 32;
/** The same of columns, for a backend that sums them beside rows. */
const FEWEST_COLUMNS = 128;
/** A shorter sum takes less time than starting another kernel. */
const LONG = 4096;

/** A sum over axes; long ones with few results are cut into partial sums first. */
function splitSum(x: Tensor, axes: readonly number[]): Tensor {
  const kept = x.shape.filter((_, a) => !axes.includes(a));
  const long = axes.reduce(
    (best, a) => ((x.shape[a] as number) > (x.shape[best] as number) ? a : best),
    axes[0] as number,
  );
  const extent = x.shape[long] as number;
  const total = axes.reduce((n, a) => n * (x.shape[a] as number), 1);
  const wanted = Math.min(PARALLEL_RESULTS / Math.max(1, sizeOf(kept)), total / SHORTEST_PART);
  const ofRows = axes.every((a, i) => a === x.rank - axes.length + i);
  const ofColumns = axes.every((a, i) => a === i);
  const { keepsRows, sumsColumns = 0 } = getBackend();
  const enough =
    wanted < 2 ||
    (ofRows && keepsRows && sizeOf(kept) >= FEWEST_ROWS) ||
    (ofColumns && sumsColumns > 0 && sizeOf(kept) >= FEWEST_COLUMNS);
  if (!isFloat(x.dtype) || total < LONG || enough) return apply1("sum", [x], { axes });
  if (axes.length === x.rank && x.rank > 1) return splitSum(reshape(x, [x.size]), [0]);
  let parts = 1;
  for (let p = 2; p <= Math.min(wanted, extent); p++) if (extent % p === 0) parts = p;
  if (parts === 1) return apply1("sum", [x], { axes });
  // [.., extent, ..] → [.., parts, extent / parts, ..]
  const cut = [...x.shape.slice(0, long), parts, extent / parts, ...x.shape.slice(long + 1)];
  const inner = axes.map((a) => (a >= long ? a + 1 : a));
  const partial = apply1("sum", [reshape(x, cut)], { axes: inner });
  const at = x.shape.slice(0, long).filter((_, a) => !axes.includes(a)).length;
  return apply1("sum", [partial], { axes: [at] });
}

/** Sum over axes (all unless told). */
export function sum(x: Tensor, axes?: Axes, options: Options = {}): Tensor {
  return reduce("sum", x, axes, options);
}

/** Arithmetic mean of floats over axes. */
export function mean(x: Tensor, axes?: Axes, options: Options = {}): Tensor {
  const total = sum(x, axes, options);
  return mul(total, total.size / x.size);
}

/** Largest element over axes; NaN if there is one; −inf for no elements. */
export function max(x: Tensor, axes?: Axes, options: Options = {}): Tensor {
  return reduce("reduceMax", x, axes, options);
}

export function min(x: Tensor, axes?: Axes, options: Options = {}): Tensor {
  return reduce("reduceMin", x, axes, options);
}

/** Index of the first largest element along an axis, i32. */
export function argmax(x: Tensor, axis = -1): Tensor {
  const a = axisOf(x, axis, "argmax");
  const extent = x.shape[a] as number;
  const best = stopGradient(max(x, a, { keepDims: true }));
  const position = iota(x.shape, { axis: a });
  return min(where(eq(x, broadcastTo(best, x.shape)), position, extent), a);
}

/** log Σ exp(x), without overflow. */
export function logSumExp(x: Tensor, axis = -1): Tensor {
  const a = axisOf(x, axis, "logSumExp");
  const top = stopGradient(max(x, a, { keepDims: true }));
  const total = sum(exp(sub(x, top)), a);
  return add(log(total), reshape(top, total.shape));
}

/** exp(x) / Σ exp(x), without overflow. */
export function softmax(x: Tensor, axis = -1): Tensor {
  const a = axisOf(x, axis, "softmax");
  const e = exp(sub(x, stopGradient(max(x, a, { keepDims: true }))));
  return div(e, sum(e, a, { keepDims: true }));
}
