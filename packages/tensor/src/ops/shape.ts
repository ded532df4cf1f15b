/** Operations that only rearrange: index maps, free inside a compiled program. */

import {
  addIndex,
  computeType,
  constantIndex,
  type Index,
  type LoopBuilder,
  scaleIndex,
} from "../loop.ts";
import { describe, sizeOf } from "../spec.ts";
import type { Node, Tensor } from "../tensor.ts";
import { zeros } from "./create.ts";
import { apply, apply1, define } from "./registry.ts";

const input = (node: Node): Tensor => node.inputs[0] as Tensor;

/** −1 counts from the end. */
export function axisOf(x: { shape: readonly number[] }, axis: number, what: string): number {
  const a = axis < 0 ? axis + x.shape.length : axis;
  if (!Number.isInteger(a) || a < 0 || a >= x.shape.length) {
    throw new Error(`${what}: axis ${axis} is outside shape [${x.shape.join(", ")}]`);
  }
  return a;
}

export function broadcastShapes(a: readonly number[], b: readonly number[]): readonly number[] {
  if (a.length === b.length && a.every((d, i) => d === b[i])) return a;
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[i - rank + a.length] ?? 1;
    const y = b[i - rank + b.length] ?? 1;
    if (x !== y && x !== 1 && y !== 1) {
      throw new Error(
        `shapes [${a.join(", ")}] and [${b.join(", ")}] do not broadcast: axis ${i - rank} is ${x} and ${y}`,
      );
    }
    return x === 1 ? y : x;
  });
}

/** Repeats axes of extent 1, and adds leading axes, as numpy does. */
export function broadcastTo(x: Tensor, shape: readonly number[]): Tensor {
  if (x.rank === shape.length && x.shape.every((d, i) => d === shape[i])) return x;
  const result = broadcastShapes(x.shape, shape);
  if (result.length !== shape.length || result.some((d, i) => d !== shape[i])) {
    throw new Error(`cannot broadcast ${describe(x)} to [${shape.join(", ")}]`);
  }
  return apply1("broadcast", [x], { shape });
}

define("reshape", {
  infer: ([x], attrs) => [{ shape: attrs.shape as number[], dtype: (x as Tensor).dtype }],
  grad: (node, [g]) => [g ? reshape(g, input(node).shape) : null],
  source(b, node, index) {
    const from = input(node).shape;
    const to = (node.outputs[0] as Tensor).shape;
    let linear = constantIndex(0);
    to.forEach((d, i) => {
      linear = addIndex(scaleIndex(linear, d), index[i] as Index);
    });
    return indexAt(b, linear, from);
  },
});

/** The index of the element at a row-major position, which lies in the shape. */
export function indexAt(
  b: LoopBuilder,
  position: Index,
  shape: readonly number[],
): readonly Index[] {
  let linear = position;
  const result: Index[] = new Array(shape.length);
  for (let i = shape.length - 1; i >= 0; i--) {
    // What is left of the position needs no division by the first extent: it is in range.
    if (shape.slice(0, i).every((d) => d === 1)) {
      result[i] = linear;
      result.fill(constantIndex(0), 0, i);
      break;
    }
    const [q, r] = b.divide(linear, shape[i] as number);
    result[i] = r;
    linear = q;
  }
  return result;
}

/** The same elements in row-major order under another shape; one extent may be −1. */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  const known = shape.reduce((a, d) => (d === -1 ? a : a * d), 1);
  const full = shape.map((d) => (d === -1 ? x.size / known : d));
  const bad =
    shape.filter((d) => d === -1).length > 1 || full.some((d) => !Number.isInteger(d) || d < 0);
  if (bad || sizeOf(full) !== x.size) {
    throw new Error(`cannot reshape ${describe(x)} (${x.size} elements) to [${shape.join(", ")}]`);
  }
  if (full.length === x.rank && full.every((d, i) => d === x.shape[i])) return x;
  return apply1("reshape", [x], { shape: full });
}

define("permute", {
  infer([x], attrs) {
    const t = x as Tensor;
    return [{ shape: (attrs.axes as number[]).map((a) => t.shape[a] as number), dtype: t.dtype }];
  },
  grad(node, [g]) {
    const axes = node.attrs.axes as number[];
    return [
      g
        ? permute(
            g,
            axes.map((_, i) => axes.indexOf(i)),
          )
        : null,
    ];
  },
  source(_, node, index) {
    const axes = node.attrs.axes as number[];
    return axes.map((_, i) => index[axes.indexOf(i)] as Index);
  },
});

