/** Which tensors of a graph get memory of their own; everything else is computed where it is used. */
import { dtypeBytes } from "../dtype.ts";
import { nodeOf } from "../graph.ts";
import { opDef } from "../ops/registry.ts";
import { sizeOf } from "../spec.ts";
import type { Node, Tensor } from "../tensor.ts";
import { sourceOf, viewOf } from "./emit.ts";
import {
  type Joined,
  joined,
  lookedUp,
  operandOf,
  partsOf,
  placeOf,
  type TakenRows,
  takenRows,
} from "./operands.ts";

export const REDUCTIONS: ReadonlySet<string> = new Set(["sum", "reduceMax", "reduceMin"]);

/** Whether a node is lowered to a kernel of its own. */
export function isKernel(node: Node): boolean {
  const def = opDef(node.op);
  return !def.emit && !def.source && !REDUCTIONS.has(node.op) && node.op !== "input";
}

/** Recomputing more than this (in simple operations) costs more than a store and a load. */
const CHEAP = 24;
/** An operation this expensive is not repeated for every element of a broadcast. */
const WORTH_KEEPING = 10;
/** Longest expression of one kernel. */
const LONGEST = 600;

/** Parts of a concatenation whose runs of memory are shorter are not worth a kernel's store each. */
const SHORT_RUN = 16;
/** Parts of so many elements take longer to copy than a kernel takes to start. */
const LONG_PART = 1 << 20;

export interface Roots {
  /** Nodes that the outputs need, in topological order. */
  readonly live: readonly Node[];
  readonly roots: ReadonlySet<Tensor>;
  /** What computing a value from the roots that it needs takes, in simple operations. */
  readonly cost: ReadonlyMap<Tensor, number>;
}

/** @param outputs the program's results; inputs are always roots. */
export function chooseRoots(nodes: readonly Node[], outputs: readonly Tensor[]): Roots {
  const live = liveNodes(nodes, outputs);
  const roots = new Set<Tensor>(outputs);
  const taken: TakenRows[] = [];
  const inParts: Joined[] = [];
  for (const node of live) {
    if (node.op === "input" || REDUCTIONS.has(node.op) || isKernel(node)) {
      for (const t of node.outputs) roots.add(t);
    }
    if (isKernel(node)) {
      node.inputs.forEach((_, i) => {
        const rows = takenRows(node, i);
        const parts = joined(node, i);
        if (rows) taken.push(rows);
        else if (parts) inParts.push(parts);
        else roots.add(operandOf(node, i));
      });
    }
  }
  // Rows that nobody needs in memory are looked up, unless a larger matrix were stored for that alone.
  for (const rows of taken) {
    const [matrix, indices] = lookedUp(rows);
    if (roots.has(rows.rows)) continue;
    if (roots.has(matrix) || matrix.size <= rows.rows.size) roots.add(matrix).add(indices);
    else roots.add(rows.rows);
  }
  // Parts of queries and keys likewise stay apart.
  for (const { whole, parts } of inParts) {
    if (roots.has(whole)) continue;
    const bases = parts.map((t) => placeOf(t).base);
    const fit = bases.every((t, i) => roots.has(t) || t.size <= (parts[i] as Tensor).size);
    for (const t of fit ? bases : [whole]) roots.add(t);
  }

  const uses = countUses(live, roots);
  // A sum that is used in a narrower format alone is stored in that.
  for (const node of live) {
    const [sum, out] = [node.inputs[0], node.outputs[0] as Tensor];
    if (node.op !== "cast" || sum === undefined || !REDUCTIONS.has(nodeOf(sum).op)) continue;
    const narrower = dtypeBytes(out.dtype) < dtypeBytes(sum.dtype);
    if (narrower && uses.get(sum) === 1) roots.add(out);
  }
  // Cost of each value if inlined, and what it loads then: 1 for a tensor of its size, less if smaller.
  const cost = new Map<Tensor, number>();
  const loads = new Map<Tensor, ReadonlyMap<Tensor, number>>();
  for (const node of live) {
    const def = opDef(node.op);
    for (const out of node.outputs) {
      const source = sourceOf(out);
      const inputs = source ? [source] : node.inputs;
      let c = def.cost ?? 0;
      const l = new Map<Tensor, number>();
      for (const t of new Set(inputs)) {
        const repeated = out.size > t.size || node.op === "take";
        if (repeated && !roots.has(t) && (cost.get(t) ?? 0) >= WORTH_KEEPING && t.size > 1)
          roots.add(storedInParts(node, roots) ? out : t);
        if (roots.has(t)) l.set(t, t.size * 8 >= out.size ? 1 : 0.1);
        else {
          c += cost.get(t) ?? 0;
          for (const [root, share] of loads.get(t) ?? []) l.set(root, share);
        }
      }
      cost.set(out, c);
      loads.set(out, l);
      if (source || roots.has(out) || !def.emit) continue;
      const loaded = [...l.values()].reduce((a, b) => a + b, 0);
      const shared = (uses.get(out) ?? 0) > 1 && (loaded >= 2 || c > CHEAP);
      if (!shared && c <= LONGEST) continue;
      const stored = narrowest(out);
      roots.add(stored);
      if (stored === out) continue;
      cost.set(out, def.cost ?? 0);
      loads.set(out, new Map([[stored, 1]]));
    }
  }
  return { live, roots, cost };
}

