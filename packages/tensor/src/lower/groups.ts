/**
 * Which values are computed together in one loop kernel. A unit is a root that a loop computes: an
 * element-wise value or a reduction. Units share a kernel when their outer iterations agree and
 * what one takes from another lies at the same outer point: a norm, a softmax, a loss with all its
 * reductions becomes one pass over rows; an optimiser's three updates become one loop.
 */
import { nodeOf } from "../graph.ts";
import { sizeOf } from "../spec.ts";
import { getBackend, type Node, type Tensor } from "../tensor.ts";
import { operandsOf, wholeView } from "./operands.ts";
import { outerOf, overlap, readsOf, rowLocal } from "./reads.ts";
import { isKernel, REDUCTIONS, type Roots, storedInParts } from "./roots.ts";
import { refine, walkedBy } from "./space.ts";

export interface Unit {
  readonly tensor: Tensor;
  /** Where the value is a part of a concatenation: of that shape, from that position of its axis on. */
  readonly within?: {
    readonly whole: Tensor;
    readonly shape: readonly number[];
    readonly start: number;
  };
  /** Of a reduction: the axes of its operand. */
  readonly axes?: readonly number[];
  /** Where it is a sum over all outer points of the group, maybe rounded: the sum. */
  readonly columnsOf?: Tensor;
  /** Of an element-wise value beside reductions of blocks: the axes that lie in a block. */
  readonly block?: readonly number[];
  /** Roots that it reads. */
  readonly reads: ReadonlySet<Tensor>;
}

export interface Group {
  readonly kind: "group";
  units: Unit[];
  /** Extents of the outer loops; for purely element-wise groups, of all loops. */
  outer: readonly number[];
  reduces: boolean;
}

export interface KernelEntry {
  readonly kind: "kernel";
  readonly node: Node;
}

export type Entry = Group | KernelEntry;

/** How far back a group may be joined that only shares operands. */
export const WINDOW = 24;
/** Simple operations that take longer than a store and two loads. */
const DEAR = 16;
/** A kernel reads no more tensors than this. */
export const MOST_READS = 28;
/** Fewer outer points than this leave threads idle, unless the whole is small. */
const FEWEST_ROWS = 16;
const SMALL = 16384;

/** Blocks whose rows are shorter are walked in steps that are too short. */
const NARROWEST_BLOCK = 32;
/** Larger blocks and longer pieces of columns are not kept. */
const LARGEST_BLOCK = 1 << 15;
const LONGEST_COLUMN = 128;

/** The program's kernels in order of execution. */
export function schedule(plan: Roots): Entry[] {
  const { live, roots } = plan;
  const entries: Entry[] = [];
  const position = new Map<Tensor, number>();
  for (const node of live) {
    if (node.op === "input") continue;
    if (isKernel(node)) {
      const at = entries.push({ kind: "kernel", node }) - 1;
      for (const t of node.outputs) position.set(t, at);
      continue;
    }
    for (const tensor of node.outputs) {
      if (!roots.has(tensor)) continue;
      for (const unit of unitsOf(tensor, roots)) {
        const latest = Math.max(-1, ...[...unit.reads].map((t) => position.get(t) ?? -1));
        const at = place(unit, entries, latest, plan);
        position.set(tensor, Math.max(at, position.get(tensor) ?? -1));
      }
    }
  }
  return entries;
}

/** What is computed for a root: itself, or the parts that it is stored in. */
function unitsOf(tensor: Tensor, roots: ReadonlySet<Tensor>): Unit[] {
  const node = nodeOf(tensor);
  if (!storedInParts(node, roots)) {
    const axes = REDUCTIONS.has(node.op) && { axes: node.attrs.axes as number[] };
    return [{ tensor, reads: readsOf(tensor, roots), ...axes }];
  }
  let start = 0;
  return node.inputs.map((part) => {
    // A reshape is the same elements, which are simpler to walk over as they are computed.
    const value = wholeView(part) ?? part;
    const within = { whole: tensor, shape: part.shape, start };
    start += part.shape[node.attrs.axis as number] as number;
    return { tensor: value, within, reads: readsOf(value, roots) };
  });
}

/** The tensor that a unit's values are stored in. */
export function storedIn(unit: Unit): Tensor {
  return unit.within?.whole ?? unit.tensor;
}

/** The tensors that an entry reads. */
export function readIn(entry: Entry, roots: ReadonlySet<Tensor>): Tensor[] {
  return entry.kind === "group"
    ? entry.units.flatMap((u) => [...u.reads])
    : entry.node.inputs.flatMap((_, i) => operandsOf(entry.node, i, roots));
}

/** The tensors that an entry makes. */
export function madeIn(entry: Entry): readonly Tensor[] {
  return entry.kind === "group" ? entry.units.map(storedIn) : entry.node.outputs;
}

function place(unit: Unit, entries: Entry[], latest: number, { roots, cost }: Roots): number {
  const vertical = entries[latest];
  // Every loop over a row computes anew what it takes of the row: what is dear is better loaded.
  const dear =
    unit.axes !== undefined &&
    [...unit.reads].some((t) => t.size > SMALL && !isReduction(t) && (cost.get(t) ?? 0) > DEAR);
  if (vertical?.kind === "group" && !dear && join(unit, vertical, roots)) return latest;
  for (let at = entries.length - 1; at > latest && at >= entries.length - WINDOW; at--) {
    const group = entries[at] as Entry;
    if (group.kind === "group" && sharesWork(unit, group, roots) && join(unit, group, roots))
      return at;
  }
  const outer = outerOf(unit);
  return (
    entries.push({ kind: "group", units: [unit], outer, reduces: unit.axes !== undefined }) - 1
  );
}

