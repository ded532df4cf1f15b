/**
 * What a kernel is made of, and how to write one.
 *
 * An emitter turns a kernel of a `Program` into phases. A phase is a parallel loop over `tasks`
 * independent tasks; the phases of a kernel run one after another, with a barrier between them.
 * Threads call a phase's function with ranges [begin, end) of tasks that together cover 0 … tasks
 * once, in any split and order: what a task computes must not depend on its range, nor on which
 * thread runs it. (That makes results equal for every number of threads.)
 *
 *     export function scale(kernel: ScaleKernel, _target: Target): KernelCode {
 *       return {
 *         phases: [{
 *           tasks: kernel.rows,
 *           nanoseconds: 0.3 * kernel.rows * kernel.width,
 *           emit(f, { slot, begin, end }) {
 *             const p = f.keep(slot(kernel.input)); // address of the buffer in that slot
 *             const row = f.local("i32");
 *             f.for(row, begin, end, 1, () => …);
 *           },
 *         }],
 *       };
 *     }
 *
 * Shapes, strides and offsets are constants of the code; addresses are not. An emitter is registered
 * by a line in registry.ts. Kernels that are equal as data are compiled once.
 */
import type { Func, Local, Value } from "./asm.ts";

/** What the machine offers. */
export interface Target {
  /** Fused multiply-add, int8 dot products and the other relaxed SIMD instructions. */
  readonly relaxedSimd: boolean;
  /** Relaxed dot products of int8 are one instruction of the processor. They give what others give. */
  readonly quickDots?: boolean;
  /**
   * The engine makes one vector of 256 bits of two that lie side by side: tiles are twice as wide.
   * Results have the same bits.
   */
  readonly wideVectors?: boolean;
}

export interface PhaseArguments {
  /** Address of the buffer bound to a slot: loads it, so keep it in a local. */
  slot(n: number): Value<"i32">;
  readonly begin: Local<"i32">;
  readonly end: Local<"i32">;
  /** `threadScratch` bytes that belong to this thread until the function returns; 64-byte aligned. */
  readonly threadScratch: Local<"i32">;
  /** Address of `sharedScratch` bytes, which live from the kernel's first phase to its last. */
  sharedScratch(): Value<"i32">;
}

export interface Phase {
  readonly tasks: number;
  /** Rough time of all tasks on one thread: decides how many threads, and how large the ranges. */
  readonly nanoseconds: number;
  emit(f: Func, args: PhaseArguments): void;
}

export interface KernelCode {
  readonly phases: readonly Phase[];
  readonly threadScratch?: number;
  readonly sharedScratch?: number;
}
