/**
 * Which variable the lanes of vectors run over.
 *
 * "column": an outer variable; four outer points at a time go through all stages in step, and
 * accumulators are vectors. Element-wise kernels and reductions over leading axes.
 * "row": in each stage an inner variable; one outer point at a time, and accumulators are combined at
 * the end. Softmax, norms, reductions over the last axis.
 */
import type { Expr, Index, LoopKernel } from "@dsv3/tensor";
import { reachable, stageRoots } from "./simplify.ts";

export interface Plan {
  /** The outer variable of the lanes; undefined: row form. */
  readonly column: number | undefined;
  /** Per stage, its inner variables in the order of nesting; in row form the last has the lanes. */
  readonly order: readonly (readonly number[])[];
  /** Vectors worked on at a time, per stage (column form: the same for all). */
  readonly unroll: readonly number[];
  /** Rough time of the kernel on one thread. */
  readonly nanoseconds: number;
}

export function planLoops(kernel: LoopKernel): Plan {
  const rowOrder = kernel.stages.map((stage) => bestLast(kernel, stage));
  let best: Plan["column"];
  let cost = 0;
  kernel.stages.forEach((stage, s) => {
    cost += stageCost(kernel, stage, (rowOrder[s] as number[]).at(-1));
  });
  // Row form pays for each outer point and, in each of its stages, for combining lanes.
  cost += points(kernel) * (20 + 12 * kernel.stages.length);
  for (let v = 0; v < kernel.outer; v++) {
    const columnCost = kernel.stages.reduce((sum, s) => sum + stageCost(kernel, s, v), 0);
    if (columnCost <= cost) {
      best = v;
      cost = columnCost;
    }
  }
  const order = best === undefined ? rowOrder : kernel.stages.map((s) => s.inner);
  const sizes = kernel.stages.map((s) => reachable(stageRoots(s)).size);
  const size = sizes.reduce((a, b) => a + b, 0);
  const hasInner = kernel.stages.some((s) => s.inner.length > 0);
  const unroll =
    best === undefined
      ? sizes.map((n) => (n <= 12 ? 4 : n <= 30 ? 2 : 1))
      : sizes.map(() => (hasInner && size <= 16 ? 8 : size <= 12 ? 4 : size <= 30 ? 2 : 1));
  return { column: best, order, unroll, nanoseconds: 0.3 * cost };
}

/** Number of outer points. */
function points(kernel: LoopKernel): number {
  return kernel.vars.slice(0, kernel.outer).reduce((a, b) => a * b, 1);
}

/** A stage's inner variables, the one best suited for lanes last. */
function bestLast(kernel: LoopKernel, stage: LoopKernel["stages"][number]): number[] {
  let best: number | undefined;
  let cost = Infinity;
  for (const v of stage.inner) {
    const c = stageCost(kernel, stage, v);
    if (c <= cost) {
      best = v;
      cost = c;
    }
  }
  return best === undefined ? [] : [...stage.inner.filter((v) => v !== best), best];
}

/** Instructions of a stage over the whole iteration space, in about thirds of a nanosecond. */
function stageCost(
  kernel: LoopKernel,
  stage: LoopKernel["stages"][number],
  lanes: number | undefined,
): number {
  const iterations =
    points(kernel) * stage.inner.reduce((n, v) => n * (kernel.vars[v] as number), 1);
  const extent = lanes === undefined ? 1 : (kernel.vars[lanes] as number);
  // Sums must not be added up in another order for 6 rows than for 8: from 4 on, a row costs the same.
  const even = extent > 4 && kernel.stages.some(({ reduces }) => reduces.length > 0);
  const partial = extent % 4 > 0 ? 1.5 : 0;
  const vectors = lanes === undefined ? 1 : even ? extent / 4 : Math.floor(extent / 4) + partial;
  const access = (index: Index): number => {
    if (lanes === undefined) return 1;
    if (index.terms.some((t) => dependsOn(t.expr, lanes))) return 14;
    const stride = index.strides[lanes] ?? 0;
    return stride === 1 ? 1.5 : stride === 0 ? 1 : 8;
  };
  let each = stage.reduces.length;
  for (const store of stage.stores) each += access(store.index);
  for (const e of reachable(stageRoots(stage)))
    each += e.op === "load" ? access(e.index) : weight(e);
  return (iterations / Math.max(1, extent)) * vectors * each;
}

function weight(e: Expr): number {
  switch (e.op) {
    case "const":
    case "acc":
      return 0;
    case "exp":
      return 25;
    case "log":
      return 40;
    case "tanh":
      return 60;
    case "sin":
    case "cos":
      return 120;
    case "div":
    case "rem":
      return e.type === "f32" ? 5 : 20;
    case "sqrt":
      return 5;
    case "narrow":
      return 15;
    default:
      return 1;
  }
}

const dependencies = new WeakMap<Expr, ReadonlySet<number>>();

/** The variables that a value depends on, reductions apart. */
export function dependenciesOf(e: Expr): ReadonlySet<number> {
  let set = dependencies.get(e);
  if (!set) {
    const vars = new Set<number>();
    if (e.op === "index" || e.op === "load") for (const v of indexVars(e.index)) vars.add(v);
    else if (e.op !== "const" && e.op !== "acc") {
      for (const a of e.args) for (const v of dependenciesOf(a)) vars.add(v);
    }
    set = vars;
    dependencies.set(e, set);
  }
  return set;
}

/** The variables that an index depends on. */
export function indexVars(index: Index): Set<number> {
  const vars = new Set<number>();
  index.strides.forEach((s, v) => {
    if (s !== 0) vars.add(v);
  });
  for (const t of index.terms) for (const v of dependenciesOf(t.expr)) vars.add(v);
  return vars;
}

function dependsOn(e: Expr, v: number): boolean {
  return dependenciesOf(e).has(v);
}
