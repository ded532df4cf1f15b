/**
 * The contract between compiled programs and a backend. A program is a list of steps over numbered
 * buffers, with shapes, strides and the memory plan fixed; a backend turns it into an executable.
 * All sizes and strides are in elements, all offsets of buffers in bytes.
 */
import type { DType } from "./dtype.ts";
import type { LoopKernel } from "./loop.ts";

/** Memory on a backend's device, owned by whoever allocated it. */
export interface DeviceBuffer {
  readonly bytes: number;
}

export interface MemoryStats {
  /** Bytes and count of live buffers; scratch memory of programs is counted apart. */
  readonly liveBytes: number;
  readonly liveBuffers: number;
  readonly scratchBytes: number;
  /** Largest liveBytes + scratchBytes so far. */
  readonly peakBytes: number;
}

export interface Backend {
  /** "wasm", "cuda" …: shown in messages and profiles. */
  readonly name: string;
  /**
   * Whether its loops keep a row, or a block of rows and columns, on the chip while they reduce it and
   * compute with the result, and cut long rows into parts themselves. Programs for others do the cutting,
   * and store what would be computed twice.
   */
  readonly keepsRows?: boolean;
  /** Whether it has the kernel "quantize". Programs for others quantise in loops. */
  readonly quantizes?: boolean;
  /**
   * Whether its attention reads queries and keys whose last columns lie elsewhere (`tail` of a
   * `SplitHeadsView`). Programs for others join them in memory first.
   */
  readonly readsTails?: boolean;
  /**
   * The most columns whose sums over all rows (`columnSums` of loop kernels) its loops make beside what
   * they compute of each row, where every stage's inner variables run over these columns. It then cuts
   * long columns into parts itself, too. None unless told.
   */
  readonly sumsColumns?: number;
  /** Uninitialised memory, aligned to 64 bytes or more. Zero bytes are allowed. */
  alloc(bytes: number): DeviceBuffer;
  free(buffer: DeviceBuffer): void;
  /** Copies into a buffer; the data may be reused as soon as this returns. */
  write(buffer: DeviceBuffer, data: Uint8Array, offset?: number): void;
  /** Copies out, after all work enqueued so far. */
  read(buffer: DeviceBuffer): Promise<Uint8Array>;
  /** The same, blocking; throws where the platform cannot block (a browser's main thread may spin). */
  readSync(buffer: DeviceBuffer): Uint8Array;
  compile(program: Program): Executable;
  memory(): MemoryStats;
  /** Ends threads and frees everything; buffers and executables become unusable. */
  dispose(): void;
}

/** One kernel's time in a profiled run. */
export interface KernelTime {
  /** Index of the step in the program. */
  readonly step: number;
  readonly milliseconds: number;
}

export interface Executable {
  /**
   * Enqueues one run. `buffers` are the program's inputs followed by its outputs; an output that
   * aliases a donated input is passed the same buffer. Runs of one backend are ordered.
   */
  run(buffers: readonly DeviceBuffer[]): void;
  /** Runs with a timer around every step, and waits. */
  profile(buffers: readonly DeviceBuffer[]): Promise<readonly KernelTime[]>;
  dispose(): void;
}

/** Index into `Program.buffers`. */
export type BufferId = number;

export type BufferSpec = {
  readonly dtype: DType;
  readonly elements: number;
  readonly bytes: number;
} & (
  | { readonly role: "input" }
  /** `alias`: the donated input whose memory this output takes over. */
  | { readonly role: "output"; readonly alias?: BufferId }
  /** `offset`: place in the scratch arena, a multiple of 64. */
  | { readonly role: "temp"; readonly offset: number }
);

export interface Step {
  readonly kernel: Kernel;
  /** The buffer bound to each slot of the kernel. */
  readonly buffers: readonly BufferId[];
  /** Slots that the kernel writes; the rest it only reads. */
  readonly writes: readonly number[];
  /** What the step computes, for profiles and messages: "rmsNorm/mul [8, 128, 256]". */
  readonly label: string;
  /** Floating-point operations and bytes of memory traffic that the step needs at least. */
  readonly flops: number;
  readonly traffic: number;
}

export interface Program {
  readonly name: string;
  /** Inputs first, then outputs, then temporaries. */
  readonly buffers: readonly BufferSpec[];
  readonly inputs: number;
  readonly outputs: number;
  readonly steps: readonly Step[];
  /** Size of the scratch arena. Programs of a backend run one after another and may share one arena. */
  readonly scratchBytes: number;
}

