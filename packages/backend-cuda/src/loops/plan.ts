/**
 * How a loop kernel is spread over the chip: which space the lanes of a thread lie in, how many there
 * are, how many threads share an outer point, and into how many pieces a long reduction is cut.
 */
import {
  type DType,
  dtypeBytes,
  type Expr,
  type Index,
  type LoopKernel,
  type Stage,
} from "../contract.ts";
import type { DeviceInfo } from "../kernel.ts";
import { stageLoads, vectorises } from "./body.ts";
import { summedValues, vectorsPerThread } from "./columns.ts";
import { type RowCache, registerLoads, rowCache } from "./kept-loads.ts";
import { onlineSums } from "./online.ts";
import { forEachIndex, lastRun, makeSpace, type Space } from "./space.ts";

export type Load = Extract<Expr, { op: "load" }>;

export interface Spread {
  readonly outer: Space;
  /** The inner space of each stage; undefined where the stage has none. */
  readonly inner: readonly (Space | undefined)[];
  readonly lanes: "outer" | "inner";
  readonly width: number;
  /** Lanes inner: threads per outer point. Lanes outer: threads side by side along the outer space. */
  readonly group: number;
  /** Threads of a block are `across` groups (lanes inner) or rows of threads (lanes outer). */
  readonly across: number;
  /** Pieces that each inner loop is cut into, one block each. */
  readonly pieces: number;
  readonly wide: boolean;
}

export interface Plan extends Spread {
  /** Passes of inner loops that are unrolled, with values kept in registers; 0: ordinary loops. */
  readonly passes: number;
  /** Stages whose sum is made in the loop of the stage before: see online.ts. */
  readonly online: ReadonlySet<number>;
  /** Loads that registers keep between stages. */
  readonly kept: ReadonlySet<Load>;
  /** What shared memory holds of a row that is too long for registers. */
  readonly cache?: RowCache;
}

/** Passes over a piece of a column whose values registers keep. */
const COLUMN_PASSES = 16;

/** An element access: a load or a store. */
interface Access {
  readonly index: Index;
  readonly dtype: DType;
}

function accesses(kernel: LoopKernel, stage: Stage): Access[] {
  const found: Access[] = [];
  for (const load of stageLoads(stage)) {
    found.push({ index: load.index, dtype: kernel.slots[load.slot] as DType });
  }
  for (const { slot, index } of stage.stores) {
    found.push({ index, dtype: kernel.slots[slot] as DType });
  }
  return found;
}

/** Every index of a stage, inside values too. */
export function indicesOf(stage: Stage): Index[] {
  const found: Index[] = [];
  const roots = [
    ...[...stage.reduces, ...stage.columnSums].map((r) => r.value),
    ...stage.stores.flatMap((s) => [s.value, s.index]),
  ];
  forEachIndex(roots, (index) => found.push(index));
  return found;
}

export function planLoop(kernel: LoopKernel, device: DeviceInfo): Plan {
  const spread = spreadLoop(kernel, device);
  const most = unrolledPasses(spread);
  const kept = most > 0 ? registerLoads(kernel, spread, most) : new Set<Load>();
  const passes = spread.lanes === "outer" && kept.size === 0 ? 0 : most;
  // Values in registers are read twice for nothing.
  const long = spread.lanes === "inner" && passes === 0;
  const online = long ? onlineSums(kernel) : new Set<number>();
  const cache = long ? rowCache(kernel, spread, online, device) : undefined;
  return { ...spread, passes, online, kept, ...(cache && { cache }) };
}

