/**
 * The actions of one dense product and the workspace that they share: operands brought into a form that
 * cuBLASLt takes, its calls, and loops that finish what it left.
 */
import { type DType, dtypeBytes, type MatmulKernel, type MatrixView } from "../contract.ts";
import type { Action, DeviceInfo, Gemm, GemmOperand, Launch, Lowered, Place } from "../kernel.ts";
import { type Element, elementwise } from "../loops/elementwise.ts";
import { transposeBytes } from "./transpose-bytes.ts";

/** Most products that one kernel may be split into when its batch axes don't fit one stride. */
const MOST_PRODUCTS = 64;

export interface Fp8Scales {
  readonly a?: "vec128" | "blk128";
  readonly b?: "vec128" | "blk128";
}

/** How the library can take two FP8 operands as they are; undefined when it can't. */
export function fp8Scales({ a, b, batch, m, n, k, out, add }: MatmulKernel): Fp8Scales | undefined {
  const both5 = a.dtype === "f8e5m2" && b.dtype === "f8e5m2";
  const aligned = (view: MatrixView, leading: number) =>
    view.offset % 16 === 0 && leading % 16 === 0 && view.batch.every((s) => s % 16 === 0);
  if (both5 || a.col !== 1 || b.row !== 1 || k % 16 !== 0 || n % 16 !== 0) return undefined;
  if (!aligned(a, a.row) || !aligned(b, b.col) || a.row < k || b.col < k) return undefined;
  if (out.dtype !== "bf16" && out.dtype !== "f32" && out.dtype !== "f16") return undefined;
  if (a.scale === undefined && b.scale === undefined) return {};
  if (a.scale === undefined || b.scale === undefined || batch.length > 0 || add) return undefined;
  // The first number of a block goes along the operand's own rows: along m for a, along k for b.
  const modeOf = (along: number, across: number, size: number) =>
    along === 128 && across === 1 && size % 4 === 0
      ? "vec128"
      : along === 128 && across === 128
        ? "blk128"
        : undefined;
  const modeA = modeOf(a.scale.block[1], a.scale.block[0], m);
  const modeB = modeOf(b.scale.block[0], b.scale.block[1], n);
  if (k % 128 !== 0 || modeA === undefined || modeB === undefined) return undefined;
  if (modeA === "blk128" && modeB === "blk128") return undefined;
  return { a: modeA, b: modeB };
}

export function element(view: MatrixView): Element {
  return {
    slot: view.slot,
    dtype: view.dtype,
    offset: view.offset,
    strides: [...view.batch, view.row, view.col],
  };
}

type Terms = readonly (readonly Element[])[];
export const zero: Terms = [];

/** A view's values: elements, times scales. */
export function whole(view: MatrixView): readonly Element[] {
  const { scale } = view;
  if (scale === undefined) return [element(view)];
  return [
    element(view),
    {
      slot: scale.slot,
      dtype: "f32",
      offset: 0,
      strides: [...scale.batch, scale.row, scale.col],
      blocks: [...scale.batch.map(() => 1), ...scale.block],
    },
  ];
}

/** A view whose memory is in the workspace has this slot added to its byte offset. */
const WORKSPACE = 1 << 20;

/** Collects the actions of one product and lays out its workspace. */
export class Workspace {
  readonly #device: DeviceInfo;
  readonly #actions: Action[] = [];
  readonly #sources: string[] = [];
  readonly #places: number[] = [];
  #bytes = 0;

  constructor(device: DeviceInfo) {
    this.#device = device;
  }

  lowered(): Lowered {
    return {
      source: this.#sources.join("\n"),
      launches: this.#actions,
      workspace: this.#bytes,
    };
  }

