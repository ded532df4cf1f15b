/**
 * Dense matrix products. cuBLASLt multiplies; this file brings every view that the contract allows into
 * a form that it takes: operands of one dtype, one axis contiguous, at most one batch stride. What
 * doesn't fit is first converted into the workspace by a loop kernel, and a result or addend of another
 * dtype is finished by one.
 */
import {
  type DType,
  dtypeBytes,
  isFloat,
  type MatmulKernel,
  type MatrixView,
} from "../contract.ts";
import type { Action, DeviceInfo, Gemm, GemmOperand, Lower, Lowered, Place } from "../kernel.ts";
import { type Element, elementwise } from "../loops/elementwise.ts";
import { transposeBytes } from "./transpose-bytes.ts";

/** Most products that one kernel may be split into when its batch axes don't fit one stride. */
const MOST_PRODUCTS = 64;

export const lowerMatmul: Lower<MatmulKernel> = (original, device) => {
  const folded = foldBatch(original);
  const { batch, m, n, k, out, add } = folded;
  const count = batch.reduce((a, b) => a * b, 1);
  if (count * m * n === 0) return { source: "", launches: [] };
  const work = new Workspace(device);
  if (k === 0) {
    work.element([...batch, m, n], add === undefined ? zero : whole(add), element(out));
    return work.lowered();
  }
  const type = productType(folded);
  if (type === undefined) return lowerIntegerMatmul(folded);

  const kernel = type === "f8" ? work.alongContraction(folded) : folded;
  const scales = type === "f8" ? fp8Scales(kernel) : undefined;
  const native = type === "f8" && scales !== undefined;
  const dtype: DType = type === "f8" ? "bf16" : type;
  const a = native ? kernel.a : work.operand(kernel.a, batch, m, k, dtype);
  const b = native ? kernel.b : work.operand(kernel.b, batch, k, n, dtype);

  // The library adds only what looks like its result; anything else is added by a loop afterwards.
  const results: readonly DType[] = dtype === "f32" ? ["f32"] : [dtype, "f32"];
  const direct = results.includes(out.dtype);
  const fused =
    direct &&
    add !== undefined &&
    add.dtype === out.dtype &&
    add.col === 1 &&
    (add.row >= n || m === 1);
  const later = add !== undefined && !fused;
  const d = direct && !later ? out : work.temporary(batch, m, n, "f32");
  work.products(batch, m, n, k, a, b, fused ? add : undefined, d, scales);
  if (d !== out) {
    const sum = later ? [whole(d), whole(add)] : [whole(d)];
    work.element([...batch, m, n], sum, element(out));
  }
  return work.lowered();
};

/** Turns batch axes into rows where `b` is shared by them and the rows go on evenly. */
function foldBatch(kernel: MatmulKernel): MatmulKernel {
  let { batch, m, a, b, out, add } = kernel;
  const drop = (view: MatrixView): MatrixView => ({
    ...view,
    batch: view.batch.slice(0, -1),
    row: m === 1 ? (view.batch.at(-1) as number) : view.row,
  });
  const even = (view: MatrixView) => m === 1 || view.batch.at(-1) === m * view.row;
  const scaled = (view: MatrixView) => view.scale !== undefined;
  while (
    batch.length > 0 &&
    b.batch.at(-1) === 0 &&
    !scaled(a) &&
    (b.scale === undefined || b.scale.batch.at(-1) === 0) &&
    even(a) &&
    even(out) &&
    (add === undefined || even(add))
  ) {
    [a, out, add] = [drop(a), drop(out), add && drop(add)];
    const { scale } = b;
    b = {
      ...b,
      batch: b.batch.slice(0, -1),
      ...(scale ? { scale: { ...scale, batch: scale.batch.slice(0, -1) } } : {}),
    };
    m *= batch.at(-1) as number;
    batch = batch.slice(0, -1);
  }
  return { kind: "matmul", batch, m, n: kernel.n, k: kernel.k, a, b, out, ...(add ? { add } : {}) };
}

/**
 * The dtype of the factors; "f8" natively; undefined: integers. An f32 factor is rounded where the
 * other one and the result are 16 bits wide: the result's own rounding is as large, and f32 products
 * take ten times as long (the gradient of an f32 loss for bf16 weights).
 */