function spreadLoop(kernel: LoopKernel, device: DeviceInfo): Spread {
  const outer = makeSpace("o", kernel, kernel.vars.map((_, v) => v).slice(0, kernel.outer));
  // A stage that has inner variables is a loop even where their extents are 1 or 0.
  const inner = kernel.stages.map((stage) =>
    stage.inner.length > 0 ? makeSpace("i", kernel, stage.inner) : undefined,
  );
  const longest = Math.max(0, ...inner.map((space) => space?.total ?? 0));
  const wide = isWide(kernel, outer);
  const common = { outer, inner, wide };

  if (inner.every((space) => space === undefined)) {
    const threads = device.multiprocessors * 256;
    const width = laneWidth(kernel, "outer", outer, inner, Math.ceil(outer.total / threads));
    const group = outer.total / width < threads ? 128 : 256;
    return { ...common, lanes: "outer", width, group, across: 1, pieces: 1 };
  }

  const sums = summedValues(kernel).length;
  const lanes = sums > 0 ? "inner" : chooseLanes(kernel, outer, inner);
  if (lanes === "outer") {
    // Short loops leave registers for wider loads.
    const widest = longest <= 8 ? 8 : 4;
    const width = laneWidth(kernel, lanes, outer, inner, Math.ceil(outer.total / 32), widest);
    const across = longest >= 64 ? 8 : longest > 8 ? 4 : 1;
    const group = across === 1 ? 128 : 32;
    const blocks = Math.ceil(outer.total / (group * width));
    const wanted = Math.ceil((4 * device.multiprocessors) / Math.max(1, blocks));
    const loops = inner.filter((space) => space !== undefined).length;
    // What registers keep from one loop to the next would be read again by every launch.
    const keeps = loops > 1 && longest <= COLUMN_PASSES * across;
    const most = keeps ? 1 : Math.floor(longest / (across * 8));
    const pieces = Math.max(1, Math.min(wanted, most, 512));
    return { ...common, lanes, width, group, across, pieces };
  }

  const width = laneWidth(kernel, lanes, outer, inner, longest);
  const vectors = Math.ceil(longest / width);
  const many = outer.total >= device.multiprocessors * 8;
  const perThread =
    sums > 0 ? vectorsPerThread(rowBytes(kernel, outer, inner), width, sums) : many ? 4 : 1;
  // Eight threads side by side read whole lines of memory.
  const sharing = Math.max(Math.ceil(vectors / perThread), width > 1 ? Math.min(vectors, 8) : 1);
  const group = Math.min(1024, nextPowerOfTwo(Math.max(1, sharing)));
  const blocks = outer.total;
  const wanted = Math.floor((2 * device.multiprocessors) / Math.max(1, blocks));
  // A block that is done in four passes has its sum before other blocks' could be combined.
  const pieces =
    sums === 0 && vectors > 4 * group && wanted > 1
      ? Math.min(wanted, Math.floor(vectors / 512), 512)
      : 1;
  const smaller = pieces > 1 ? 256 : group;
  return {
    ...common,
    lanes,
    width,
    group: smaller,
    across: smaller <= 32 ? 128 / smaller : 1,
    pieces,
  };
}

/** Bytes that the loops read of one row for each of its elements. */
function rowBytes(kernel: LoopKernel, outer: Space, inner: readonly (Space | undefined)[]): number {
  const loads = new Set(
    kernel.stages.flatMap((stage, s) =>
      [...stageLoads(stage)].filter(({ index: { strides } }) => {
        const along = (space?: Space) => space?.vars.some((v) => (strides[v] ?? 0) !== 0);
        return along(outer) && along(inner[s]);
      }),
    ),
  );
  return [...loads].reduce((n, { slot }) => n + dtypeBytes(kernel.slots[slot] as DType), 0);
}

/** Passes when every inner loop is short enough to be unrolled with its values in registers. */
function unrolledPasses({ lanes, inner, width, group, across, pieces }: Spread): number {
  if (pieces > 1) return 0;
  const totals = new Set(inner.flatMap((space) => (space === undefined ? [] : [space.total])));
  if (totals.size !== 1) return 0;
  const [total = 0] = totals;
  if (lanes === "outer") return total <= COLUMN_PASSES * across ? Math.ceil(total / across) : 0;
  const passes = Math.ceil(total / (group * width));
  return passes <= 8 ? passes : 0;
}