  /** A contiguous matrix (or a batch of them) in the workspace. */
  temporary(batch: readonly number[], rows: number, columns: number, dtype: DType): MatrixView {
    const place = this.#reserve(
      batch.reduce((a, b) => a * b, 1) * rows * columns * dtypeBytes(dtype),
    );
    let stride = rows * columns;
    const strides = batch.map(() => 0);
    for (let i = batch.length - 1; i >= 0; i--) {
      strides[i] = stride;
      stride *= batch[i] as number;
    }
    return { slot: place, dtype, offset: 0, batch: strides, row: columns, col: 1 };
  }

  #reserve(bytes: number): number {
    const place = WORKSPACE + this.#places.length;
    this.#places.push(this.#bytes);
    this.#bytes += Math.ceil(bytes / 256) * 256;
    return place;
  }

  place(slot: number, offsetBytes: number): Place {
    if (slot < WORKSPACE) return { slot, offset: offsetBytes };
    return { workspace: (this.#places[slot - WORKSPACE] as number) + offsetBytes };
  }

  /** A kernel of the caller's; slots of views in the workspace are known. */
  kernel(source: string, launch: Launch): void {
    this.#sources.push(source);
    this.#launch(launch);
  }

  #launch(launch: Launch): void {
    const args = launch.args.map((arg) =>
      "slot" in arg ? this.place(arg.slot, arg.offset ?? 0) : arg,
    );
    this.#actions.push({ ...launch, args });
  }

  /** out = Σ over terms of the product of the term's factors. */
  element(shape: readonly number[], terms: Terms | readonly Element[], out: Element): void {
    const sum = (terms.length > 0 && !Array.isArray(terms[0]) ? [terms] : terms) as Terms;
    const lowered = elementwise(shape, sum, out, this.#device, `part${this.#sources.length}_`);
    this.#sources.push(lowered.source);
    for (const launch of lowered.launches) this.#launch(launch);
  }

  /**
   * An FP8 product whose operands lie along the contraction, as the tensor cores read them, where the
   * library takes it then: an operand that lies across is copied.
   */
  alongContraction(kernel: MatmulKernel): MatmulKernel {
    const { a, b, batch, m, n, k } = kernel;
    const turnA = a.row === 1 && a.col !== 1;
    const turnB = b.col === 1 && b.row !== 1;
    if (batch.length > 0 || !(turnA || turnB)) return kernel;
    const dense = { offset: 0, batch: [] };
    const turned = {
      ...kernel,
      a: turnA ? { ...a, ...dense, row: k, col: 1 } : a,
      b: turnB ? { ...b, ...dense, row: 1, col: k } : b,
    };
    if (fp8Scales(turned) === undefined) return kernel;
    const copy = (view: MatrixView, leading: number, columns: number): number => {
      const slot = this.#reserve(k * columns);
      const { source, launch } = transposeBytes(
        {
          ...{ from: this.place(view.slot, view.offset), to: this.place(slot, 0) },
          ...{ batch: 1, rows: k, columns, leading, stride: 0 },
        },
        `turn${this.#sources.length}`,
      );
      this.#sources.push(source);
      this.#actions.push(launch);
      return slot;
    };
    return {
      ...turned,
      a: turnA ? { ...turned.a, slot: copy(a, a.col, m) } : a,
      b: turnB ? { ...turned.b, slot: copy(b, b.row, n) } : b,
    };
  }

  /** The view itself where the library takes it, a converted copy otherwise. */
  operand(
    view: MatrixView,
    batch: readonly number[],
    rows: number,
    columns: number,
    dtype: DType,
  ): MatrixView {
    const straight = view.col === 1 && (view.row >= columns || rows === 1);
    const transposed = view.row === 1 && (view.col >= rows || columns === 1);
    // An operand of one row or column that steps through memory is as good as a transposed one.
    if (view.dtype === dtype && view.scale === undefined && (straight || transposed)) return view;
    if (transposed && !straight && view.scale === undefined) {
      // Converted as it lies: a copy that transposes takes several times as long.
      const { row, col } = view;
      const copy = this.operand({ ...view, row: col, col: row }, batch, columns, rows, dtype);
      return { ...copy, row: copy.col, col: copy.row };
    }
    // Axes that only repeat are not written out.
    const kept = batch.map((size, i) =>
      view.batch[i] === 0 && scaleStride(view, i) === 0 ? 1 : size,
    );
    const copy = this.temporary(kept, rows, columns, dtype);
    const strides = copy.batch.map((s, i) => (kept[i] === 1 ? 0 : s));
    this.element([...kept, rows, columns], whole(view), element(copy));
    return { ...copy, batch: strides };
  }

  products(
    batch: readonly number[],
    m: number,
    n: number,
    k: number,
    a: MatrixView,
    b: MatrixView,
    c: MatrixView | undefined,
    d: MatrixView,
    scales: Fp8Scales | undefined,
  ): void {
    const views = [a, b, d, ...(c ? [c] : [])];
    // The longest run of last batch axes that has one stride for every operand.
    let from = batch.length;
    let size = 1;
    while (from > 0) {
      const next = from - 1;
      const fits = views.every(
        (v) =>
          from === batch.length ||
          v.batch[next] === (v.batch[from] as number) * (batch[from] as number),
      );
      if (!fits) break;
      size *= batch[next] as number;
      from = next;
    }
    const outer = batch.slice(0, from);
    const products = outer.reduce((x, y) => x * y, 1);
    if (products > MOST_PRODUCTS) {
      throw new RangeError(
        `a matrix product over batch [${batch}] whose operands share no common strides would take ` +
          `${products} library calls; make the operands contiguous first`,
      );
    }
    const scaleOf = (view: MatrixView, mode: "vec128" | "blk128" | undefined, along: boolean) =>
      mode === undefined
        ? undefined
        : this.#scales(view, mode, along ? k : k, view === a ? m : n, view === a);
    const scaleA = scaleOf(a, scales?.a, true);
    const scaleB = scaleOf(b, scales?.b, false);
    for (let p = 0; p < products; p++) {
      const at = (view: MatrixView): number => {
        let rest = p;
        let offset = view.offset;
        for (let i = from - 1; i >= 0; i--) {
          offset += (rest % (outer[i] as number)) * (view.batch[i] as number);
          rest = Math.floor(rest / (outer[i] as number));
        }
        return offset;
      };
      const operand = (view: MatrixView, rows: number, columns: number): GemmOperand => {
        const transposed = !(view.col === 1 && (view.row >= columns || rows === 1));
        const least = transposed ? rows : columns;
        return {
          at: this.place(view.slot, at(view) * dtypeBytes(view.dtype)),
          dtype: view.dtype,
          transposed,
          leading: Math.max(least, transposed ? view.col : view.row),
          batchStride: size > 1 ? (view.batch.at(-1) as number) : 0,
        };
      };
      const gemm: Gemm = {
        m,
        n,
        k,
        batch: size,
        a: { ...operand(a, m, k), ...(scaleA ? { scale: scaleA } : {}) },
        b: { ...operand(b, k, n), ...(scaleB ? { scale: scaleB } : {}) },
        ...(c ? { c: operand(c, m, n) } : {}),
        d: operand(d, m, n),
      };
      this.#actions.push({ gemm });
    }
  }

  /**
   * Block scales in the library's order: for 1×128 blocks the rows (or columns) of the operand side by
   * side for each block of k, for 128×128 the blocks of k side by side, their count rounded up to 4.
   */
  #scales(
    view: MatrixView,
    mode: "vec128" | "blk128",
    k: number,
    size: number,
    isA: boolean,
  ): { at: Place; mode: "vec128" | "blk128" } {
    const { scale } = view;
    if (scale === undefined) throw new Error("an FP8 operand has lost its scales");
    const kBlocks = k / 128;
    const others = mode === "vec128" ? size : Math.ceil(size / 128);
    const padded = Math.ceil(kBlocks / 4) * 4;
    const [kStride, otherStride] = isA ? [scale.col, scale.row] : [scale.row, scale.col];
    const [toK, toOther, total] =
      mode === "vec128" ? [others, 1, others * kBlocks] : [1, padded, others * padded];
    const same = kStride === toK && (otherStride === toOther || others === 1);
    if (same) return { at: { slot: scale.slot, offset: 0 }, mode };
    const slot = this.#reserve(total * 4);
    this.element(
      mode === "vec128" ? [kBlocks, others] : [others, kBlocks],
      [
        {
          slot: scale.slot,
          dtype: "f32",
          offset: 0,
          strides: mode === "vec128" ? [kStride, otherStride] : [otherStride, kStride],
        },
      ],
      {
        slot,
        dtype: "f32",
        offset: 0,
        strides: mode === "vec128" ? [toK, toOther] : [toOther, toK],
      },
    );
    return { at: this.place(slot, 0), mode };
  }
}

function scaleStride(view: MatrixView, axis: number): number {
  return view.scale?.batch[axis] ?? 0;
}
