/** From the graph's matrix products, attention, sorts and scatters to kernels over strided views. */
import type {
  AttentionShape,
  HeadsView,
  Kernel,
  MatrixView,
  RowLookup,
  SplitHeadsView,
} from "../backend.ts";
import { type DType, dtypeBytes } from "../dtype.ts";
import { sizeOf } from "../spec.ts";
import type { Node, Tensor } from "../tensor.ts";
import { contiguous, lookedUp, operandOf, partsOf, placeOf, takenRows } from "./operands.ts";

export interface LoweredKernel {
  readonly kernel: Kernel;
  readonly bound: readonly Tensor[];
  readonly writes: readonly number[];
  readonly flops: number;
}

/** Collects the tensors that a kernel's slots stand for. */
class Slots {
  readonly bound: Tensor[] = [];
  readonly writes: number[] = [];
  readonly #roots: ReadonlySet<Tensor>;
  /** Whether anything reads a result of the kernel. */
  readonly wanted: (t: Tensor) => boolean;

  constructor(roots: ReadonlySet<Tensor>, wanted: (t: Tensor) => boolean) {
    this.#roots = roots;
    this.wanted = wanted;
  }

  of(t: Tensor): number {
    const known = this.bound.indexOf(t);
    return known >= 0 ? known : this.bound.push(t) - 1;
  }

  output(t: Tensor): number {
    const slot = this.of(t);
    this.writes.push(slot);
    return slot;
  }

  view(t: Tensor): { slot: number; dtype: DType; offset: number; strides: readonly number[] } {
    const { base, offset, strides } = placeOf(t);
    return { slot: this.of(base), dtype: t.dtype, offset, strides };
  }

  matrix(t: Tensor, scale?: Tensor, block?: readonly [number, number]): MatrixView {
    const { slot, dtype, offset, strides } = this.view(t);
    const plain = { slot, dtype, offset, ...matrixStrides(strides) };
    if (scale === undefined || block === undefined) return plain;
    const s = this.view(scale);
    if (s.offset !== 0)
      throw new Error("internal: block scales must start at the beginning of a tensor");
    return { ...plain, scale: { slot: s.slot, block, ...matrixStrides(s.strides) } };
  }

