/** From a recorded graph to a program: fusion, scheduling, donation and the memory plan. */
import type { BufferSpec, Program, Step } from "../backend.ts";
import { dtypeBytes } from "../dtype.ts";
import { type Graph, nodeOf } from "../graph.ts";
import { describe } from "../spec.ts";
import type { Tensor } from "../tensor.ts";
import { withColumnSums } from "./columns.ts";
import { type Entry, readIn, schedule, storedIn } from "./groups.ts";
import { lowerKernel, trafficOf } from "./kernels.ts";
import { lowerGroup } from "./loops.ts";
import { updatesInPlace } from "./merge.ts";
import { wholeView } from "./operands.ts";
import { planMemory } from "./plan.ts";
import { chooseRoots, type Roots } from "./roots.ts";
import { withRowsTogether } from "./rows.ts";
import { walkedBy } from "./space.ts";

interface Draft {
  readonly step: Omit<Step, "buffers">;
  readonly bound: readonly Tensor[];
}

/**
 * @param inputs symbols in the order of the program's inputs.
 * @param results distinct; one that is an input itself must be donated.
 * @param donated inputs whose memory results may take over.
 */
export function lower(
  name: string,
  graph: Graph,
  inputs: readonly Tensor[],
  results: readonly Tensor[],
  donated: ReadonlySet<Tensor>,
): Program {
  const outputs = storedAs(results, donated);
  const plan = chooseRoots(graph.nodes, outputs);
  const drafts = draftSteps(entriesOf(plan), plan.roots, new Set(outputs));

  // First and last step of every tensor in memory.
  const first = new Map<Tensor, number>();
  const last = new Map<Tensor, number>();
  drafts.forEach(({ bound }, step) => {
    for (const t of bound) {
      if (!first.has(t)) first.set(t, step);
      last.set(t, step);
    }
  });

  const alias = aliases(inputs, outputs, donated, drafts, first, last);
  const isIO = new Set([...inputs, ...outputs]);
  const temps = [...first.keys()].filter((t) => !isIO.has(t));
  const { offsets, total } = planMemory(
    temps.map((t) => ({
      bytes: bytesOf(t),
      from: first.get(t) as number,
      to: last.get(t) as number,
    })),
  );

  const id = new Map<Tensor, number>();
  const buffers: BufferSpec[] = [];
  const add = (t: Tensor, role: object) => {
    const spec = { dtype: t.dtype, elements: t.size, bytes: bytesOf(t), ...role } as BufferSpec;
    const number = buffers.push(spec) - 1;
    if (!id.has(t)) id.set(t, number);
  };
  for (const t of inputs) add(t, { role: "input" });
  for (const t of outputs) {
    const taken = alias.get(t);
    add(t, { role: "output", ...(taken && { alias: id.get(taken) }) });
  }
  temps.forEach((t, i) => {
    add(t, { role: "temp", offset: offsets[i] });
  });
  return {
    name,
    buffers,
    inputs: inputs.length,
    outputs: outputs.length,
    steps: drafts.map(({ step, bound }) => ({
      ...step,
      buffers: bound.map((t) => id.get(t) as number),
    })),
    scratchBytes: total,
  };
}

function entriesOf(plan: Roots): Entry[] {
  return withColumnSums(withRowsTogether(schedule(plan), plan.roots), plan.roots);
}

/**
 * What each result is in memory. A reshape of a whole tensor is the same bytes, so that tensor is
 * stored in its place, unless it is a result already or memory that stays the caller's.
 */
function storedAs(results: readonly Tensor[], donated: ReadonlySet<Tensor>): Tensor[] {
  const taken = new Set(results);
  return results.map((result) => {
    const base = wholeView(result);
    if (base === undefined || taken.has(base)) return result;
    if (nodeOf(base).op === "input" && !donated.has(base)) return result;
    taken.add(base);
    return base;
  });
}

function bytesOf(t: Tensor): number {
  return t.size * dtypeBytes(t.dtype);
}

