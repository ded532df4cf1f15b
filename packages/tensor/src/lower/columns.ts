/**
 * Sums over rows beside what is computed of each row: the gradient of a norm's weights reads what the
 * gradient of its input reads. Once all groups are known, a group of such sums moves to the rows' group
 * where a backend makes both in one loop.
 */
import { isFloat } from "../dtype.ts";
import { nodeOf } from "../graph.ts";
import { sizeOf } from "../spec.ts";
import { getBackend, type Tensor } from "../tensor.ts";
import { type Entry, type Group, MOST_READS, madeIn, readIn, type Unit } from "./groups.ts";
import { rowLocal } from "./reads.ts";
import { refine, walkedBy } from "./space.ts";

/** Of fewer rows the partial sums of many threads are no less than the rows. */
const FEWEST_ROWS = 1024;
/** Shorter rows are walked in steps that are too short. */
const FEWEST_COLUMNS = 32;

/** The same entries, with sums over rows where the rows are read anyway. */
export function withColumnSums(entries: readonly Entry[], roots: ReadonlySet<Tensor>): Entry[] {
  const most = getBackend().sumsColumns ?? 0;
  if (most === 0) return [...entries];
  let found = [...entries];
  for (const entry of entries) {
    if (entry.kind !== "group") continue;
    const sums = columnUnits(entry);
    const rows = sums.length > 0 && found.find((e) => joins(sums, entry, e, found, roots, most));
    if (!rows) continue;
    const group = rows as Group;
    group.outer = jointRows(sums, group) as readonly number[];
    group.units.push(...sums);
    const moved = new Set(sums.map((u) => u.tensor));
    entry.units = entry.units.filter((u) => !moved.has(u.tensor));
    entry.reduces = false;
    found = found.filter((e) => e !== entry || entry.units.length > 0);
  }
  return found;
}

/**
 * The sums over all but the last axes in a group, and what only rounds one, as they would be in a group
 * of rows; none if the others could not do without them.
 */
function columnUnits(group: Group): Unit[] {
  const reductions = group.units.filter((u) => u.axes !== undefined);
  const leading = ({ tensor, axes = [] }: Unit) => {
    const { op, inputs } = nodeOf(tensor);
    const { shape } = inputs[0] as Tensor;
    const first = Math.max(...axes) + 1;
    return (
      op === "sum" && tensor.dtype === "f32" && sizeOf(shape.slice(first)) === sizeOf(tensor.shape)
    );
  };
  if (reductions.length === 0 || !reductions.every(leading)) return [];
  return group.units.flatMap((u) => {
    const { op, inputs } = nodeOf(u.tensor);
    const sum = u.axes ? u.tensor : op === "cast" ? inputs[0] : undefined;
    const of = reductions.find((r) => r.tensor === sum);
    if (of === undefined || u.within || !isFloat(u.tensor.dtype)) return [];
    return [{ tensor: u.tensor, reads: of.reads, columnsOf: of.tensor }];
  });
}

/** Whether the sums, which are in `from` now, can and should be made beside the rows of a group. */
function joins(
  sums: readonly Unit[],
  from: Group,
  group: Entry,
  entries: readonly Entry[],
  roots: ReadonlySet<Tensor>,
  most: number,
): boolean {
  if (group.kind !== "group" || group === from || !group.units.some((u) => u.axes)) return false;
  const [first] = sums as [Unit];
  const { size } = walkedBy(first);
  const columns = first.tensor.size;
  const rows = size / columns;
  if (rows < FEWEST_ROWS || columns < FEWEST_COLUMNS) return false;
  // Every loop of the group walks over a row of that length.
  const walks = (u: Unit) =>
    !u.block &&
    (walkedBy(u).size === size ? !u.axes || u.tensor.size === rows : walkedBy(u).size === rows);
  if (!group.units.every(walks)) return false;
  // All that is large is read for the rows anyway.
  const known = new Set(group.units.flatMap((u) => [u.tensor, ...u.reads]));
  const large = sums.flatMap((u) => [...u.reads]).filter((t) => 2 * t.size >= size);
  if (large.length === 0 || !large.every((t) => known.has(t))) return false;
  const units = [...group.units, ...sums];
  if (new Set(units.flatMap((u) => [...u.reads])).size > MOST_READS) return false;
  const summed = new Set(units.flatMap((u) => u.columnsOf ?? []));
  if (summed.size * columns > most) return false;
  const outer = jointRows(sums, group);
  return (
    outer !== undefined &&
    inOrder(sums, from, group, entries, roots) &&
    sums.every((u) => rowLocal(u, units, outer, roots))
  );
}

/** Whether what the sums read is there before the group, and what reads them comes after it. */
function inOrder(
  sums: readonly Unit[],
  from: Group,
  group: Group,
  entries: readonly Entry[],
  roots: ReadonlySet<Tensor>,
): boolean {
  const [at, now] = [entries.indexOf(group), entries.indexOf(from)];
  if (now > at) {
    const needed = new Set(sums.flatMap((u) => [...u.reads]));
    return !entries.slice(at + 1, now + 1).some((e) => madeIn(e).some((t) => needed.has(t)));
  }
  const results = new Set(sums.map((u) => u.tensor));
  const others = { ...from, units: from.units.filter((u) => !results.has(u.tensor)) };
  return ![others, ...entries.slice(now + 1, at + 1)].some((entry) =>
    readIn(entry, roots).some((t) => results.has(t)),
  );
}

/** The extents of rows under which the sums fit the group's outer loops. */
function jointRows(sums: readonly Unit[], { outer }: Group): readonly number[] | undefined {
  let joint: readonly number[] | undefined = outer;
  for (const sum of sums) {
    const axes = nodeOf(sum.columnsOf as Tensor).attrs.axes as number[];
    const extents = walkedBy(sum).shape.filter((d, a) => axes.includes(a) && d !== 1);
    if (sizeOf(extents) !== sizeOf(outer)) return undefined;
    joint = joint && refine(extents, joint);
  }
  return joint;
}
