/** What a unit reads, and where: its extents and indices decide what it may share a kernel with. */
import { nodeOf } from "../graph.ts";
import type { Expr, Index } from "../loop.ts";
import type { Node, Tensor } from "../tensor.ts";
import { Emitter } from "./emit.ts";
import type { Unit } from "./groups.ts";
import { GroupSpace, walkedBy } from "./space.ts";

/** The roots a value is computed from, and what its barriers wait for. */
export function readsOf(t: Tensor, roots: ReadonlySet<Tensor>): Set<Tensor> {
  const reads = new Set<Tensor>();
  const seen = new Set<Node>();
  const visit = (node: Node, output: number) => {
    if (node.op !== "custom") {
      if (seen.has(node)) return;
      seen.add(node);
    }
    const inputs =
      node.op === "custom"
        ? [node.inputs[(node.attrs.args as number) + output] as Tensor]
        : node.inputs;
    for (const input of inputs) {
      if (roots.has(input)) reads.add(input);
      else visit(nodeOf(input), input.output);
    }
  };
  visit(nodeOf(t), t.output);
  return reads;
}

/** Extents of the loops over a unit's results. */
export function outerOf(unit: Unit): readonly number[] {
  return unit.tensor.shape.filter((d) => d !== 1);
}

/** Whether two units read some of the same elements of a tensor: not, where they read slices of it. */
export function overlap(a: Unit, b: Unit, t: Tensor, roots: ReadonlySet<Tensor>): boolean {
  if (t.size <= Math.max(walkedBy(a).size, walkedBy(b).size)) return true;
  const theirs = regionOf(b, t, roots);
  return regionOf(a, t, roots).every(([first, last], axis) => {
    const [start, end] = theirs[axis] as [number, number];
    return first <= end && start <= last;
  });
}

/** The first and last index of each axis at which a unit reads a tensor. */
function regionOf(unit: Unit, t: Tensor, roots: ReadonlySet<Tensor>): [number, number][] {
  const region = t.shape.map((): [number, number] => [Number.POSITIVE_INFINITY, -1]);
  emitUnit(unit, outerOf(unit), roots, (read, index, { b }) => {
    if (read !== t) return undefined;
    index.forEach((ix, axis) => {
      const [first, last] = b.range(ix);
      const bounds = region[axis] as [number, number];
      bounds[0] = Math.min(bounds[0], first);
      bounds[1] = Math.max(bounds[1], last);
    });
    return undefined;
  });
  return region;
}

/** Whether the unit takes the group's reductions at its own outer point only. */
export function rowLocal(
  unit: Unit,
  units: readonly Unit[],
  outer: readonly number[],
  roots: ReadonlySet<Tensor>,
): boolean {
  let local = true;
  const own = new Map(units.map((u) => [u.tensor, u]));
  emitUnit(unit, outer, roots, (t, index, space, emitter) => {
    const member = own.get(t);
    if (member === undefined || t === unit.tensor) return undefined;
    if (!member.axes && !member.columnsOf) return emitter.compute(t, index);
    if (member.columnsOf || !space.atOwnPoint(t.shape, index)) local = false;
    return space.b.constant(0, "f32");
  });
  return local;
}

/** Goes through a unit's expression, with what `own` says for the values it knows. */
function emitUnit(
  unit: Unit,
  outer: readonly number[],
  roots: ReadonlySet<Tensor>,
  own: (
    t: Tensor,
    index: readonly Index[],
    space: GroupSpace,
    emitter: Emitter,
  ) => Expr | undefined,
): void {
  const space = new GroupSpace(outer);
  const emitter: Emitter = new Emitter(
    space.b,
    (t) => roots.has(t),
    (t, index) => own(t, index, space, emitter),
  );
  const { index } = space.iterate(unit);
  const walked = walkedBy(unit);
  if (walked !== unit.tensor) emitter.at(walked, index);
  else emitter.compute(unit.tensor, index);
}