/** A strided view of a slot as a matrix (or a batch of them). */
export interface MatrixView {
  readonly slot: number;
  readonly dtype: DType;
  readonly offset: number;
  /** Stride of each batch axis (0 repeats), then of rows and columns. */
  readonly batch: readonly number[];
  readonly row: number;
  readonly col: number;
  /**
   * Block scales: element (r, c) stands for value × scale[floor(r/block[0]), floor(c/block[1])],
   * with the scales a contiguous f32 matrix of ceil(rows/block[0]) × ceil(cols/block[1]) per batch
   * element (batch strides `batch`), rows and columns counted in this view's own orientation.
   */
  readonly scale?: {
    readonly slot: number;
    readonly block: readonly [number, number];
    readonly batch: readonly number[];
    readonly row: number;
    readonly col: number;
  };
}

/**
 * out[…, m, n] = Σ_k a[…, m, k] · b[…, k, n] (+ add[…, m, n]), accumulated in f32 (i32 for i8 · i8
 * without scales). Operand dtypes may differ; `out` is contiguous. Where b is i8 with scales, a may be
 * rounded, by 2^−15 of the largest of the numbers that meet one scale.
 */
export interface MatmulKernel {
  readonly kind: "matmul";
  readonly batch: readonly number[];
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: MatrixView;
  readonly b: MatrixView;
  readonly out: MatrixView;
  readonly add?: MatrixView;
}

/**
 * Matrix products over runs of rows: run g is rows offsets[g] … offsets[g+1] − 1 (i32, on the
 * device; runs may be empty, offsets[groups] ≤ rows).
 *   "rows":   out[r, n] = Σ_k a[r, k] · b[g(r)][k, n]; rows in no run are written as 0
 *   "groups": out[g][m, n] = Σ_{r in run g} a[r, m] · b[r, n]; an empty run gives zeros
 * `b` in "rows" and `out` in "groups" have one batch stride, over groups. In "groups", `a` is seen
 * as [rows, m] and `b` as [rows, n].
 *
 * Rows may be looked up: with `aRows`, row r of `a` is row aRows[r] of the matrix that its view shows,
 * unscaled; `bRows` does the same for `b` in "groups".
 *
 * Operands of "groups" that have scales have them for blocks of 128 × 1, and every run starts at a
 * multiple of 128: a block is of one run.
 */
export interface GroupedMatmulKernel {
  readonly kind: "groupedMatmul";
  readonly form: "rows" | "groups";
  readonly groups: number;
  readonly rows: number;
  /** "rows": contraction and output width; "groups": output height and width. */
  readonly k: number;
  readonly n: number;
  readonly offsets: number;
  readonly a: MatrixView;
  readonly b: MatrixView;
  readonly out: MatrixView;
  readonly aRows?: RowLookup;
  readonly bRows?: RowLookup;
}

/** Which rows of a matrix are read: indices outside [0, extent) read the nearest row there is. */
export interface RowLookup {
  /** i32 [rows] */
  readonly slot: number;
  /** Rows of the matrix, 1 or more. */
  readonly extent: number;
}

/** A strided view [batch, time, heads, width] of a slot. */
export interface HeadsView {
  readonly slot: number;
  readonly dtype: DType;
  readonly offset: number;
  readonly strides: readonly [batch: number, time: number, head: number, width: number];
}

/**
 * The same, whose last columns may lie elsewhere: column c of the width, from `tail.from` on, is column
 * c − tail.from of the tail, in the same dtype. Then both parts are multiples of 16 columns wide, with
 * width stride 1 and all other strides and offsets multiples of 8.
 */
export interface SplitHeadsView extends HeadsView {
  readonly tail?: HeadsView & { readonly from: number };
}

/**
 * Shapes and masks shared by attention and its derivative. Query head h reads key head
 * floor(h · keyHeads / heads). Query t of `queries` sits at position length[b] − queries + t, where
 * length[b] is `keys` without a `lengths` slot; it sees key s if s < length[b], if not causal or
 * s ≤ its position, and, with segments, if both carry the same number. A query that sees nothing
 * gives 0 and log-sum-exp −inf.
 */
export interface AttentionShape {
  readonly batch: number;
  readonly queries: number;
  readonly keys: number;
  readonly heads: number;
  readonly keyHeads: number;
  /** Width of q and k, and of v. */
  readonly qkWidth: number;
  readonly vWidth: number;
  readonly scale: number;
  readonly causal: boolean;
  /** Slots: lengths i32 [batch]; segments i32 [batch, keys], which needs queries = keys. */
  readonly lengths?: number;
  readonly segments?: number;
  /**
   * Slot of a page table i32 [batch, ceil(keys / pageSize)]: key s of sequence b lies at batch index
   * pages[b, floor(s / pageSize)], time s mod pageSize of the k and v views.
   */
  readonly pages?: { readonly slot: number; readonly pageSize: number };
}

