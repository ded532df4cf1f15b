/**
 * Joins neighbouring loop variables that every index walks as one: a 4-dimensional element-wise
 * kernel becomes one long loop, which vectorises to the end.
 */
import { type Expr, type Index, LoopBuilder, type LoopKernel } from "../loop.ts";

/** The same kernel with as few variables as possible. */
export function mergeVariables(kernel: LoopKernel): LoopKernel {
  const indices = collectIndices(kernel);
  const stride = (ix: Index, v: number) => ix.strides[v] ?? 0;
  const mergeable = (v: number, w: number) =>
    indices.every((ix) => stride(ix, v) === stride(ix, w) * (kernel.vars[w] as number));

  // Runs of variables: within the outer ones, and within each list of inner ones.
  const lists = [
    Array.from({ length: kernel.outer }, (_, v) => v),
    ...[...new Map(kernel.stages.map((s) => [s.inner.join(), s.inner])).values()],
  ];
  const into = new Map<number, number>();
  const extent = [...kernel.vars];
  for (const list of lists) {
    for (let i = list.length - 1; i > 0; i--) {
      const [v, w] = [list[i - 1] as number, list[i] as number];
      if (!mergeable(v, w)) continue;
      // w's whole run continues v: v takes over, with w's strides.
      into.set(w, v);
    }
  }
  if (into.size === 0) return kernel;

  const head = (v: number): number => (into.has(v) ? head(into.get(v) as number) : v);
  for (const w of into.keys())
    extent[head(w)] = (extent[head(w)] as number) * (kernel.vars[w] as number);
  const kept = kernel.vars.map((_, v) => v).filter((v) => !into.has(v));
  const renamed = new Map(kept.map((v, i) => [v, i]));
  /** The variable whose stride the merged one has: the last of its run. */
  const tail = (v: number): number => {
    const next = [...into].find(([, to]) => to === v)?.[0];
    return next === undefined ? v : tail(next);
  };

  const b = new LoopBuilder();
  for (const v of kept) b.newVar(extent[v] as number);
  const seen = new Map<Expr, Expr>();
  const rebuildIndex = (ix: Index): Index => ({
    offset: ix.offset,
    strides: kept.map((v) => stride(ix, tail(v))),
    terms: ix.terms.map((t) => ({ ...t, expr: rebuild(t.expr) })),
  });
  const rebuild = (e: Expr): Expr => {
    let out = seen.get(e);
    if (out === undefined) {
      const { id: _, ...bare } = e;
      if (bare.op === "index" || bare.op === "load")
        out = b.make({ ...bare, index: rebuildIndex(bare.index) });
      else if ("args" in bare)
        out = b.make({ ...bare, args: bare.args.map(rebuild) } as unknown as typeof bare);
      else out = b.make(bare);
      seen.set(e, out);
    }
    return out;
  };
  return {
    kind: "loop",
    vars: kept.map((v) => extent[v] as number),
    outer: kept.filter((v) => v < kernel.outer).length,
    slots: kernel.slots,
    stages: kernel.stages.map((s) => ({
      inner: s.inner.filter((v) => !into.has(v)).map((v) => renamed.get(v) as number),
      reduces: s.reduces.map((r) => ({ ...r, value: rebuild(r.value) })),
      stores: s.stores.map((st) => ({
        ...st,
        index: rebuildIndex(st.index),
        value: rebuild(st.value),
      })),
      columnSums: s.columnSums.map((c) => ({
        ...c,
        index: rebuildIndex(c.index),
        value: rebuild(c.value),
      })),
    })),
  };
}

/** Every index of a kernel, those inside expressions included. */
function collectIndices(kernel: LoopKernel): Index[] {
  const found: Index[] = [];
  const seen = new Set<Expr>();
  const visitIndex = (ix: Index) => {
    found.push(ix);
    for (const t of ix.terms) visit(t.expr);
  };
  const visit = (e: Expr) => {
    if (seen.has(e)) return;
    seen.add(e);
    if (e.op === "index" || e.op === "load") visitIndex(e.index);
    else if ("args" in e) for (const a of e.args) visit(a);
  };
  for (const s of kernel.stages) {
    for (const r of s.reduces) visit(r.value);
    for (const st of [...s.stores, ...s.columnSums]) {
      visitIndex(st.index);
      visit(st.value);
    }
  }
  return found;
}

/** For a slot read and written in one kernel: whether no point reads what another writes. */
export function updatesInPlace(kernel: LoopKernel, reads: number, write: number): boolean {
  const key = (ix: Index) =>
    `${ix.offset}|${kernel.vars.map((d, v) => (d === 1 ? 0 : (ix.strides[v] ?? 0)))}|${ix.terms.length}`;
  const stores = kernel.stages.flatMap((s, stage) =>
    s.stores.filter((st) => st.slot === write).map((st) => ({ stage, key: key(st.index) })),
  );
  const [storedAt] = stores;
  // Of the parts of a concatenation, one may overwrite what another reads.
  if (storedAt === undefined || stores.length > 1) return false;
  const { stage: last, key: own } = storedAt;
  let safe = true;
  kernel.stages.forEach((s, stage) => {
    const seen = new Set<Expr>();
    const visit = (e: Expr) => {
      if (seen.has(e)) return;
      seen.add(e);
      if (e.op === "load" || e.op === "index") {
        if (e.op === "load" && e.slot === reads) {
          const ok = stage === last && e.index.terms.length === 0 && key(e.index) === own;
          if (!ok) safe = false;
        }
        for (const t of e.index.terms) visit(t.expr);
      } else if ("args" in e) for (const a of e.args) visit(a);
    };
    for (const r of [...s.reduces, ...s.columnSums]) visit(r.value);
    for (const st of s.stores) {
      visit(st.value);
      for (const t of st.index.terms) visit(t.expr);
    }
  });
  return safe;
}
