/** Holds a kernel against the reference backend's float64 reading of it: for tests. */
import type { DType, Kernel } from "@dsv3/tensor";
import { dtypeBytes, fromF32, toF32 } from "@dsv3/tensor/dtype";
import { referenceBackend } from "@dsv3/tensor/testing";
import type { KernelCode, Target } from "../kernel.ts";
import { loadKernel, type Split } from "./run-kernel.ts";

export interface TestSlot {
  readonly dtype: DType;
  readonly values: ArrayLike<number>;
  /** Largest deviation from the reference, for slots that the kernel writes. */
  readonly tolerance?: number;
}

/** Every task on its own, last first: as unlike one range as can be. */
const SPLITS: Split[] = [
  (tasks) => Array.from({ length: tasks }, (_, i) => [tasks - 1 - i, tasks - i]),
  (tasks) => [
    [Math.floor(tasks / 3), tasks],
    [0, Math.floor(tasks / 3)],
  ],
];

const TARGETS: Target[] = [
  { relaxedSimd: true },
  { relaxedSimd: false },
  // Tiles for wide vectors, whether or not the engine makes them.
  { relaxedSimd: true, wideVectors: true },
];

/** The largest deviation of written slots; throws where one is beyond its tolerance. */
export function checkKernel<K extends Kernel>(
  kernel: K,
  emit: (kernel: K, target: Target) => KernelCode,
  slots: readonly TestSlot[],
): void {
  const bytes = slots.map(({ dtype, values }) => fromF32(values, dtype));
  const written = slots.flatMap(({ tolerance }, n) => (tolerance === undefined ? [] : [n]));
  const expected = runReference(kernel, slots, bytes, written);
  for (const target of TARGETS) {
    const code = emit(kernel, target);
    const whole = run(code, bytes, written);
    written.forEach((n, i) => {
      const { dtype, tolerance } = slots[n] as TestSlot;
      compare(
        toF32(whole[i] as Uint8Array, dtype),
        expected[i] as Float32Array,
        tolerance as number,
        n,
      );
    });
    for (const split of SPLITS) {
      run(code, bytes, written, split).forEach((result, i) => {
        if (Buffer.compare(result, whole[i] as Uint8Array) !== 0) {
          throw new Error(`slot ${written[i]} depends on how tasks are split`);
        }
      });
    }
  }
}

function run(
  code: KernelCode,
  bytes: readonly Uint8Array[],
  written: readonly number[],
  split?: Split,
) {
  const loaded = loadKernel(code, bytes);
  loaded.run(split);
  return written.map((n) => loaded.slot(n).slice());
}

function compare(got: Float32Array, want: Float32Array, tolerance: number, slot: number): void {
  got.forEach((x, i) => {
    const y = want[i] as number;
    const same = Object.is(x, y) || Math.abs(x - y) <= tolerance * Math.max(1, Math.abs(y));
    if (!same && !(Number.isNaN(x) && Number.isNaN(y)) && x !== y) {
      throw new Error(`slot ${slot}, element ${i}: ${x}, but the reference has ${y}`);
    }
  });
}

function runReference(
  kernel: Kernel,
  slots: readonly TestSlot[],
  bytes: readonly Uint8Array[],
  written: readonly number[],
): Float32Array[] {
  const backend = referenceBackend();
  // Inputs come before outputs in a program.
  const order = [...slots.keys()].sort(
    (x, y) => Number(written.includes(x)) - Number(written.includes(y)),
  );
  const executable = backend.compile({
    name: "check",
    buffers: order.map((n) => {
      const { dtype, values } = slots[n] as TestSlot;
      const role = written.includes(n) ? "output" : "input";
      return { dtype, elements: values.length, bytes: values.length * dtypeBytes(dtype), role };
    }),
    inputs: slots.length - written.length,
    outputs: written.length,
    steps: [
      {
        kernel,
        buffers: slots.map((_, n) => order.indexOf(n)),
        writes: written,
        label: "check",
        flops: 0,
        traffic: 0,
      },
    ],
    scratchBytes: 0,
  });
  const buffers = order.map((n) => {
    const data = bytes[n] as Uint8Array;
    const buffer = backend.alloc(data.length);
    backend.write(buffer, data);
    return buffer;
  });
  executable.run(buffers);
  return written.map((n) =>
    toF32(
      backend.readSync(buffers[order.indexOf(n)] as (typeof buffers)[number]),
      (slots[n] as TestSlot).dtype,
    ),
  );
}

/** Small numbers that repeat. */
export function randomValues(n: number, seed = 1): Float32Array {
  let state = seed >>> 0 || 1;
  return Float32Array.from({ length: n }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 32) * 2 - 1;
  });
}