function nextPowerOfTwo(n: number): number {
  return 2 ** Math.ceil(Math.log2(n));
}

/**
 * Lanes go along the space in which more of the stages' bytes lie side by side: a result per outer point
 * may well be more than the few numbers that it is the sum of. What does not vary over a space is read
 * once and then cached, so it counts by its own elements.
 */
function chooseLanes(
  kernel: LoopKernel,
  outer: Space,
  inner: readonly (Space | undefined)[],
): "outer" | "inner" {
  let alongInner = 0;
  let alongOuter = 0;
  kernel.stages.forEach((stage, s) => {
    const own = inner[s]?.vars ?? [];
    for (const { index, dtype } of accesses(kernel, stage)) {
      const used = variablesOf(index);
      const bytes = [...outer.vars, ...own].reduce(
        (n, v) => (used.has(v) ? n * (kernel.vars[v] as number) : n),
        dtypeBytes(dtype),
      );
      const space = own.some((v) => used.has(v)) ? inner[s] : undefined;
      if (space && lastRun(index, space).stride === 1) alongInner += bytes;
      else if (lastRun(index, outer).stride === 1) alongOuter += bytes;
      else if (space && index.terms.length > 0) alongInner += bytes; // chosen element by element
    }
  });
  return alongOuter > alongInner ? "outer" : "inner";
}

/** What an index depends on, also through the values that it is computed from: rows that are looked up. */
function variablesOf(index: Index): Set<number> {
  const found = new Set<number>();
  const roots = index.terms.map((t) => t.expr);
  for (const each of [index, ...indicesIn(roots)]) {
    each.strides.forEach((stride, v) => {
      if (stride !== 0) found.add(v);
    });
  }
  return found;
}

function indicesIn(roots: readonly Expr[]): Index[] {
  const found: Index[] = [];
  forEachIndex(roots, (index) => found.push(index));
  return found;
}

/**
 * The most lanes for which every index steps evenly across them and the widest useful access is 16
 * bytes, at most `most` and no more than `enough`.
 */
function laneWidth(
  kernel: LoopKernel,
  lanes: "outer" | "inner",
  outer: Space,
  inner: readonly (Space | undefined)[],
  enough: number,
  most = 16,
): number {
  const even = (width: number) =>
    kernel.stages.every((stage, s) => {
      const space = lanes === "outer" ? outer : inner[s];
      if (space === undefined) return true;
      if (space.total % width !== 0) return false;
      return indicesOf(stage).every((index) => {
        const run = lastRun(index, space);
        return run.size % width === 0;
      });
    });
  const sizes = kernel.stages.flatMap((stage, s) => {
    const own = inner[s];
    const laneSpace = lanes === "outer" ? outer : own;
    const spaces = own === undefined ? [outer] : [outer, own];
    return accesses(kernel, stage)
      .filter(({ index, dtype }) => vectorises(index, dtype, 2, laneSpace, spaces))
      .map(({ dtype }) => dtypeBytes(dtype));
  });
  if (sizes.length === 0) return 1;
  const widest = Math.max(...sizes);
  let width = Math.min(most, 16 / Math.min(...sizes), 32 / widest);
  while (width > 1 && (!even(width) || width > enough)) width /= 2;
  return width;
}

/** Whether an index may pass 2³¹. */
function isWide(kernel: LoopKernel, outer: Space): boolean {
  if (outer.total >= 2 ** 31) return true;
  const far = (index: Index) => {
    let reach = Math.abs(index.offset);
    index.strides.forEach((s, v) => {
      reach += Math.abs(s) * Math.max(0, (kernel.vars[v] ?? 1) - 1);
    });
    for (const t of index.terms) reach += Math.abs(t.stride) * Math.max(0, t.limit - 1);
    return reach >= 2 ** 31;
  };
  return kernel.stages.some((stage) => indicesOf(stage).some(far));
}