/** o[b, t, h] = softmax(scale · q k^T + mask) v; lse f32 [batch, heads, queries]; both contiguous. */
export interface AttentionKernel extends AttentionShape {
  readonly kind: "attention";
  readonly q: SplitHeadsView;
  readonly k: SplitHeadsView;
  readonly v: HeadsView;
  readonly out: HeadsView;
  readonly lse: number;
}

/** Gradients of attention for q, k and v from that of o, contiguous [batch, time, heads, width]. */
export interface AttentionGradKernel extends AttentionShape {
  readonly kind: "attentionGrad";
  readonly q: SplitHeadsView;
  readonly k: SplitHeadsView;
  readonly v: HeadsView;
  readonly out: HeadsView;
  readonly dout: HeadsView;
  readonly lse: number;
  readonly dq: HeadsView;
  readonly dk: HeadsView;
  readonly dv: HeadsView;
}

/**
 * The k largest of each row of a contiguous f32 matrix, largest first, equal values by lower index;
 * NaN counts as smallest. values f32 [rows, k], indices i32 [rows, k].
 */
export interface TopKKernel {
  readonly kind: "topK";
  readonly rows: number;
  readonly n: number;
  readonly k: number;
  readonly input: number;
  readonly values: number;
  readonly indices: number;
}

/**
 * Stable sort of small integers: ids i32 [n] in [0, buckets); order i32 [n] lists positions by
 * bucket, rank i32 [n] is its inverse, offsets i32 [buckets + 1] where each bucket starts. Ids
 * outside the range are put last, in no bucket.
 */
export interface CountingSortKernel {
  readonly kind: "countingSort";
  readonly n: number;
  readonly buckets: number;
  readonly ids: number;
  readonly order: number;
  readonly rank: number;
  readonly offsets: number;
}

/** Running sum along the middle axis of a contiguous [outer, n, inner]; f32 or i32. */
export interface CumsumKernel {
  readonly kind: "cumsum";
  readonly outer: number;
  readonly n: number;
  readonly inner: number;
  readonly input: number;
  readonly output: number;
  readonly dtype: DType;
}

/**
 * Rows written or added by index: out = base, then for r in order: out[indices[r]] = updates[r]
 * ("set") or += updates[r] ("add", in f32, in order of r). Indices outside [0, baseRows) are
 * skipped. `out` may be the same memory as `base`; no `base` means zeros. All contiguous;
 * base, updates and out have one dtype ("add": f32).
 */
export interface ScatterKernel {
  readonly kind: "scatter";
  readonly mode: "set" | "add";
  readonly baseRows: number;
  readonly rows: number;
  readonly width: number;
  readonly dtype: DType;
  readonly base?: number;
  readonly indices: number;
  readonly updates: number;
  readonly out: number;
}

/**
 * x [rows, width], floats of 16 or 32 bits, in E4M3 for products along its rows and for products along
 * its columns. 128 numbers along the contraction share a scale: the least power of two that is not below
 * their largest magnitude / 448, in f32; 0 if all are 0. Values are x / scale (x itself where that is 0),
 * rounded and saturated.
 *   alongRows:    values [rows, width], scale f32 [ceil(width / 128), rows]
 *   alongColumns: values [width, length], the transpose, scale f32 [length / 128, width]
 * `length` is a multiple of 128; what no row fills is 0, with scale 0.
 *
 * With `runs`, run g is rows offsets[g] … offsets[g+1] − 1 as in grouped products, offsets[0] = 0, and
 * lies at columns starts[g] … of the transpose, starts[g+1] − starts[g] being its rows rounded up to a
 * multiple of 128. Rows in no run are missing there.
 */
export interface QuantizeKernel {
  readonly kind: "quantize";
  readonly rows: number;
  readonly width: number;
  /** Unscaled; with `xRows` its rows are looked up. */
  readonly x: MatrixView;
  readonly xRows?: RowLookup;
  /** Slots of what is wanted. */
  readonly alongRows?: { readonly values: number; readonly scale: number };
  readonly alongColumns?: {
    readonly values: number;
    readonly scale: number;
    readonly length: number;
    /** Slots: offsets i32 [groups + 1], which is read, and starts i32 [groups + 1]. */
    readonly runs?: { readonly groups: number; readonly offsets: number; readonly starts: number };
  };
}

export type Kernel =
  | LoopKernel
  | MatmulKernel
  | GroupedMatmulKernel
  | AttentionKernel
  | AttentionGradKernel
  | TopKKernel
  | CountingSortKernel
  | CumsumKernel
  | ScatterKernel
  | QuantizeKernel;
