/** Which tensors in memory kernels read for their operands. */
import { nodeOf } from "../graph.ts";
import { sizeOf } from "../spec.ts";
import { getBackend, type Node, type Tensor } from "../tensor.ts";
import { type View, viewOf } from "./emit.ts";

/** Operations whose kernels take whole tensors rather than views, and for which operands: [from, to). */
const WHOLE: Readonly<Record<string, readonly [from: number, to: number]>> = {
  topK: [0, Infinity],
  countingSort: [0, Infinity],
  cumsum: [0, Infinity],
  scatter: [0, Infinity],
  groupedRows: [2, 3],
  groupedOuter: [2, 3],
  quantize: [1, 2],
  attention: [3, Infinity],
  attentionGrad: [4, Infinity],
};

/** The tensor that a kernel reads for operand i: what it is a view of, where the kernel takes views. */
export function operandOf(node: Node, i: number): Tensor {
  const t = node.inputs[i] as Tensor;
  const view = viewOf(t);
  if (view === undefined) return t;
  const [from, to] = WHOLE[node.op] ?? [0, 0];
  if (i < from || i >= to) return view.base;
  // Of offsets as many are read as there are runs, and one.
  const offsets = node.op.startsWith("grouped") || node.op === "quantize";
  return (offsets ? startView(t) : wholeView(t)) ?? t;
}

/** The tensor that has the same elements as `t` in the same order, if `t` is a view of one. */
export function wholeView(t: Tensor): Tensor | undefined {
  return viewOf(t)?.base.size === t.size ? startView(t) : undefined;
}

/** The tensor that begins with the elements of `t` in the same order, if `t` is a view of one. */
function startView(t: Tensor): Tensor | undefined {
  const view = viewOf(t);
  if (view === undefined || view.offset !== 0) return undefined;
  return view.strides.join() === contiguous(t.shape).join() ? view.base : undefined;
}

/** Where the elements of `t` lie: in what it is a view of, or in itself. */
export function placeOf(t: Tensor): View {
  return viewOf(t) ?? { base: t, offset: 0, strides: contiguous(t.shape) };
}

/** Strides of elements in order; 0 for axes of extent 1. */
export function contiguous(shape: readonly number[]): number[] {
  return shape.map((d, a) => (d === 1 ? 0 : sizeOf(shape.slice(a + 1))));
}

/** Rows of a matrix that `take` gives. */
export interface TakenRows {
  readonly rows: Tensor;
  /** Its rows are contiguous where it is stored. */
  readonly matrix: Tensor;
  /** i32 [rows] */
  readonly indices: Tensor;
}

/** How operand i is made, if it is rows that the node's kernel can look up in a matrix by itself. */
export function takenRows(node: Node, i: number): TakenRows | undefined {
  const looked =
    node.op === "groupedOuter" ? 2 : ["groupedRows", "quantize"].includes(node.op) ? 1 : 0;
  if (i >= looked || node.attrs.aBlock) return undefined;
  const operand = node.inputs[i] as Tensor;
  const rows = wholeView(operand);
  const take = rows && nodeOf(rows);
  if (take?.op !== "take" || take.attrs.axis !== 0) return undefined;
  const [matrix, indices] = take.inputs as [Tensor, Tensor];
  if (matrix.rank !== 2 || indices.rank !== 1 || rows?.shape.join() !== operand.shape.join())
    return undefined;
  const [extent, width] = matrix.shape as [number, number];
  const apart = width === 1 ? 1 : (viewOf(matrix)?.strides[1] ?? 1);
  return extent > 0 && apart === 1 ? { rows, matrix, indices } : undefined;
}

/** Queries or keys that are two tensors side by side. */
export interface Joined {
  readonly whole: Tensor;
  readonly parts: readonly [first: Tensor, last: Tensor];
}

/** How operand i is made, if it is two parts of a width that the backend's attention can read apart. */
export function joined(node: Node, i: number): Joined | undefined {
  const reads = (node.op === "attention" || node.op === "attentionGrad") && i < 2;
  if (!reads || !getBackend().readsTails) return undefined;
  const operand = node.inputs[i] as Tensor;
  const whole = wholeView(operand) ?? operand;
  const { op, attrs, inputs } = nodeOf(whole);
  if (op !== "concat" || attrs.axis !== 3 || whole.shape.join() !== operand.shape.join())
    return undefined;
  const [first, last, ...more] = inputs as [Tensor, Tensor, ...Tensor[]];
  return more.length === 0 && [first, last].every(aligned)
    ? { whole, parts: [first, last] }
    : undefined;
}

/** What the contract asks of both parts of a width. */
function aligned(part: Tensor): boolean {
  const { offset, strides } = placeOf(part);
  const steps = [offset, ...strides.slice(0, -1)];
  return (
    (part.shape[3] as number) % 16 === 0 &&
    strides[3] === 1 &&
    steps.every((step) => step % 8 === 0)
  );
}

/** The parts that a kernel reads operand i in, given all tensors in memory; undefined if as a whole. */
export function partsOf(
  node: Node,
  i: number,
  roots: ReadonlySet<Tensor>,
): Joined["parts"] | undefined {
  const found = joined(node, i);
  return found && !roots.has(found.whole) ? found.parts : undefined;
}

/** The tensors that a kernel reads for operand i, given all that are in memory. */
export function operandsOf(node: Node, i: number, roots: ReadonlySet<Tensor>): readonly Tensor[] {
  const taken = takenRows(node, i);
  if (taken && !roots.has(taken.rows)) return lookedUp(taken);
  const parts = partsOf(node, i, roots);
  return parts ? parts.map((t) => placeOf(t).base) : [operandOf(node, i)];
}

/** The tensors in memory behind rows that are looked up. */
export function lookedUp({ matrix, indices }: TakenRows): readonly [matrix: Tensor, ids: Tensor] {
  return [viewOf(matrix)?.base ?? matrix, wholeView(indices) ?? indices];
}