/**
 * Whether a concatenation, where it is stored, is written part by part: values of one shape that loops
 * compute, or values and pieces of tensors that are long enough for a kernel each. Others are copied by
 * one loop that chooses among them for every element.
 */
export function storedInParts(node: Node, roots: ReadonlySet<Tensor>): boolean {
  if (node.op !== "concat") return false;
  const [first] = node.inputs as [Tensor];
  const run = (t: Tensor) => sizeOf(t.shape.slice(node.attrs.axis as number));
  const computed = (t: Tensor) => !roots.has(viewOf(t)?.base ?? t);
  const long = (t: Tensor) =>
    t.size >= LONG_PART && (computed(t) || viewOf(t)?.base.size !== t.size);
  const alike = (t: Tensor) => t.shape.join() === first.shape.join() && computed(t);
  return (
    node.inputs.every((t) => run(t) >= SHORT_RUN) &&
    (node.inputs.every(long) || node.inputs.every(alike))
  );
}

/** What is only widened on the way to t, and takes less memory: a bf16 value that is used in f32. */
function narrowest(t: Tensor): Tensor {
  let found = t;
  for (let at = t; ; ) {
    const node = nodeOf(at);
    const source = sourceOf(at) ?? (node.op === "cast" ? (node.inputs[0] as Tensor) : undefined);
    if (source === undefined || source.size !== t.size) return found;
    at = source;
    if (opDef(nodeOf(at).op).emit && dtypeBytes(at.dtype) < dtypeBytes(found.dtype)) found = at;
  }
}

function liveNodes(nodes: readonly Node[], outputs: readonly Tensor[]): Node[] {
  const needed = new Set<Node>();
  const stack = outputs.map(nodeOf);
  while (stack.length > 0) {
    const node = stack.pop() as Node;
    if (needed.has(node)) continue;
    needed.add(node);
    // Of a custom node only what its outputs show is needed.
    const skip = node.op === "custom" ? (node.attrs.args as number) : 0;
    for (const t of node.inputs.slice(skip)) stack.push(nodeOf(t));
  }
  // Single numbers made of such alone come first, so that no kernel has to wait for them.
  const early = new Set<Node>();
  for (const node of nodes) {
    const single = node.op === "input" || node.outputs.every((t) => t.size === 1);
    const ready = node.inputs.every((t) => early.has(nodeOf(t)));
    if (needed.has(node) && single && ready && !isKernel(node)) early.add(node);
  }
  return [...early, ...nodes.filter((n) => needed.has(n) && !early.has(n))];
}

/** How many operations read each tensor, looking through shape operations and what is read in parts. */
function countUses(live: readonly Node[], roots: ReadonlySet<Tensor>): Map<Tensor, number> {
  const uses = new Map<Tensor, number>();
  for (const node of [...live].reverse()) {
    for (const out of node.outputs) {
      const source = sourceOf(out);
      if (source) uses.set(source, (uses.get(source) ?? 0) + (uses.get(out) ?? 0));
    }
    if (opDef(node.op).source) continue;
    const read = node.inputs.filter((_, i) => partsOf(node, i, roots) === undefined);
    for (const t of new Set(read)) uses.set(t, (uses.get(t) ?? 0) + 1);
  }
  return uses;
}