/** Axis i of the result is axis axes[i] of x. */
export function permute(x: Tensor, axes: readonly number[]): Tensor {
  const order = axes.map((a) => axisOf(x, a, "permute"));
  if (order.length !== x.rank || new Set(order).size !== x.rank) {
    throw new Error(
      `permute: axes [${axes.join(", ")}] are no permutation of the ${x.rank} axes of ${describe(x)}`,
    );
  }
  if (x.node?.op === "permute") {
    const inner = x.node.attrs.axes as number[];
    return permute(
      input(x.node),
      order.map((a) => inner[a] as number),
    );
  }
  return order.every((a, i) => a === i) ? x : apply1("permute", [x], { axes: order });
}

/** Swaps the last two axes. */
export function transpose(x: Tensor): Tensor {
  if (x.rank < 2) throw new Error(`transpose needs two axes, got ${describe(x)}`);
  const axes = x.shape.map((_, i) => i);
  axes.push(axes.splice(-2, 1)[0] as number);
  return permute(x, axes);
}

define("slice", {
  infer([x], attrs) {
    return [{ shape: attrs.sizes as number[], dtype: (x as Tensor).dtype }];
  },
  grad(node, [g]) {
    if (!g) return [null];
    const { starts, steps, sizes } = node.attrs as {
      starts: number[];
      steps: number[];
      sizes: number[];
    };
    const x = input(node);
    let spread = g;
    steps.forEach((step, a) => {
      if (step > 1) spread = interleaveZeros(spread, a, step);
    });
    const span = (a: number) => (sizes[a] as number) * (steps[a] as number);
    // A stepped slice spread out may reach past the end by up to step − 1: cut, then pad.
    const reach = x.shape.map((d, a) => Math.min(span(a), d - (starts[a] as number)));
    const cut = slice(
      spread,
      reach.map(() => 0),
      reach,
    );
    return [
      pad(
        cut,
        reach.map((r, a) => [
          starts[a] as number,
          (x.shape[a] as number) - (starts[a] as number) - r,
        ]),
      ),
    ];
  },
  source(_, node, index) {
    const { starts, steps } = node.attrs as { starts: number[]; steps: number[] };
    return index.map((ix, a) =>
      addIndex(scaleIndex(ix, steps[a] as number), constantIndex(starts[a] as number)),
    );
  },
});

/** x with step − 1 zeros after every element along an axis. */
function interleaveZeros(x: Tensor, axis: number, step: number): Tensor {
  const shape = [...x.shape];
  shape.splice(axis + 1, 0, 1);
  const widths = shape.map((_, a): [number, number] => [0, a === axis + 1 ? step - 1 : 0]);
  const merged = [...x.shape];
  merged[axis] = (merged[axis] as number) * step;
  return reshape(pad(reshape(x, shape), widths), merged);
}

/** Elements start, start + step, … before end on every axis; negative positions count from the end. */
export function slice(
  x: Tensor,
  starts: readonly number[],
  ends?: readonly number[],
  steps?: readonly number[],
): Tensor {
  const at = (p: number, d: number) => (p < 0 ? p + d : p);
  const from = x.shape.map((d, a) => at(starts[a] ?? 0, d));
  const to = x.shape.map((d, a) => at(ends?.[a] ?? d, d));
  const by = x.shape.map((_, a) => steps?.[a] ?? 1);
  const ok = x.shape.every((d, a) => {
    const [s, e, n] = [from[a] as number, to[a] as number, by[a] as number];
    return s >= 0 && s <= e && e <= d && Number.isInteger(n) && n >= 1;
  });
  if (!ok || starts.length > x.rank) {
    throw new Error(
      `slice [${from.join(", ")}] to [${to.join(", ")}] by [${by.join(", ")}] does not lie in ${describe(x)}`,
    );
  }
  const sizes = from.map((s, a) => Math.ceil(((to[a] as number) - s) / (by[a] as number)));
  if (sizes.every((d, a) => d === x.shape[a])) return x;
  return apply1("slice", [x], { starts: from, sizes, steps: by });
}

/** x[start … end) along one axis. */
export function sliceAxis(x: Tensor, axis: number, start: number, end?: number): Tensor {
  const a = axisOf(x, axis, "sliceAxis");
  const starts = x.shape.map((_, i) => (i === a ? start : 0));
  const ends = x.shape.map((d, i) => (i === a ? (end ?? d) : d));
  return slice(x, starts, ends);
}