function draftSteps(
  entries: readonly Entry[],
  roots: ReadonlySet<Tensor>,
  outputs: ReadonlySet<Tensor>,
): Draft[] {
  // Roots that another entry reads (or the caller): only these are stored.
  const readBy = new Map<Tensor, Set<Entry>>();
  for (const entry of entries) {
    for (const t of readIn(entry, roots)) {
      let readers = readBy.get(t);
      if (readers === undefined) {
        readers = new Set();
        readBy.set(t, readers);
      }
      readers.add(entry);
    }
  }
  const drafts: Draft[] = [];
  for (const entry of entries) {
    if (entry.kind === "kernel") {
      const out = entry.node.outputs[0] as Tensor;
      const wanted = (t: Tensor) => outputs.has(t) || readBy.has(t);
      const { kernel, bound, writes, flops } = lowerKernel(entry.node, roots, wanted);
      if (entry.node.outputs.every((t) => t.size === 0)) continue;
      const label = `${entry.node.op} ${describe(out)}`;
      drafts.push({ step: { kernel, writes, label, flops, traffic: trafficOf(bound) }, bound });
      continue;
    }
    const stored = (t: Tensor) =>
      outputs.has(t) || [...(readBy.get(t) ?? [])].some((reader) => reader !== entry);
    const { kernel, bound, writes } = lowerGroup(entry, roots, stored);
    if (writes.length === 0 || writes.every((w) => (bound[w] as Tensor).size === 0)) continue;
    const written = entry.units.filter((u) => stored(storedIn(u))).map((u) => u.tensor);
    const label = groupLabel(written);
    const traffic = trafficOf([...bound.filter((_, s) => !writes.includes(s)), ...written]);
    const flops = entry.units.reduce((n, unit) => n + walkedBy(unit).size, 0);
    drafts.push({ step: { kernel, writes, label, flops, traffic }, bound });
  }
  return drafts;
}

function groupLabel(stored: readonly Tensor[]): string {
  const ops = [...new Set(stored.map((t) => nodeOf(t).op))];
  const big = stored.reduce((a, b) => (b.size > a.size ? b : a));
  return `${ops.slice(0, 4).join("+")} ${describe(big)}`;
}

/**
 * Which donated input each output takes over. Safe when nothing reads the input after the output's
 * first write, nor in the same kernel except at the element being written.
 */
function aliases(
  inputs: readonly Tensor[],
  outputs: readonly Tensor[],
  donated: ReadonlySet<Tensor>,
  drafts: readonly Draft[],
  first: ReadonlyMap<Tensor, number>,
  last: ReadonlyMap<Tensor, number>,
): Map<Tensor, Tensor> {
  const alias = new Map<Tensor, Tensor>();
  const free = inputs.filter((t) => donated.has(t));
  const take = (out: Tensor, input: Tensor) => {
    alias.set(out, input);
    free.splice(free.indexOf(input), 1);
  };
  for (const out of outputs) if (inputs.includes(out)) take(out, out);
  for (const out of outputs) {
    if (alias.has(out)) continue;
    const written = first.get(out) ?? -1;
    const fits = free.filter((t) => {
      if (outputs.includes(t) || t.size !== out.size || t.dtype !== out.dtype) return false;
      const read = last.get(t) ?? -1;
      if (read !== written) return read < written;
      return readInPlace(drafts[written] as Draft, t, out);
    });
    // The input that is updated in the very kernel is most likely the one meant.
    const choice = fits.find((t) => last.get(t) === written) ?? fits[0];
    if (choice !== undefined) take(out, choice);
  }
  return alias;
}

function readInPlace(draft: Draft, input: Tensor, out: Tensor): boolean {
  const { kernel } = draft.step;
  const [reads, write] = [draft.bound.indexOf(input), draft.bound.indexOf(out)];
  if (kernel.kind === "loop") return updatesInPlace(kernel, reads, write);
  if (kernel.kind !== "scatter") return false;
  return kernel.base === reads && kernel.indices !== reads && kernel.updates !== reads;
}
