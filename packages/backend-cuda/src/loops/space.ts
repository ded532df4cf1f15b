/**
 * Iteration spaces run by one flat counter, and indices taken apart over them. A flat counter needs
 * divisions to give single variables, but most indices need none: where a run of neighbouring
 * variables has strides that fit together, the counter's quotient or remainder serves the whole run.
 */
import type { Expr, Index, LoopKernel } from "../contract.ts";

/** Variables walked together, the last one fastest. */
export interface Space {
  /** Name of the flat counter in the source. */
  readonly counter: string;
  readonly vars: readonly number[];
  readonly extents: readonly number[];
  readonly total: number;
}

export function makeSpace(counter: string, kernel: LoopKernel, vars: readonly number[]): Space {
  const used = vars.filter((v) => kernel.vars[v] !== 1);
  const extents = used.map((v) => kernel.vars[v] as number);
  return { counter, vars: used, extents, total: extents.reduce((a, b) => a * b, 1) };
}

/** `stride` × (the part of the counter between `after` and `after · size`). */
export interface Run {
  readonly stride: number;
  readonly size: number;
  readonly after: number;
}

/** The affine part of an index over a space; runs of stride 0 are kept, slowest first. */
export function runsOf(index: Index, space: Space): Run[] {
  const runs: Run[] = [];
  let after = 1;
  for (let at = space.vars.length - 1; at >= 0; at--) {
    const stride = index.strides[space.vars[at] as number] ?? 0;
    const size = space.extents[at] as number;
    const faster = runs[0];
    if (faster !== undefined && stride === faster.stride * faster.size) {
      runs[0] = { ...faster, size: faster.size * size };
    } else runs.unshift({ stride, size, after });
    after *= size;
  }
  return runs;
}

/** The fastest run: over it, lanes that are neighbours in the counter are `stride` apart. */
export function lastRun(index: Index, space: Space): Run {
  return runsOf(index, space).at(-1) ?? { stride: 0, size: 1, after: 1 };
}

/** Counter expression of a run. */
export function position({ size, after }: Run, space: Space): string {
  const high = after === 1 ? space.counter : `${space.counter} / ${after}u`;
  return after * size === space.total ? high : `(${high}) % ${size}u`;
}

/** Every index in an expression: of loads, of index values, of their terms. */
export function forEachIndex(
  roots: readonly (Expr | Index)[],
  visit: (index: Index, load: Extract<Expr, { op: "load" }> | undefined) => void,
): void {
  const seen = new Set<Expr>();
  const walkIndex = (index: Index, load?: Extract<Expr, { op: "load" }>) => {
    visit(index, load);
    for (const term of index.terms) walk(term.expr);
  };
  const walk = (e: Expr) => {
    if (seen.has(e)) return;
    seen.add(e);
    if (e.op === "load") walkIndex(e.index, e);
    else if (e.op === "index") walkIndex(e.index);
    else if ("args" in e) for (const arg of e.args) walk(arg);
  };
  for (const root of roots) "op" in root ? walk(root) : walkIndex(root);
}
