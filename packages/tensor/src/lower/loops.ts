/** From a group of units to a loop kernel. */

import type { DType } from "../dtype.ts";
import { nodeOf } from "../graph.ts";
import {
  type ColumnSum,
  computeType,
  type Expr,
  type Index,
  type LoopKernel,
  type Reduce,
  type Store,
} from "../loop.ts";
import type { Tensor } from "../tensor.ts";
import { Emitter, linear } from "./emit.ts";
import { type Group, storedIn } from "./groups.ts";
import { mergeVariables } from "./merge.ts";
import { GroupSpace, walkedBy } from "./space.ts";

export interface LoweredLoop {
  readonly kernel: LoopKernel;
  /** The tensor bound to each slot. */
  readonly bound: readonly Tensor[];
  readonly writes: readonly number[];
}

/** A stage that is being made. */
interface Open {
  readonly inner: readonly number[];
  readonly reduces: Reduce[];
  readonly stores: Store[];
  readonly columnSums: ColumnSum[];
}

interface Write {
  readonly tensor: Tensor;
  readonly index: Index;
  readonly value: Expr;
  readonly inner: readonly number[];
}

/** @param stored which of the group's values something outside it reads. */
export function lowerGroup(
  group: Group,
  roots: ReadonlySet<Tensor>,
  stored: (t: Tensor) => boolean,
): LoweredLoop {
  const space = new GroupSpace(group.outer);
  const accs = new Map<Tensor, { acc: number; stage: number }>();
  const accOf = (t: Tensor, acc: number): Expr => {
    const type = computeType(t.dtype);
    const value = space.b.make({ op: "acc", type, acc });
    const exact = t.dtype === "f32" || t.dtype === "i32" || t.dtype === "u32";
    return exact ? value : space.b.make({ op: "narrow", type, to: t.dtype, args: [value] });
  };

  const stages: Open[] = [];
  const stageFor = (inner: readonly number[], after: number) => {
    for (let s = after; s < stages.length; s++) {
      if ((stages[s] as Open).inner.join() === inner.join()) return s;
    }
    return stages.push({ inner, reduces: [], stores: [], columnSums: [] }) - 1;
  };
  const lastStage = (value: Expr) => {
    let latest = 0;
    for (const acc of accsIn(value)) {
      for (const a of accs.values()) if (a.acc === acc) latest = Math.max(latest, a.stage + 1);
    }
    return latest;
  };

  // Values of the group that are not reductions are inlined wherever the group uses them.
  const inline = new Set(group.units.filter((u) => !u.axes && !u.columnsOf).map((u) => u.tensor));
  const inlining: Emitter = new Emitter(
    space.b,
    (t) => roots.has(t) && !inline.has(t),
    (t, index) => {
      const known = accs.get(t);
      if (known) return accOf(t, known.acc);
      return inline.has(t) ? inlining.compute(t, index) : undefined;
    },
  );

  const writes: Write[] = [];
  const columnSums: Write[] = [];
  for (const unit of group.units) {
    const { inner, index, result } = space.iterate(unit);
    const t = unit.tensor;
    if (unit.columnsOf) {
      if (!stored(t)) continue;
      const value = inlining.at(walkedBy(unit), index);
      columnSums.push({ tensor: t, index: linear(t.shape, result), value, inner });
    } else if (unit.axes === undefined) {
      const target = storedIn(unit);
      if (!stored(target)) continue;
      writes.push({
        tensor: target,
        index: linear(target.shape, result),
        value: inlining.compute(t, index),
        inner,
      });
    } else {
      const value = inlining.at(walkedBy(unit), index);
      const stage = stageFor(inner, lastStage(value));
      const acc = accs.size;
      const op = ({ sum: "sum", reduceMax: "max", reduceMin: "min" } as const)[
        nodeOf(t).op as "sum"
      ];
      stages[stage]?.reduces.push({ op, value, acc });
      accs.set(t, { acc, stage });
      if (stored(t))
        writes.push({ tensor: t, index: linear(t.shape, result), value: accOf(t, acc), inner: [] });
    }
  }
  for (const w of writes) {
    const stage = stageFor(w.inner, lastStage(w.value));
    stages[stage]?.stores.push({ slot: inlining.slot(w.tensor), index: w.index, value: w.value });
  }
  for (const { tensor, index, value, inner } of columnSums) {
    const stage = stageFor(inner, lastStage(value));
    stages[stage]?.columnSums.push({ slot: inlining.slot(tensor), index, value });
  }
  const bound = inlining.bound;
  const slots: DType[] = bound.map((t) => t.dtype);
  const kernel = mergeVariables({
    kind: "loop",
    vars: [...space.b.vars],
    outer: group.outer.length,
    stages: stages.filter((s) => s.reduces.length + s.stores.length + s.columnSums.length > 0),
    slots,
  });
  const written = new Set([...writes, ...columnSums].map((w) => inlining.slot(w.tensor)));
  return { kernel, bound, writes: [...written] };
}

/** The reductions that an expression uses. */
function accsIn(value: Expr): Set<number> {
  const found = new Set<number>();
  const seen = new Set<Expr>();
  const visit = (e: Expr) => {
    if (seen.has(e)) return;
    seen.add(e);
    if (e.op === "acc") found.add(e.acc);
    else if (e.op === "index" || e.op === "load") for (const t of e.index.terms) visit(t.expr);
    else if ("args" in e) for (const a of e.args) visit(a);
  };
  visit(value);
  return found;
}
