/**
 * Products of one row with weights that no cache holds, as in decoding, beside the rate at which the
 * same threads can read memory:
 *
 *     node bench/decode.ts
 */
import type { DType, MatmulKernel } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { wasmBackend } from "../src/index.ts";
import { kernelProgram } from "../src/testing.ts";
import { streaming } from "./stream.ts";

const THREADS = [1, 2];
/** A matrix of weights in every format. */
const WEIGHTS = { k: 2048, n: 16384 };

/** GB/s at which weights [n, k] are read. */
async function decoding(threads: number, dtype: DType, m: number): Promise<number> {
  const { k, n } = WEIGHTS;
  const scale = { slot: 3, block: [128, 1] as const, batch: [], row: 1, col: k / 128 };
  const scaled = dtype === "i8" || dtype.startsWith("f8");
  const kernel: MatmulKernel = {
    kind: "matmul",
    batch: [],
    m,
    n,
    k,
    a: { slot: 0, dtype: "f32", offset: 0, batch: [], row: k, col: 1 },
    b: { slot: 1, dtype, offset: 0, batch: [], row: 1, col: k, ...(scaled && { scale }) },
    out: { slot: 2, dtype: "f32", offset: 0, batch: [], row: n, col: 1 },
  };
  const program = kernelProgram(
    kernel,
    [
      { dtype: "f32", elements: m * k },
      { dtype, elements: k * n },
      { dtype: "f32", elements: m * n },
      { dtype: "f32", elements: (n * k) / 128 },
    ],
    [2],
  );
  const backend = await wasmBackend({ threads });
  const executable = backend.compile(program);
  const buffers = program.buffers.map(({ bytes }) => backend.alloc(bytes));
  for (const buffer of buffers) backend.write(buffer, new Uint8Array(buffer.bytes).fill(0x21));
  let best = Number.POSITIVE_INFINITY;
  const until = performance.now() + 700;
  while (performance.now() < until) {
    const start = performance.now();
    executable.run(buffers);
    best = Math.min(best, performance.now() - start);
    // Lets the engine install optimised code.
    await new Promise((r) => setTimeout(r, 0));
  }
  backend.dispose();
  return (k * n * dtypeBytes(dtype)) / best / 1e6;
}

for (const threads of THREADS) {
  const ceiling = await streaming(threads);
  console.log(`${threads} thread(s): streaming reads ${ceiling.toFixed(1)} GB/s`);
  for (const dtype of ["f32", "bf16", "f16", "i8", "f8e4m3", "f8e5m2"] as const) {
    for (const m of [1, 4]) {
      const rate = await decoding(threads, dtype, m);
      const share = ((100 * rate) / ceiling).toFixed(0);
      console.log(
        `  ${dtype.padEnd(7)} ${m} row(s) ${rate.toFixed(1).padStart(6)} GB/s  ${share} %`,
      );
    }
  }
}