function productType({ a, b, out }: MatmulKernel): DType | "f8" | undefined {
  const integer = (view: MatrixView) => !isFloat(view.dtype) && view.scale === undefined;
  if (integer(a) && integer(b)) return undefined;
  const isF8 = (view: MatrixView) => view.dtype === "f8e4m3" || view.dtype === "f8e5m2";
  if (isF8(a) && isF8(b)) return "f8";
  const half = (view: MatrixView) =>
    view.dtype === "bf16" || view.dtype === "f16" ? view.dtype : undefined;
  const narrow = (view: MatrixView) =>
    isF8(view) || (view.dtype === "i8" && view.scale !== undefined);
  const [ha, hb] = [half(a), half(b)];
  if (ha !== undefined && (hb === ha || narrow(b))) return ha;
  if (hb !== undefined && narrow(a)) return hb;
  const rounded = ha ?? hb;
  const f32 = a.dtype === "f32" || b.dtype === "f32";
  return rounded !== undefined && f32 && out.dtype === rounded ? rounded : "f32";
}

interface Fp8Scales {
  readonly a?: "vec128" | "blk128";
  readonly b?: "vec128" | "blk128";
}

/** How the library can take two FP8 operands as they are; undefined when it can't. */
function fp8Scales({ a, b, batch, m, n, k, out, add }: MatmulKernel): Fp8Scales | undefined {
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

function element(view: MatrixView): Element {
  return {
    slot: view.slot,
    dtype: view.dtype,
    offset: view.offset,
    strides: [...view.batch, view.row, view.col],
  };
}

type Terms = readonly (readonly Element[])[];
const zero: Terms = [];

/** A view's values: elements, times scales. */
function whole(view: MatrixView): readonly Element[] {
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
class Workspace {
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

  /** out = Σ over terms of the product of the term's factors. */
  element(shape: readonly number[], terms: Terms | readonly Element[], out: Element): void {
    const sum = (terms.length > 0 && !Array.isArray(terms[0]) ? [terms] : terms) as Terms;
    const lowered = elementwise(shape, sum, out, this.#device, `part${this.#sources.length}_`);
    this.#sources.push(lowered.source);
    for (const launch of lowered.launches) {
      const args = launch.args.map((arg) =>
        "slot" in arg ? this.place(arg.slot, arg.offset ?? 0) : arg,
      );
      this.#actions.push({ ...launch, args });
    }
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

/** Integers, exactly; a thread for every element of the result. */
function lowerIntegerMatmul({ batch, m, n, k, a, b, out, add }: MatmulKernel): Lowered {
  const count = batch.reduce((x, y) => x * y, 1);
  const at = (view: MatrixView, row: string, col: string) => {
    let divisor = count;
    const parts = batch.map((size, i) => {
      divisor /= size;
      return `(i64)(z / ${divisor}u % ${size}u) * ${view.batch[i]}`;
    });
    return [
      String(view.offset),
      ...parts,
      `(i64)${row} * ${view.row}`,
      `(i64)${col} * ${view.col}`,
    ].join(" + ");
  };
  const type = (view: MatrixView) => (view.dtype === "bool" ? "u8" : view.dtype);
  const float = isFloat(out.dtype);
  const plus =
    add === undefined
      ? ""
      : ` + ${isFloat(add.dtype) ? "to_f32" : "(i32)"}(add[${at(add, "r", "c")}])`;
  const views = [a, b, out, ...(add ? [add] : [])];
  return {
    source: `extern "C" __global__ void integer_matmul(${[
      `const ${type(a)}* a`,
      `const ${type(b)}* b`,
      `${type(out)}* out`,
      ...(add ? [`const ${type(add)}* add`] : []),
    ].join(", ")}) {
  const u32 c = blockIdx.x * 32 + threadIdx.x, r = blockIdx.y * 8 + threadIdx.y, z = blockIdx.z;
  if (c >= ${n}u || r >= ${m}u) return;
  u32 sum = 0;
  for (u32 k = 0; k < ${k}u; k++) sum += (u32)a[${at(a, "r", "k")}] * (u32)b[${at(b, "k", "c")}];
  out[${at(out, "r", "c")}] = ${float ? `from_f32<${out.dtype}>((f32)(i32)sum${plus})` : `(${type(out)})((i32)sum${plus})`};
}`,
    launches: [
      {
        entry: "integer_matmul",
        grid: [Math.ceil(n / 32), Math.ceil(m / 8), count],
        block: [32, 8],
        args: views.map((view) => ({ slot: view.slot })),
      },
    ],
  };
}
