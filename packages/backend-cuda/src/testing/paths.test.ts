/** Kernels as generated, run on the CPU, against the tensor package's reference. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Backend } from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { H100 } from "../kernel.ts";
import { PATH_CASES, runPathCase, worstError } from "./cases.ts";
import { emulatedBackend, emulatorAvailable } from "./emulator.ts";

// The rest takes minutes on a CPU; on a GPU all of them run.
const QUICK = new Set([
  "vectors of bf16 and f32",
  "odd sizes",
  "transposed large",
  "transposed in batches, rounded and joined with what lies along",
  "transposed with axes between, odd sizes",
  "norm of long rows",
  "gradients of a norm of many rows beside a residual",
  "sum of columns",
  "softmax of columns",
  "cross-entropy over rows that registers do not hold",
  "top 8 of 256",
  "top 40 of 100, many of them equal",
  "top 50 of 5000",
  "sort of 5000",
  "cumsum of rows",
  "scatter of few",
  "1 rows times bf16 weights",
  "3 rows times f8e4m3 weights",
  "fp8 whose operands lie across the contraction",
  "quantised rows of a norm",
  "quantised in blocks of rows and columns",
  "quantised both ways, 384 wide",
  "quantised both ways, 200 wide",
  "quantised both ways, 131 wide",
  "quantised both ways in runs, empty ones and of 1, 127, 128 and 129 rows among them, some in none",
  "quantised both ways: blocks of zeros, the largest and the least numbers, infinities and NaN",
  "a product along quantised columns",
  "weights' gradients of runs in e4m3",
  "sums of looked-up rows",
  "attention of f32 in parts of 32 and 16",
  "batches that share weights",
  "weights' gradient from an f32 loss",
]);
// Taken by other kernels on Hopper.
const HOPPER = new Set(["attention of bf16 in parts of 32 and 16"]);

describe.skipIf(!emulatorAvailable())("on the CPU", () => {
  let cache: string;
  let emulated: Backend;
  let reference: Backend;
  beforeAll(() => {
    cache = mkdtempSync(join(tmpdir(), "dsv3-paths-"));
    emulated = emulatedBackend(cache);
    reference = referenceBackend();
  });
  afterAll(() => {
    emulated.dispose();
    reference.dispose();
    rmSync(cache, { recursive: true, force: true });
  });

  const named = (names: ReadonlySet<string>) =>
    PATH_CASES.filter((c) => names.has(c.name)).map((c) => [c.name, c] as const);
  const cases = named(QUICK);
  test("every quick case has a name that exists", () =>
    expect([...cases, ...named(HOPPER)]).toHaveLength(QUICK.size + HOPPER.size));

  test.each(cases)("%s", { timeout: 120_000 }, (_, c) => {
    const error = worstError(runPathCase(emulated, c), runPathCase(reference, c, 1));
    expect(error).toBeLessThanOrEqual(c.tolerance ?? 3e-6);
  });

  test.each(named(HOPPER))("%s, by kernels for tensor cores", { timeout: 120_000 }, (_, c) => {
    const hopper = emulatedBackend(cache, { ...H100, arch: "emulator 90" });
    const error = worstError(runPathCase(hopper, c), runPathCase(reference, c, 1));
    hopper.dispose();
    expect(error).toBeLessThanOrEqual(c.tolerance ?? 3e-6);
  });
});