define("split", {
  infer([x], attrs) {
    const t = x as Tensor;
    const { axis, sizes } = attrs as { axis: number; sizes: number[] };
    return sizes.map((n) => ({ shape: t.shape.with(axis, n), dtype: t.dtype }));
  },
  grad(node, gs) {
    const parts = node.outputs.map((t, i) => gs[i] ?? zeros(t.shape, t.dtype));
    return [concat(parts, node.attrs.axis as number)];
  },
  source(_, node, index, output) {
    const { axis, sizes } = node.attrs as { axis: number; sizes: number[] };
    const start = sizes.slice(0, output).reduce((s, n) => s + n, 0);
    return index.with(axis, addIndex(index[axis] as Index, constantIndex(start)));
  },
});

/** Cuts an axis into pieces of the given sizes, which must add up to its extent: what `concat` joins. */
export function split(x: Tensor, sizes: readonly number[], axis: number): Tensor[] {
  const a = axisOf(x, axis, "split");
  const total = sizes.reduce((s, n) => s + n, 0);
  if (total !== x.shape[a]) {
    throw new Error(
      `split: sizes [${sizes.join(", ")}] add up to ${total}, but axis ${axis} of ${describe(x)} has ${x.shape[a]}`,
    );
  }
  const bad = sizes.find((n) => !Number.isInteger(n) || n < 0);
  if (bad !== undefined) {
    throw new Error(
      `split: sizes [${sizes.join(", ")}] should be whole numbers from 0, got ${bad}`,
    );
  }
  return sizes.length === 1 ? [x] : [...apply("split", [x], { axis: a, sizes })];
}

define("flip", {
  infer: ([x]) => [x as Tensor],
  grad: (node, [g]) => [g ? flip(g, node.attrs.axes as number[]) : null],
  source(_, node, index) {
    const x = input(node);
    const axes = node.attrs.axes as number[];
    return index.map((ix, a) =>
      axes.includes(a)
        ? addIndex(scaleIndex(ix, -1), constantIndex((x.shape[a] as number) - 1))
        : ix,
    );
  },
});

/** Reverses axes. */
export function flip(x: Tensor, axes: readonly number[]): Tensor {
  const which = axes.map((a) => axisOf(x, a, "flip"));
  return which.length === 0 ? x : apply1("flip", [x], { axes: which });
}

define("pad", {
  cost: 2,
  infer([x], attrs) {
    const t = x as Tensor;
    const widths = attrs.widths as [number, number][];
    return [
      {
        shape: t.shape.map((d, a) => d + (widths[a]?.[0] ?? 0) + (widths[a]?.[1] ?? 0)),
        dtype: t.dtype,
      },
    ];
  },
  grad(node, [g]) {
    if (!g) return [null];
    const widths = node.attrs.widths as [number, number][];
    const x = input(node);
    return [
      slice(
        g,
        widths.map(([lo]) => lo),
        widths.map(([lo], a) => lo + (x.shape[a] as number)),
      ),
    ];
  },
  emit({ b, at }, node, index) {
    const x = input(node);
    const widths = node.attrs.widths as [number, number][];
    const outside = b.constant(node.attrs.value as number, computeType(x.dtype));
    if (x.size === 0) return outside;
    let inside: ReturnType<typeof b.valueOf> | undefined;
    const inner = index.map((ix, a) => {
      const [lo, hi] = widths[a] as [number, number];
      if (lo === 0 && hi === 0) return ix;
      const d = x.shape[a] as number;
      const shifted = b.valueOf(addIndex(ix, constantIndex(-lo)));
      const last = b.constant(d - 1, "i32");
      const zero = b.constant(0, "i32");
      const within = b.binary("and", b.binary("le", zero, shifted), b.binary("le", shifted, last));
      inside = inside === undefined ? within : b.binary("and", inside, within);
      return b.indexOf(b.binary("min", b.binary("max", shifted, zero), last), d);
    });
    const value = at(x, inner);
    return inside === undefined ? value : b.where(inside, value, outside);
  },
});

