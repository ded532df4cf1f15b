/** Helpers of this package's tests. */
import type { Backend, DType, Kernel, Program } from "@dsv3/tensor";
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