  /** Operand i of a grouped product, whose rows may have to be looked up. */
  rows(node: Node, i: number): { view: MatrixView; lookup?: RowLookup } {
    const taken = takenRows(node, i);
    if (taken === undefined || this.#roots.has(taken.rows))
      return { view: this.matrix(at(node.inputs, i)) };
    const [, indices] = lookedUp(taken);
    const extent = taken.matrix.shape[0] as number;
    return { view: this.matrix(taken.matrix), lookup: { slot: this.of(indices), extent } };
  }

  heads(t: Tensor): HeadsView {
    const { slot, dtype, offset, strides } = this.view(t);
    return { slot, dtype, offset, strides: strides as unknown as HeadsView["strides"] };
  }

  /** Operand i of attention, whose last columns may lie elsewhere. */
  splitHeads(node: Node, i: number): SplitHeadsView {
    const parts = partsOf(node, i, this.#roots);
    if (parts === undefined) return this.heads(at(node.inputs, i));
    const [first, last] = parts;
    return { ...this.heads(first), tail: { ...this.heads(last), from: first.shape[3] as number } };
  }
}

function matrixStrides(strides: readonly number[]) {
  return {
    batch: strides.slice(0, -2),
    row: strides.at(-2) as number,
    col: strides.at(-1) as number,
  };
}

const at = (list: readonly Tensor[], i: number): Tensor => list[i] as Tensor;

type Lower = (node: Node, s: Slots) => { kernel: Kernel; flops?: number };

const LOWER: Record<string, Lower> = {
  matmul(node, s) {
    const [a, b] = [at(node.inputs, 0), at(node.inputs, 1)];
    const out = at(node.outputs, 0);
    const { aBlock, bBlock } = node.attrs as {
      aBlock?: [number, number];
      bBlock?: [number, number];
    };
    const scales = node.inputs.slice(2);
    const batch = a.shape.slice(0, -2);
    const [m, k] = a.shape.slice(-2) as [number, number];
    const n = b.shape.at(-1) as number;
    const kernel: Kernel = {
      kind: "matmul",
      batch,
      m,
      n,
      k,
      a: s.matrix(a, aBlock && scales.shift(), aBlock),
      b: s.matrix(b, bBlock && scales.shift(), bBlock),
      out: {
        slot: s.output(out),
        dtype: out.dtype,
        offset: 0,
        ...matrixStrides(contiguous(out.shape)),
      },
    };
    return { kernel, flops: 2 * sizeOf(batch) * m * n * k };
  },
  groupedRows(node, s) {
    const [x, w] = node.inputs as [Tensor, Tensor];
    const out = at(node.outputs, 0);
    const [rows, k] = x.shape as [number, number];
    const [groups, , n] = w.shape as [number, number, number];
    const { aBlock, bBlock } = node.attrs as {
      aBlock?: [number, number];
      bBlock?: [number, number];
    };
    const scales = node.inputs.slice(3);
    const a = aBlock ? { view: s.matrix(x, scales.shift(), aBlock) } : s.rows(node, 0);
    const kernel: Kernel = {
      kind: "groupedMatmul",
      form: "rows",
      groups,
      rows,
      k,
      n,
      offsets: s.of(operandOf(node, 2)),
      a: a.view,
      b: s.matrix(w, bBlock && scales.shift(), bBlock),
      out: {
        slot: s.output(out),
        dtype: out.dtype,
        offset: 0,
        ...matrixStrides(contiguous(out.shape)),
      },
      ...(a.lookup && { aRows: a.lookup }),
    };
    return { kernel, flops: 2 * rows * k * n };
  },
  groupedOuter(node, s) {
    const [x, y] = node.inputs as [Tensor, Tensor];
    const { aBlock, bBlock } = node.attrs as {
      aBlock?: [number, number];
      bBlock?: [number, number];
    };
    const scales = node.inputs.slice(3);
    const a = aBlock ? { view: s.matrix(x, scales.shift(), aBlock) } : s.rows(node, 0);
    const b = bBlock ? { view: s.matrix(y, scales.shift(), bBlock) } : s.rows(node, 1);
    const out = at(node.outputs, 0);
    const [groups, k, n] = out.shape as [number, number, number];
    const rows = at(node.inputs, 0).shape[0] as number;
    const kernel: Kernel = {
      kind: "groupedMatmul",
      form: "groups",
      groups,
      rows,
      k,
      n,
      offsets: s.of(operandOf(node, 2)),
      a: a.view,
      b: b.view,
      out: {
        slot: s.output(out),
        dtype: out.dtype,
        offset: 0,
        ...matrixStrides(contiguous(out.shape)),
      },
      ...(a.lookup && { aRows: a.lookup }),
      ...(b.lookup && { bRows: b.lookup }),
    };
    return { kernel, flops: 2 * rows * k * n };
  },
  attention(node, s) {
    const v = at(node.inputs, 2);
    const [o, lse] = node.outputs as [Tensor, Tensor];
    const shape = attentionShape(node, 3, s);
    const kernel: Kernel = {
      kind: "attention",
      ...shape,
      q: s.splitHeads(node, 0),
      k: s.splitHeads(node, 1),
      v: s.heads(v),
      out: outputHeads(o, s),
      lse: s.output(lse),
    };
    return { kernel, flops: attentionFlops(shape) };
  },
  attentionGrad(node, s) {
    const [, , v, o, , g] = node.inputs as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor];
    const [dq, dk, dv] = node.outputs as [Tensor, Tensor, Tensor];
    const shape = attentionShape(node, 6, s);
    const kernel: Kernel = {
      kind: "attentionGrad",
      ...shape,
      q: s.splitHeads(node, 0),
      k: s.splitHeads(node, 1),
      v: s.heads(v),
      out: s.heads(o),
      dout: s.heads(g),
      lse: s.of(operandOf(node, 4)),
      dq: outputHeads(dq, s),
      dk: outputHeads(dk, s),
      dv: outputHeads(dv, s),
    };
    return { kernel, flops: 2.5 * attentionFlops(shape) };
  },
  topK(node, s) {
    const x = at(node.inputs, 0);
    const n = x.shape.at(-1) as number;
    const kernel: Kernel = {
      kind: "topK",
      rows: x.size / Math.max(1, n),
      n,
      k: node.attrs.k as number,
      input: s.of(operandOf(node, 0)),
      values: s.output(at(node.outputs, 0)),
      indices: s.output(at(node.outputs, 1)),
    };
    return { kernel };
  },
  countingSort(node, s) {
    const ids = at(node.inputs, 0);
    const kernel: Kernel = {
      kind: "countingSort",
      n: ids.size,
      buckets: node.attrs.buckets as number,
      ids: s.of(operandOf(node, 0)),
      order: s.output(at(node.outputs, 0)),
      rank: s.output(at(node.outputs, 1)),
      offsets: s.output(at(node.outputs, 2)),
    };
    return { kernel };
  },
  cumsum(node, s) {
    const x = at(node.inputs, 0);
    const axis = node.attrs.axis as number;
    const kernel: Kernel = {
      kind: "cumsum",
      outer: sizeOf(x.shape.slice(0, axis)),
      n: x.shape[axis] as number,
      inner: sizeOf(x.shape.slice(axis + 1)),
      input: s.of(operandOf(node, 0)),
      output: s.output(at(node.outputs, 0)),
      dtype: x.dtype,
    };
    return { kernel };
  },
  scatter(node, s) {
    const [base, indices] = node.inputs as [Tensor, Tensor, Tensor];
    const baseRows = base.shape[0] as number;
    const kernel: Kernel = {
      kind: "scatter",
      mode: node.attrs.mode as "set" | "add",
      baseRows,
      rows: indices.size,
      width: sizeOf(base.shape.slice(1)),
      dtype: base.dtype,
      base: s.of(operandOf(node, 0)),
      indices: s.of(operandOf(node, 1)),
      updates: s.of(operandOf(node, 2)),
      out: s.output(at(node.outputs, 0)),
    };
    return { kernel };
  },
  quantize(node, s) {
    const x = at(node.inputs, 0);
    const [rows, width] = x.shape as [number, number];
    const { view, lookup } = s.rows(node, 0);
    const [values, scale, turned, turnedScale, starts] = node.outputs as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor?,
    ];
    const slots = (values: Tensor, scale: Tensor) =>
      (s.wanted(values) || s.wanted(scale)) && { values: s.output(values), scale: s.output(scale) };
    const alongRows = slots(values, scale);
    const columns = slots(turned, turnedScale);
    const runs = columns &&
      starts && {
        groups: starts.size - 1,
        offsets: s.of(operandOf(node, 1)),
        starts: s.output(starts),
      };
    const kernel: Kernel = {
      kind: "quantize",
      rows,
      width,
      x: view,
      ...(lookup && { xRows: lookup }),
      ...(alongRows && { alongRows }),
      ...(columns && {
        alongColumns: { ...columns, length: turned.shape[1] as number, ...(runs && { runs }) },
      }),
    };
    return { kernel };
  },
};

