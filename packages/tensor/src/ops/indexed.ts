/** Gathers, scatters and orderings. */
import { isFloat } from "../dtype.ts";
import type { Index } from "../loop.ts";
import { describe } from "../spec.ts";
import type { Tensor } from "../tensor.ts";
import { full, iota, zeros } from "./create.ts";
import { and, cast, eq, ge, lt, where } from "./pointwise.ts";
import { sum } from "./reduce.ts";
import { apply, apply1, define, type EmitContext } from "./registry.ts";
import { axisOf, broadcastTo, expandDims, flip, permute, reshape } from "./shape.ts";

function integers(t: Tensor, what: string): void {
  if (t.dtype !== "i32") throw new Error(`${what} must be i32, got ${describe(t)}`);
}

/** A loaded index, kept inside [0, extent). */
function clamped(
  { b, at }: EmitContext,
  t: Tensor,
  index: readonly Index[],
  extent: number,
): Index {
  const value = at(t, index);
  const last = b.constant(Math.max(0, extent - 1), "i32");
  return b.indexOf(b.binary("max", b.binary("min", value, last), b.constant(0, "i32")), extent);
}

define("take", {
  cost: 2,
  infer([x, indices], attrs) {
    const [t, ids] = [x as Tensor, indices as Tensor];
    integers(ids, "take: indices");
    const axis = attrs.axis as number;
    return [
      {
        shape: [...t.shape.slice(0, axis), ...ids.shape, ...t.shape.slice(axis + 1)],
        dtype: t.dtype,
      },
    ];
  },
  grad(node, [g]) {
    if (!g) return [null, null];
    const [x, ids] = node.inputs as [Tensor, Tensor];
    const axis = node.attrs.axis as number;
    // Rows of the taken axis to the front, added where they came from, and back.
    const lead = x.shape.slice(0, axis).map((_, a) => a);
    const order = [axis, ...lead, ...x.shape.map((_, a) => a).slice(axis + 1)];
    const idAxes = ids.shape.map((_, a) => a + axis);
    const rest = g.shape.map((_, a) => a).filter((a) => !idAxes.includes(a));
    const rows = reshape(permute(g, [...idAxes, ...rest]), [
      ids.size,
      ...order.slice(1).map((a) => x.shape[a] as number),
    ]);
    const base = zeros(
      order.map((a) => x.shape[a] as number),
      "f32",
    );
    const added = scatter(base, reshape(ids, [ids.size]), cast(rows, "f32"), "add");
    return [
      cast(
        permute(
          added,
          order.map((_, a) => order.indexOf(a)),
        ),
        x.dtype,
      ),
      null,
    ];
  },
  emit(context, node, index) {
    const [x, ids] = node.inputs as [Tensor, Tensor];
    const axis = node.attrs.axis as number;
    const row = clamped(context, ids, index.slice(axis, axis + ids.rank), x.shape[axis] as number);
    return context.at(x, [...index.slice(0, axis), row, ...index.slice(axis + ids.rank)]);
  },
});

/**
 * x[…, indices, …] along an axis: the shape of `indices` replaces the axis. Indices outside the
 * axis are clamped to it.
 */
export function take(x: Tensor, indices: Tensor, axis = 0): Tensor {
  return apply1("take", [x, indices], { axis: axisOf(x, axis, "take") });
}

define("takeAlong", {
  cost: 2,
  infer([x, indices]) {
    const [t, ids] = [x as Tensor, indices as Tensor];
    integers(ids, "takeAlong: indices");
    if (t.rank !== ids.rank || t.shape.some((d, a) => a < t.rank - 1 && d !== ids.shape[a])) {
      throw new Error(
        `takeAlong: indices ${describe(ids)} do not fit ${describe(t)} in all axes but the last`,
      );
    }
    return [{ shape: ids.shape, dtype: t.dtype }];
  },
  grad(node, [g]) {
    if (!g) return [null, null];
    const [x, ids] = node.inputs as [Tensor, Tensor];
    const k = ids.shape.at(-1) as number;
    // dx[…, e] = Σ_j g[…, j] · (indices[…, j] = e): no scatter needed.
    const shape = [...x.shape, k];
    const hit = eq(
      broadcastTo(expandDims(ids, -2), shape),
      iota(shape, { axis: shape.length - 2 }),
    );
    return [sum(where(hit, broadcastTo(expandDims(g, -2), shape), 0), -1), null];
  },
  emit(context, node, index) {
    const [x, ids] = node.inputs as [Tensor, Tensor];
    const last = clamped(context, ids, index, x.shape.at(-1) as number);
    return context.at(x, [...index.slice(0, -1), last]);
  },
});

/** out[…, j] = x[…, indices[…, j]] along the last axis. */
export function takeAlong(x: Tensor, indices: Tensor): Tensor {
  return apply1("takeAlong", [x, indices]);
}

