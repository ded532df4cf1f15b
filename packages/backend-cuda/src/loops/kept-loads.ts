/**
 * What a block keeps of the rows that several of its stages read, so that memory is read once: all of a
 * short row in registers, as much of the front of a long one as fits in shared memory. A thread reads
 * back only what it put there itself, so nothing has to be waited for.
 */
import { type DType, dtypeBytes, type LoopKernel } from "../contract.ts";
import type { DeviceInfo } from "../kernel.ts";
import { stageLoads } from "./body.ts";
import { summedValues } from "./columns.ts";
import type { Load, Spread } from "./plan.ts";
import { lastRun } from "./space.ts";

/** The part of a row that is in shared memory. */
export interface RowCache {
  /** Where each load's row begins, in bytes. */
  readonly places: ReadonlyMap<Load, number>;
  /** Elements of the inner space, from its start, that are held. */
  readonly elements: number;
  readonly bytes: number;
}

/** Bytes of shared memory for what the threads of a block exchange. */
const RESERVED = 2048;

/** Loads that more than one loop makes, all of them over the same variables. */
function repeatedLoads(
  kernel: LoopKernel,
  inner: Spread["inner"],
  skipped: ReadonlySet<number> = new Set(),
): Load[] {
  const uses = new Map<Load, string[]>();
  kernel.stages.forEach((stage, s) => {
    const space = inner[s];
    if (space === undefined || skipped.has(s)) return;
    for (const load of stageLoads(stage)) {
      if (!space.vars.some((v) => (load.index.strides[v] ?? 0) !== 0)) continue;
      uses.set(load, [...(uses.get(load) ?? []), space.vars.join()]);
    }
  });
  return [...uses].flatMap(([load, spaces]) =>
    spaces.length > 1 && new Set(spaces).size === 1 ? [load] : [],
  );
}

/** The loads whose values stay in registers through all `passes` of the unrolled loops. */
export function registerLoads(
  kernel: LoopKernel,
  { lanes, outer, inner, width, group }: Spread,
  passes: number,
): Set<Load> {
  // A thread of the largest blocks has 64 registers, and needs half of them for its work.
  let left = 4 * (group === 1024 ? 32 : 64);
  left -= passes * width * 4 * summedValues(kernel).length;
  const kept = new Set<Load>();
  const spaces = lanes === "outer" ? [outer] : inner.filter((space) => space !== undefined);
  // What every point reads the same is in the caches anyway, and comes last.
  const own = ({ index }: Load) => outer.vars.some((v) => (index.strides[v] ?? 0) !== 0);
  const loads = repeatedLoads(kernel, inner);
  for (const load of [...loads.filter(own), ...loads.filter((l) => !own(l))]) {
    // What all lanes read the same is one register in each, and soon read again.
    if (spaces.every((space) => lastRun(load.index, space).stride === 0)) continue;
    left -= passes * width * dtypeBytes(kernel.slots[load.slot] as DType);
    if (left >= 0) kept.add(load);
  }
  return kept;
}

/** @param online stages that have no loop of their own */
export function rowCache(
  kernel: LoopKernel,
  { outer, inner, width, group, across, pieces }: Spread,
  online: ReadonlySet<number>,
  device: DeviceInfo,
): RowCache | undefined {
  if (pieces > 1 || across > 1) return undefined;
  const spaceOf = (load: Load) =>
    inner.find((space) => space?.vars.some((v) => (load.index.strides[v] ?? 0) !== 0));
  // What every row reads the same is in the caches anyway.
  const loads = repeatedLoads(kernel, inner, online).filter((load) =>
    outer.vars.some((v) => (load.index.strides[v] ?? 0) !== 0),
  );
  const row = loads[0] && spaceOf(loads[0]);
  if (row === undefined || loads.some((load) => spaceOf(load) !== row)) return undefined;
  const sizes = loads.map((load) => dtypeBytes(kernel.slots[load.slot] as DType));
  const pass = group * width;
  const fitting = Math.floor(
    (device.sharedPerBlock - RESERVED) / (pass * sizes.reduce((a, b) => a + b)),
  );
  const elements = Math.min(fitting, Math.ceil(row.total / pass)) * pass;
  // A smaller share is not worth the room, of which the first-level cache has the rest.
  if (2 * elements < row.total) return undefined;
  const places = new Map<Load, number>();
  let bytes = 0;
  loads.forEach((load, i) => {
    places.set(load, bytes);
    bytes += elements * (sizes[i] as number);
  });
  return { places, elements, bytes };
}
