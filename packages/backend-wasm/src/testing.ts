/** Helpers of this package's tests. */
import type { Backend, DeviceBuffer, DType, Kernel, Program } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";

/** A program of one kernel: slots that are not written are inputs, the others outputs. */
export function kernelProgram(
  kernel: Kernel,
  slots: readonly { readonly dtype: DType; readonly elements: number }[],
  writes: readonly number[],
): Program {
  const reads = slots.map((_, s) => s).filter((s) => !writes.includes(s));
  const order = [...reads, ...writes];
  const spec = (s: number) => {
    const { dtype, elements } = slots[s] as (typeof slots)[number];
    return { dtype, elements, bytes: elements * dtypeBytes(dtype) };
  };
  return {
    name: "test",
    inputs: reads.length,
    outputs: writes.length,
    scratchBytes: 0,
    buffers: [
      ...reads.map((s) => ({ ...spec(s), role: "input" as const })),
      ...writes.map((s) => ({ ...spec(s), role: "output" as const })),
    ],
    steps: [
      {
        kernel,
        buffers: slots.map((_, s) => order.indexOf(s)),
        writes,
        label: kernel.kind,
        flops: 0,
        traffic: 0,
      },
    ],
  };
}

/** Runs a program on fresh buffers, and frees everything. Outputs start as zeros. */
export function runProgram(
  backend: Backend,
  program: Program,
  inputs: readonly Uint8Array[],
): Uint8Array[] {
  const executable = backend.compile(program);
  const buffers = program.buffers
    .slice(0, program.inputs + program.outputs)
    .map(({ bytes }) => backend.alloc(bytes));
  buffers.forEach((buffer, i) => {
    backend.write(buffer, inputs[i] ?? new Uint8Array(buffer.bytes));
  });
  executable.run(buffers);
  const results = buffers.slice(program.inputs).map((buffer) => backend.readSync(buffer));
  for (const buffer of buffers) backend.free(buffer);
  executable.dispose();
  return results;
}

/** A buffer on every one of several backends. */
class Copies implements DeviceBuffer {
  readonly bytes: number;
  readonly copies: readonly DeviceBuffer[];

  constructor(copies: readonly DeviceBuffer[], bytes: number) {
    this.copies = copies;
    this.bytes = bytes;
  }
}

/** Does everything on several backends, and throws where they are not the same, bit for bit. */
export function agreeing(backends: readonly Backend[]): Backend {
  const copy = (buffer: DeviceBuffer, i: number) => (buffer as Copies).copies[i] as DeviceBuffer;
  const readSync = (buffer: DeviceBuffer) => {
    const [first, ...others] = backends.map((b, i) => b.readSync(copy(buffer, i)));
    others.forEach((other, i) => {
      const at = other.findIndex((byte, place) => byte !== first?.[place]);
      if (at >= 0) throw new Error(`backend ${i + 1} differs from backend 0 at byte ${at}`);
    });
    return first as Uint8Array;
  };
  return {
    name: "agreeing",
    alloc: (bytes) =>
      new Copies(
        backends.map((b) => b.alloc(bytes)),
        bytes,
      ),
    free: (buffer) => backends.forEach((b, i) => void b.free(copy(buffer, i))),
    write: (buffer, data, offset) =>
      backends.forEach((b, i) => void b.write(copy(buffer, i), data, offset)),
    read: async (buffer) => readSync(buffer),
    readSync,
    compile(program) {
      const all = backends.map((b) => b.compile(program));
      return {
        run: (buffers) => all.forEach((e, i) => void e.run(buffers.map((b) => copy(b, i)))),
        profile: (buffers) => {
          const [first] = all as [(typeof all)[number]];
          return first.profile(buffers.map((b) => copy(b, 0)));
        },
        dispose: () => {
          for (const e of all) e.dispose();
        },
      };
    },
    memory: () => (backends[0] as Backend).memory(),
    dispose: () => {
      for (const b of backends) b.dispose();
    },
  };
}