/** Adds widths[axis] = [before, after] elements of `value` around x. */
export function pad(x: Tensor, widths: readonly (readonly [number, number])[], value = 0): Tensor {
  if (widths.length !== x.rank || widths.some(([lo, hi]) => lo < 0 || hi < 0)) {
    throw new Error(
      `pad needs one [before, after] of 0 or more for each of the ${x.rank} axes of ${describe(x)}`,
    );
  }
  return widths.every(([lo, hi]) => lo === 0 && hi === 0)
    ? x
    : apply1("pad", [x], { widths, value });
}

define("concat", {
  cost: 2,
  infer(inputs, attrs) {
    const axis = attrs.axis as number;
    const first = inputs[0] as Tensor;
    for (const t of inputs) {
      if (
        t.dtype !== first.dtype ||
        t.rank !== first.rank ||
        t.shape.some((d, a) => a !== axis && d !== first.shape[a])
      ) {
        throw new Error(
          `concat along axis ${axis}: ${describe(t)} does not fit ${describe(first)}`,
        );
      }
    }
    const shape = [...first.shape];
    shape[axis] = inputs.reduce((n, t) => n + (t.shape[axis] as number), 0);
    return [{ shape, dtype: first.dtype }];
  },
  grad(node, [g]) {
    const axis = node.attrs.axis as number;
    return g
      ? split(
          g,
          node.inputs.map((t) => t.shape[axis] as number),
          axis,
        )
      : node.inputs.map(() => null);
  },
  emit({ b, at }, node, index) {
    const axis = node.attrs.axis as number;
    const along = index[axis] as Index;
    const [lo, hi] = b.range(along);
    const position = b.valueOf(along);
    let result: ReturnType<typeof b.valueOf> | undefined;
    let start = 0;
    for (const t of node.inputs) {
      const extent = t.shape[axis] as number;
      const end = start + extent;
      if (extent > 0 && hi >= start && lo < end) {
        const shifted = addIndex(along, constantIndex(-start));
        const clamped =
          lo >= start && hi < end
            ? shifted
            : b.indexOf(
                b.binary(
                  "min",
                  b.binary("max", b.valueOf(shifted), b.constant(0, "i32")),
                  b.constant(extent - 1, "i32"),
                ),
                extent,
              );
        const value = at(
          t,
          index.map((ix, a) => (a === axis ? clamped : ix)),
        );
        result =
          result === undefined
            ? value
            : b.where(b.binary("lt", position, b.constant(start, "i32")), result, value);
      }
      start = end;
    }
    return result ?? b.constant(0, computeType((node.outputs[0] as Tensor).dtype));
  },
});

/** Joins tensors along an axis. */
export function concat(xs: readonly Tensor[], axis: number): Tensor {
  const first = xs[0];
  if (first === undefined) throw new Error("concat needs at least one tensor");
  return xs.length === 1 ? first : apply1("concat", xs, { axis: axisOf(first, axis, "concat") });
}

/** Joins tensors of one shape along a new axis. */
export function stack(xs: readonly Tensor[], axis: number): Tensor {
  return concat(
    xs.map((x) => expandDims(x, axis)),
    axis,
  );
}

/** Inserts an axis of extent 1. */
export function expandDims(x: Tensor, axis: number): Tensor {
  const at = axis < 0 ? axis + x.rank + 1 : axis;
  return reshape(x, [...x.shape.slice(0, at), 1, ...x.shape.slice(at)]);
}

/** Removes an axis of extent 1. */
export function squeeze(x: Tensor, axis: number): Tensor {
  const at = axisOf(x, axis, "squeeze");
  if (x.shape[at] !== 1) throw new Error(`squeeze: axis ${axis} of ${describe(x)} is not 1`);
  return reshape(x, [...x.shape.slice(0, at), ...x.shape.slice(at + 1)]);
}

/**
 * Values passed through unchanged. "identity" marks the variables of a derivative; "barrier" also
 * waits for inputs 1 …, so that what is computed from it is not computed (or kept) earlier;
 * "custom" carries derivatives of its own (customGradient).
 */
define("identity", {
  infer: ([x]) => [x as Tensor],
  grad: (_, [g]) => [g ?? null],
  source: (_, __, index) => index,
});
define("barrier", {
  infer: ([x]) => [x as Tensor],
  grad: (node, [g]) => [g ?? null, ...node.inputs.slice(1).map(() => null)],
  source: (_, __, index) => index,
});
define("stopGradient", {
  infer: ([x]) => [x as Tensor],
  source: (_, __, index) => index,
});

/** The same value, through which no gradient flows. */
export function stopGradient(x: Tensor): Tensor {
  return apply1("stopGradient", [x]);
}
