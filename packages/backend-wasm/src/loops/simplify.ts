/**
 * Fewer loops: variables of extent 1 go, and neighbours that every index steps through as one (the
 * outer's stride is the inner's times its extent) become one variable.
 */
import type { Expr, Index, LoopKernel } from "@dsv3/tensor";

/** The same kernel over fewer variables. Shared expressions stay shared. */
export function simplify(kernel: LoopKernel): LoopKernel {
  const indices = allIndices(kernel);
  const extents = [...kernel.vars];
  const strideOf = (index: Index, v: number) => index.strides[v] ?? 0;
  const kept = (list: readonly number[]) => list.filter((v) => extents[v] !== 1);

  // Merging v into w: w then counts both, and v, of extent 1, drops out.
  const neighbours = (list: readonly number[], v: number, w: number) => {
    const at = list.indexOf(v);
    return at < 0 ? !list.includes(w) : list[at + 1] === w;
  };
  const outerVars = () => kept(Array.from({ length: kernel.outer }, (_, v) => v));
  const lists = () => [outerVars(), ...kernel.stages.map((s) => kept(s.inner))];
  const mergeable = (v: number, w: number) =>
    lists().every((list) => neighbours(list, v, w)) &&
    indices.every((i) => strideOf(i, v) === strideOf(i, w) * (extents[w] as number));
  for (let merged = true; merged; ) {
    merged = lists().some((list) =>
      list.some((w, at) => {
        const v = list[at - 1];
        if (v === undefined || !mergeable(v, w)) return false;
        (extents[w] as number) *= extents[v] as number;
        extents[v] = 1;
        return true;
      }),
    );
  }

  const outer = outerVars();
  const inner = [...new Set(kernel.stages.flatMap((s) => kept(s.inner)))];
  const order = [...outer, ...inner];
  const number = new Map(order.map((v, i) => [v, i]));
  const seen = new Map<Expr, Expr>();
  const mapIndex = (index: Index): Index => ({
    offset: index.offset,
    strides: order.map((v) => strideOf(index, v)),
    terms: index.terms.map((t) => ({ ...t, expr: mapExpr(t.expr) })),
  });
  const mapExpr = (e: Expr): Expr => {
    const known = seen.get(e);
    if (known) return known;
    const mapped = rebuild(e);
    seen.set(e, mapped);
    return mapped;
  };
  const rebuild = (e: Expr): Expr => {
    if (e.op === "const" || e.op === "acc") return e;
    if (e.op === "index" || e.op === "load") return { ...e, index: mapIndex(e.index) };
    return { ...e, args: e.args.map(mapExpr) } as unknown as Expr;
  };
  return {
    kind: "loop",
    vars: order.map((v) => extents[v] as number),
    outer: outer.length,
    slots: kernel.slots,
    stages: kernel.stages.map((s) => ({
      inner: kept(s.inner).map((v) => number.get(v) as number),
      reduces: s.reduces.map((r) => ({ ...r, value: mapExpr(r.value) })),
      stores: s.stores.map((t) => ({ ...t, index: mapIndex(t.index), value: mapExpr(t.value) })),
      columnSums: [], // this backend asks for none
    })),
  };
}

/** What an expression is made of, indices of loads included. */
export function operands(e: Expr): readonly Expr[] {
  if (e.op === "index" || e.op === "load") return e.index.terms.map((t) => t.expr);
  return e.op === "const" || e.op === "acc" ? [] : e.args;
}

/** Every expression that the roots are made of, operands first. */
export function reachable(roots: Iterable<Expr>): Set<Expr> {
  const seen = new Set<Expr>();
  const visit = (e: Expr): void => {
    if (seen.has(e)) return;
    operands(e).forEach(visit);
    seen.add(e);
  };
  for (const root of roots) visit(root);
  return seen;
}

/** The expressions that a stage asks for. */
export function stageRoots(stage: LoopKernel["stages"][number]): Expr[] {
  return [
    ...stage.reduces.map((r) => r.value),
    ...stage.stores.flatMap((s) => [s.value, ...s.index.terms.map((t) => t.expr)]),
  ];
}

function allIndices(kernel: LoopKernel): Index[] {
  const exprs = reachable(kernel.stages.flatMap(stageRoots));
  return [
    ...kernel.stages.flatMap((s) => s.stores.map((t) => t.index)),
    ...[...exprs].flatMap((e) => (e.op === "index" || e.op === "load" ? [e.index] : [])),
  ];
}
