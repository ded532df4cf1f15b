/**
 * The slow truth: a backend that runs programs as plain JavaScript in float64, rounding only where
 * a value is stored. For tests, for finding out which kernel of a new backend is wrong, and for
 * reading what a kernel means.
 */
import type { Backend, DeviceBuffer, Executable, MemoryStats, Program } from "../backend.ts";
import { type DType, dtypeBytes, fromF32, isFloat, toF32, typedView } from "../dtype.ts";
import { runKernel } from "./reference-kernels.ts";
import { compileLoop } from "./reference-loops.ts";

interface HostBuffer extends DeviceBuffer {
  data: Uint8Array | undefined;
}

/** Values of a buffer as numbers, written back rounded to its dtype. */
export interface Slot {
  readonly dtype: DType;
  readonly values: Float64Array;
}

export function referenceBackend(): Backend {
  let liveBytes = 0;
  let liveBuffers = 0;
  let peakBytes = 0;
  const bytesOf = (buffer: DeviceBuffer): Uint8Array => {
    const { data } = buffer as HostBuffer;
    if (data === undefined)
      throw new Error("reference backend: a buffer was used after it was freed");
    return data;
  };
  const backend: Backend = {
    name: "reference",
    alloc(bytes) {
      liveBytes += bytes;
      liveBuffers++;
      peakBytes = Math.max(peakBytes, liveBytes);
      // Poisoned, so that whatever reads memory that nothing wrote shows.
      return { bytes, data: new Uint8Array(bytes).fill(0xff) } as HostBuffer;
    },
    free(buffer) {
      const bytes = bytesOf(buffer).length;
      (buffer as HostBuffer).data = undefined;
      liveBytes -= bytes;
      liveBuffers--;
    },
    write(buffer, data, offset = 0) {
      bytesOf(buffer).set(data, offset);
    },
    read: async (buffer) => bytesOf(buffer).slice(),
    readSync: (buffer) => bytesOf(buffer).slice(),
    compile: (program) => compileProgram(program, bytesOf),
    memory: (): MemoryStats => ({ liveBytes, liveBuffers, scratchBytes: 0, peakBytes }),
    dispose() {},
  };
  return backend;
}

function compileProgram(program: Program, bytesOf: (b: DeviceBuffer) => Uint8Array): Executable {
  const runners = program.steps.map(({ kernel }) =>
    kernel.kind === "loop"
      ? compileLoop(kernel)
      : (slots: readonly Slot[]) => runKernel(kernel, slots),
  );
  const run = (buffers: readonly DeviceBuffer[]): number[] => {
    const scratch = new Uint8Array(program.scratchBytes).fill(0xff);
    return program.steps.map((step, i) => {
      const start = performance.now();
      const bytes = step.buffers.map((id) => {
        const spec = program.buffers[id] as Program["buffers"][number];
        return spec.role === "temp"
          ? scratch.subarray(spec.offset, spec.offset + spec.bytes)
          : bytesOf(buffers[id] as DeviceBuffer).subarray(0, spec.bytes);
      });
      const slots = step.buffers.map((id, s) => {
        const { dtype } = program.buffers[id] as Program["buffers"][number];
        return { dtype, values: decode(bytes[s] as Uint8Array, dtype) };
      });
      // Two slots may be one memory (a donated input and its output): they share values.
      step.buffers.forEach((id, s) => {
        const spec = program.buffers[id] as Program["buffers"][number];
        if (spec.role !== "output" || spec.alias === undefined) return;
        const other = step.buffers.indexOf(spec.alias);
        if (other >= 0) slots[s] = slots[other] as Slot;
      });
      (runners[i] as (slots: readonly Slot[]) => void)(slots);
      for (const s of step.writes) encodeInto(bytes[s] as Uint8Array, slots[s] as Slot);
      return performance.now() - start;
    });
  };
  return {
    run: (buffers) => void run(buffers),
    profile: async (buffers) => run(buffers).map((milliseconds, step) => ({ step, milliseconds })),
    dispose() {},
  };
}

function decode(bytes: Uint8Array, dtype: DType): Float64Array {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return Float64Array.from(isFloat(dtype) ? toF32(aligned, dtype) : typedView(aligned, dtype));
}

/** Stores have rounded already: this only lays the values out. */
function encodeInto(bytes: Uint8Array, slot: Slot): void {
  const { dtype, values } = slot;
  if (isFloat(dtype)) {
    bytes.set(fromF32(values, dtype));
  } else {
    const whole = new Uint8Array(values.length * dtypeBytes(dtype));
    typedView(whole, dtype).set(values);
    bytes.set(whole);
  }
}
