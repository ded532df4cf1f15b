import type { Backend, DType } from "@dsv3/tensor";
import { fromF32, toF32, typedView } from "@dsv3/tensor/dtype";
import { referenceBackend } from "@dsv3/tensor/testing";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { wasmBackend } from "../index.ts";
import { kernelProgram, runProgram } from "../testing.ts";
import { randomKernel } from "./random-kernel.ts";

let backends: Backend[];
beforeAll(async () => {
  backends = [
    await wasmBackend({ threads: 2, relaxedSimd: false }),
    await wasmBackend({ threads: 1 }),
  ];
});
afterAll(() => {
  for (const backend of backends) backend.dispose();
}, 600_000);

/** Small numbers, exact in every dtype (bool: 0 or 1); index slots: within their limit. */
function contents(
  dtype: DType,
  elements: number,
  limit: number | undefined,
  seed: number,
): Uint8Array {
  let state = seed;
  const next = (n: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
  const one = () => {
    if (limit !== undefined) return next(limit);
    if (dtype === "bool" || dtype === "u32" || dtype === "u8")
      return next(dtype === "bool" ? 2 : 12);
    return dtype === "i32" || dtype === "i8" ? next(19) - 9 : next(13) / 4 - 1.5;
  };
  return fromF32(Array.from({ length: elements }, one), dtype);
}

function numbers(bytes: Uint8Array, dtype: DType): number[] {
  const values = dtype === "i32" || dtype === "u32" ? typedView(bytes, dtype) : toF32(bytes, dtype);
  return Array.from(values, (x) => x + 0); // −0 is 0
}

test("random kernels give what the reference gives", () => {
  const reference = referenceBackend();
  fc.assert(
    fc.property(fc.gen(), fc.nat(), (g, seed) => {
      const { kernel, slots, writes, limits } = randomKernel(g);
      const program = kernelProgram(kernel, slots, writes);
      const inputs = slots
        .map(({ dtype, elements }, s) => contents(dtype, elements, limits[s], seed + s))
        .filter((_, s) => !writes.includes(s));
      const expected = runProgram(reference, program, inputs);
      for (const backend of backends) {
        const got = runProgram(backend, program, inputs);
        got.forEach((bytes, o) => {
          const dtype = slots[writes[o] as number]?.dtype as DType;
          expect(numbers(bytes, dtype)).toEqual(numbers(expected[o] as Uint8Array, dtype));
        });
      }
    }),
    { numRuns: Number(process.env.FUZZ_RUNS ?? 200) },
  );
}, 600_000);