define("scatter", {
  infer([base, indices, updates], attrs) {
    const [b, ids, u] = [base as Tensor, indices as Tensor, updates as Tensor];
    integers(ids, "scatter: indices");
    const rows = [ids.shape[0], ...b.shape.slice(1)];
    if (ids.rank !== 1 || b.rank === 0 || u.dtype !== b.dtype || u.shape.join() !== rows.join()) {
      throw new Error(
        `scatter: updates ${describe(u)} do not fit rows of ${describe(b)} at indices ${describe(ids)}`,
      );
    }
    if (attrs.mode === "add" && b.dtype !== "f32") {
      throw new Error(`scatter "add" works in f32, got ${describe(b)}; cast() it first`);
    }
    return [b];
  },
  grad(node, [g]) {
    if (!g) return [null, null, null];
    const [base, ids, updates] = node.inputs as [Tensor, Tensor, Tensor];
    if (node.attrs.mode === "add") return [g, null, landed(take(g, ids), ids, base)];
    // "set" with repeated indices: the last update wins, so only it gets a gradient.
    const rows = ids.shape[0] as number;
    const last = scatterLast(ids, base.shape[0] as number);
    const wins = eq(take(last, ids), iota(rows));
    const column = reshape(wins, [rows, ...updates.shape.slice(1).map(() => 1)]);
    const kept = eq(last, -1);
    return [
      where(reshape(kept, [base.shape[0] as number, ...base.shape.slice(1).map(() => 1)]), g, 0),
      null,
      where(column, take(g, ids), 0),
    ];
  },
});

/** Zero where an update fell outside the base and was skipped. */
function landed(rows: Tensor, ids: Tensor, base: Tensor): Tensor {
  const inside = and(ge(ids, 0), lt(ids, base.shape[0] as number));
  return where(reshape(inside, [ids.size, ...rows.shape.slice(1).map(() => 1)]), rows, 0);
}

/** For every row, the position of the last update that lands on it, or −1. */
function scatterLast(ids: Tensor, rows: number): Tensor {
  return scatter(full([rows], -1, "i32"), ids, iota(ids.shape[0] as number), "set");
}

/**
 * Rows of axis 0 replaced ("set", the last of equal indices wins) or added to ("add", f32, in
 * order). Indices outside the base are skipped. In a compiled program the base is updated in place
 * when nothing else needs its old value.
 */
export function scatter(
  base: Tensor,
  indices: Tensor,
  updates: Tensor,
  mode: "set" | "add",
): Tensor {
  return apply1("scatter", [base, indices, updates], { mode });
}

define("topK", {
  infer([x], attrs) {
    const t = x as Tensor;
    const k = attrs.k as number;
    const n = t.shape.at(-1) ?? 0;
    if (t.dtype !== "f32" || t.rank === 0)
      throw new Error(`topK needs f32 rows, got ${describe(t)}`);
    if (!Number.isInteger(k) || k < 1 || k > n)
      throw new Error(`topK: k = ${k} is outside 1 … ${n} of ${describe(t)}`);
    const shape = [...t.shape.slice(0, -1), k];
    return [
      { shape, dtype: "f32" },
      { shape, dtype: "i32" },
    ];
  },
  grad(node, [g]) {
    if (!g) return [null];
    const x = node.inputs[0] as Tensor;
    const shape = [...x.shape, node.attrs.k as number];
    const indices = node.outputs[1] as Tensor;
    const hit = eq(
      broadcastTo(expandDims(indices, -2), shape),
      iota(shape, { axis: shape.length - 2 }),
    );
    return [sum(where(hit, broadcastTo(expandDims(g, -2), shape), 0), -1)];
  },
});

/** The k largest of the last axis, largest first, equal values by lower index. */
export function topK(x: Tensor, k: number): { values: Tensor; indices: Tensor } {
  const [values, indices] = apply("topK", [x], { k }) as [Tensor, Tensor];
  return { values, indices };
}

define("countingSort", {
  infer([ids], attrs) {
    const t = ids as Tensor;
    integers(t, "countingSort: ids");
    if (t.rank !== 1) throw new Error(`countingSort needs one axis, got ${describe(t)}`);
    return [t, t, { shape: [(attrs.buckets as number) + 1], dtype: "i32" }];
  },
});

/**
 * Stable sort of ids in [0, buckets): `order` lists positions by id, `rank` is its inverse,
 * `offsets` [buckets + 1] tells where each id's run starts. Ids outside the range come last.
 */
export function countingSort(
  ids: Tensor,
  buckets: number,
): { order: Tensor; rank: Tensor; offsets: Tensor } {
  const [order, rank, offsets] = apply("countingSort", [ids], { buckets }) as [
    Tensor,
    Tensor,
    Tensor,
  ];
  return { order, rank, offsets };
}

define("cumsum", {
  infer([x]) {
    const t = x as Tensor;
    if (t.dtype !== "f32" && t.dtype !== "i32")
      throw new Error(`cumsum needs f32 or i32, got ${describe(t)}`);
    return [t];
  },
  grad(node, [g]) {
    const axis = node.attrs.axis as number;
    return [g && isFloat(g.dtype) ? flip(cumsum(flip(g, [axis]), axis), [axis]) : null];
  },
});

/** Running sum along an axis. */
export function cumsum(x: Tensor, axis = -1): Tensor {
  return apply1("cumsum", [x], { axis: axisOf(x, axis, "cumsum") });
}