function isReduction(t: Tensor): boolean {
  return REDUCTIONS.has(nodeOf(t).op);
}

/**
 * Without a value passed between them, units share a kernel only if they read the same and are alike,
 * or one maps the rows that the other reduces.
 */
export function sharesWork(unit: Unit, group: Group, roots: ReadonlySet<Tensor>): boolean {
  return group.units.some((other) => {
    const alike =
      (unit.axes === undefined) === (other.axes === undefined)
        ? other.tensor.shape.join() === unit.tensor.shape.join() &&
          (unit.axes === undefined || operandKey(unit) === operandKey(other))
        : walkedBy(unit).shape.join() === walkedBy(other).shape.join();
    return (
      alike &&
      [...unit.reads].some(
        (t) =>
          t.size >= unit.tensor.size &&
          t.size > 1 &&
          other.reads.has(t) &&
          overlap(unit, other, t, roots),
      )
    );
  });
}

function operandKey(unit: Unit): string {
  return `${nodeOf(unit.tensor).inputs[0]?.shape.join()}/${unit.axes?.join()}`;
}

/** Adds the unit if it fits; says whether it did. */
export function join(unit: Unit, group: Group, roots: ReadonlySet<Tensor>): boolean {
  const outer = jointOuter(unit, group);
  if (outer === undefined) return false;
  const reads = new Set([...group.units, unit].flatMap((u) => [...u.reads]));
  if (reads.size > MOST_READS) return false;
  const block = blockOf(unit, group);
  const joining = block ? { ...unit, block } : unit;
  const units = [...group.units, joining];
  // A concatenation is whole only when all its parts are stored.
  if (group.units.some((u) => u.within && unit.reads.has(u.within.whole))) return false;
  const inside = new Set(group.units.map((u) => u.tensor));
  if ([...unit.reads].some((t) => inside.has(t)) && !rowLocal(joining, units, outer, roots))
    return false;
  group.units = units;
  group.outer = outer;
  group.reduces ||= unit.axes !== undefined;
  return true;
}

/** The outer extents under which the group and the unit can share a kernel. */
function jointOuter(unit: Unit, group: Group): readonly number[] | undefined {
  const own = outerOf(unit);
  const total = sizeOf(group.outer);
  if (!group.reduces && unit.axes === undefined) {
    return sizeOf(own) === total ? refine(own, group.outer) : undefined;
  }
  if (group.reduces && unit.axes !== undefined) {
    const alike = group.units.some((u) => u.axes && operandKey(u) === operandKey(unit));
    if (!alike && (!trailing(unit) || group.units.some((u) => u.axes && !trailing(u))))
      return undefined;
    return sizeOf(own) === total ? refine(own, group.outer) : undefined;
  }
  // One is element-wise over rows of the other's outer points.
  const reducing = unit.axes ? own : group.outer;
  const mapped = unit.axes ? group.outer : own;
  if (unit.axes && !trailing(unit)) return undefined;
  const rows = sizeOf(reducing);
  if (sizeOf(mapped) % Math.max(1, rows) !== 0) return undefined;
  const inner = sizeOf(mapped) / Math.max(1, rows);
  if (unit.axes && inner > 1 && rows < FEWEST_ROWS && sizeOf(mapped) > SMALL) return undefined;
  if (!unit.axes && inner > 1) {
    if (rows < FEWEST_ROWS && sizeOf(mapped) > SMALL) return undefined;
    if (blockOf(unit, group)) return group.outer;
    if (group.units.some((u) => u.axes && !trailing(u))) return undefined;
  }
  const joint = refine(mapped, inner === 1 ? reducing : [...reducing, inner]);
  if (joint === undefined) return undefined;
  // The refined list up to the row boundary.
  let product = 1;
  let n = 0;
  while (product < rows) product *= joint[n++] as number;
  return product === rows ? joint.slice(0, n) : undefined;
}

/**
 * The axes of an element-wise unit that a group's reductions run over, where these are blocks of rows
 * and columns, or short pieces of columns, of a tensor of its shape: what is computed from a block's
 * maximum is computed beside it.
 */
function blockOf(unit: Unit, group: Group): readonly number[] | undefined {
  const first = group.units.find((u) => u.axes !== undefined);
  if (!getBackend().keepsRows || unit.axes) return undefined;
  if (first?.axes === undefined || trailing(first)) return undefined;
  const { axes } = first;
  const shape = (nodeOf(first.tensor).inputs[0] as Tensor).shape;
  const last = shape.findLastIndex((d) => d !== 1);
  const inside = axes.reduce((n, a) => n * (shape[a] as number), 1);
  const lies = (shape[last] as number) >= NARROWEST_BLOCK;
  const fits = inside <= (axes.includes(last) ? LARGEST_BLOCK : LONGEST_COLUMN);
  return lies && fits && unit.tensor.shape.join() === shape.join() ? axes : undefined;
}

/** Whether a reduction runs over its operand's last axes (extents of 1 aside). */
function trailing(unit: Unit): boolean {
  const shape = (nodeOf(unit.tensor).inputs[0] as Tensor).shape;
  const real = shape.map((_, a) => a).filter((a) => shape[a] !== 1);
  const axes = (unit.axes as readonly number[]).filter((a) => shape[a] !== 1);
  return axes.every((a) => real.indexOf(a) >= real.length - axes.length);
}