function outputHeads(t: Tensor, s: Slots): HeadsView {
  const [, time, heads, width] = t.shape as [number, number, number, number];
  return {
    slot: s.output(t),
    dtype: t.dtype,
    offset: 0,
    strides: [time * heads * width, heads * width, width, 1],
  };
}

function attentionShape(node: Node, extra: number, s: Slots): AttentionShape {
  const [q, k, v] = node.inputs as [Tensor, Tensor, Tensor];
  const [batch, queries, heads, qkWidth] = q.shape as [number, number, number, number];
  const names = node.attrs.extra as string[];
  const slot = (name: string) => {
    const i = names.indexOf(name);
    return i < 0 ? undefined : s.of(operandOf(node, extra + i));
  };
  const lengths = slot("lengths");
  const segments = slot("segments");
  const table = slot("pages");
  const perPage = k.shape[1] as number;
  const pages = table === undefined ? undefined : { slot: table, pageSize: perPage };
  return {
    batch,
    queries,
    keys: pages
      ? perPage * (at(node.inputs, extra + names.indexOf("pages")).shape[1] as number)
      : perPage,
    heads,
    keyHeads: k.shape[2] as number,
    qkWidth,
    vWidth: v.shape[3] as number,
    scale: node.attrs.scale as number,
    causal: node.attrs.causal as boolean,
    ...(lengths !== undefined && { lengths }),
    ...(segments !== undefined && { segments }),
    ...(pages && { pages }),
  };
}

function attentionFlops(a: AttentionShape): number {
  const pairs =
    a.batch * a.heads * a.queries * a.keys * (a.causal && a.queries === a.keys ? 0.5 : 1);
  return 2 * pairs * (a.qkWidth + a.vWidth);
}

/**
 * @param roots the tensors in memory.
 * @param wanted whether anything reads a result; a kernel of several may leave out what nobody reads.
 */
export function lowerKernel(
  node: Node,
  roots: ReadonlySet<Tensor>,
  wanted: (t: Tensor) => boolean,
): LoweredKernel {
  const lower = LOWER[node.op];
  if (lower === undefined) throw new Error(`internal: no kernel for ${node.op}`);
  const slots = new Slots(roots, wanted);
  const { kernel, flops = 0 } = lower(node, slots);
  return { kernel, bound: slots.bound, writes: slots.writes, flops };
}

/** Bytes that a kernel reads and writes at least, each buffer once. */
export function trafficOf(bound: readonly Tensor[]): number {
  return bound.reduce((n, t) => n + t.size * dtypeBytes(t.dtype), 0);
}
