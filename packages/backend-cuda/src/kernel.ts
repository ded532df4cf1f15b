/**
 * How a contract kernel becomes work for the GPU. A kernel file exports a lowering: a pure function
 * from the kernel's description (shapes, strides, dtypes; no pointers) to CUDA C++ source and a list
 * of launches. Nothing here touches a device, so every lowering can be compiled and read without one.
 *
 *     export const lowerScale: Lower<ScaleKernel> = (kernel, device) => ({
 *       source: `extern "C" __global__ void scale(const f32* x, f32* y, i32 n) { … }`,
 *       launches: [
 *         { entry: "scale", grid: [132], block: [256], args: [{ slot: 0 }, { slot: 1 }, { i32: n }] },
 *       ],
 *     });
 *
 * - The prelude (prelude.ts: type names, loads and stores per dtype, warp reductions) stands in front
 *   of every source. There are no CUDA headers: they would triple the compile time. Each distinct
 *   source text is one module, compiled once and cached on disk, so entries need unique names only
 *   within their own source. Bake shapes in as constants: layers of equal shape share a source.
 * - Pointers are aligned to at least 64 bytes at element 0 of a slot.
 * - All launches of a step, and all steps, run in order on one stream inside a captured graph: no
 *   launch may depend on host reads. Results must be the same bits on every run: no atomics on floats.
 */
import type { DType } from "./contract.ts";

/** What a lowering may know of the device. */
export interface DeviceInfo {
  /** NVRTC architecture: "sm_90a". */
  readonly arch: string;
  /** 90 for compute capability 9.0. */
  readonly computeCapability: number;
  readonly multiprocessors: number;
  /** Shared memory that one block may ask for (opt-in limit), in bytes: 232,448 on an H100. */
  readonly sharedPerBlock: number;
  readonly l2Bytes: number;
}

/** What an H100 SXM reports; lowerings compiled without a device are compiled for this. */
export const H100: DeviceInfo = {
  arch: "sm_90a",
  computeCapability: 90,
  multiprocessors: 132,
  sharedPerBlock: 232_448,
  l2Bytes: 50 << 20,
};

/**
 * A parameter of an entry:
 * - `slot`: pointer to the step's buffer in that slot, moved by `offset` bytes
 * - `workspace`: pointer to that byte of the step's private workspace
 * - `i32`, `u32`, `f32`, `i64`: a number
 * - `tensorMap`: a `const __grid_constant__ TensorMap` for the bulk tensor copy engine (TMA)
 */
export type Arg =
  | { readonly slot: number; readonly offset?: number }
  | { readonly workspace: number }
  | { readonly i32: number }
  | { readonly u32: number }
  | { readonly f32: number }
  | { readonly i64: number }
  | { readonly tensorMap: TensorMap };

/**
 * Arguments of cuTensorMapEncodeTiled. Dimensions go from the fastest to the slowest; `strides` are in
 * bytes, multiples of 16, one for every dimension but the first.
 */
export interface TensorMap {
  readonly slot?: number;
  /** In place of a slot: this byte of the workspace. */
  readonly workspace?: number;
  /** Bytes into the slot; the address must be a multiple of 16. */
  readonly offset?: number;
  readonly dtype: DType;
  readonly dims: readonly number[];
  readonly strides: readonly number[];
  readonly box: readonly number[];
  readonly swizzle: 0 | 32 | 64 | 128;
  /** L2 promotion in bytes. */
  readonly promotion?: 0 | 64 | 128 | 256;
}

/** One launch of an entry of the lowering's source. */
export interface Launch {
  readonly entry: string;
  readonly grid: readonly [x: number, y?: number, z?: number];
  readonly block: readonly [x: number, y?: number, z?: number];
  /** Dynamic shared memory in bytes; above 48 KiB the limit of the entry is raised at load time. */
  readonly shared?: number;
  readonly cluster?: readonly [x: number, y?: number, z?: number];
  readonly args: readonly Arg[];
}

/** Where memory begins: in a slot's buffer or in the step's workspace. */
export type Place =
  | { readonly slot: number; readonly offset?: number }
  | { readonly workspace: number };

/** A matrix product by cuBLASLt; see cublaslt.ts. */
export interface GemmCall {
  readonly gemm: Gemm;
}

/**
 * D = A · B + beta · C, row-major in this description: `a` is seen as [m, k], `b` as [k, n], `c` and
 * `d` as [m, n]. An operand is "n" when its second axis is contiguous, "t" when its first is.
 */
export interface Gemm {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly batch: number;
  readonly a: GemmOperand;
  readonly b: GemmOperand;
  /** Present: added to the product. */
  readonly c?: GemmOperand;
  readonly d: GemmOperand;
}

export interface GemmOperand {
  readonly at: Place;
  readonly dtype: DType;
  readonly transposed: boolean;
  /** Elements between rows ("n") or columns ("t"), and between batch elements. */
  readonly leading: number;
  readonly batchStride: number;
  /** FP8 only: scales of 1×128 ("vec128") or 128×128 ("blk128") blocks, where and how. */
  readonly scale?: {
    readonly at: Place;
    readonly mode: "vec128" | "blk128";
  };
}

/** A copy on the device; nothing when both places turn out to be the same address. */
export interface Copy {
  readonly copy: { readonly from: Place; readonly to: Place; readonly bytes: number };
}

export interface Zero {
  readonly zero: { readonly at: Place; readonly bytes: number };
}

export type Action = Launch | GemmCall | Copy | Zero;

/** What a lowering returns. */
export interface Lowered<A extends Action = Action> {
  /** CUDA C++ without the prelude; empty when only library calls are made. */
  readonly source: string;
  readonly launches: readonly A[];
  /** Bytes of memory that live only during this step; contents are undefined at its start. */
  readonly workspace?: number;
  /** Extra NVRTC options for this source: "--use_fast_math" and the like. Rarely right. */
  readonly options?: readonly string[];
}

/** Returns undefined when the kernel is not one that this lowering takes; the next one is asked. */
export type Lower<K> = (kernel: K, device: DeviceInfo) => Lowered | undefined;
