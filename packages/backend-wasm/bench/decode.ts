/**
 * Products of one row with weights that no cache holds, as in decoding, beside the rate at which the
 * same threads can read memory:
 *
 *     node bench/decode.ts
 */
import { Worker } from "node:worker_threads";
import type { DType, MatmulKernel } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { f32x4, i32, Module, v128 } from "../src/asm.ts";
import { MEMORY_IMPORT } from "../src/driver.ts";
import { wasmBackend } from "../src/index.ts";
import { kernelProgram } from "../src/testing.ts";

const THREADS = [1, 2];
/** A matrix of weights in every format. */
const WEIGHTS = { k: 2048, n: 16384 };
const STREAM_BYTES = 2 ** 27;

/** read(from, to): loads every vector of a range, in four streams. */
function reader(): WebAssembly.Module {
  const m = new Module({ memory: MEMORY_IMPORT });
  m.func("read", ["i32", "i32"], "f32", (f, from, to) => {
    const quarter = f.keep(i32.shrU(i32.sub(to, from), 2));
    const end = f.keep(i32.add(from, quarter));
    const streams = [0, 1, 2, 3].map((n) => f.keep(i32.add(from, i32.mul(quarter, n))));
    const seen = streams.map(() => f.local("v128"));
    f.while(i32.ne(streams[0] as (typeof streams)[number], end), () => {
      for (const [s, stream] of streams.entries()) {
        const or = seen[s] as (typeof seen)[number];
        for (let i = 0; i < 8; i++) f.set(or, v128.or(or, v128.load(stream, 16 * i)));
        f.inc(stream, 128);
      }
    });
    return f32x4.extractLane(
      seen.reduce((a, b) => f.keep(v128.or(a, b))),
      0,
    );
  });
  return new WebAssembly.Module(m.bytes());
}

/** Bytes per nanosecond (GB/s) that threads read together. */
async function streaming(threads: number): Promise<number> {
  const memory = new WebAssembly.Memory({
    initial: STREAM_BYTES / 65536 + 1,
    maximum: 65536,
    shared: true,
  });
  new Uint8Array(memory.buffer).fill(1);
  const source = `
    const { workerData: { memory, module, from, to, seconds }, parentPort } = require("node:worker_threads");
    const { read } = new WebAssembly.Instance(module, { env: { memory } }).exports;
    const gate = new Int32Array(memory.buffer, 0, 2);
    read(from, to);
    Atomics.add(gate, 0, 1); Atomics.notify(gate, 0);
    while (Atomics.load(gate, 1) === 0);
    let passes = 0;
    const start = performance.now();
    while (performance.now() - start < 1000 * seconds) { read(from, to); passes++; }
    parentPort.postMessage((to - from) * passes / (performance.now() - start) / 1e6);`;
  const module = reader();
  const each = STREAM_BYTES / threads;
  const rates = Array.from({ length: threads }, (_, t) => {
    const from = 1024 + t * each;
    const worker = new Worker(source, {
      eval: true,
      workerData: { memory, module, from, to: from + each, seconds: 1 },
    });
    return new Promise<number>((resolve, reject) => {
      worker.once("message", resolve);
      worker.once("error", reject);
    });
  });
  const gate = new Int32Array(memory.buffer, 0, 2);
  while (Atomics.load(gate, 0) < threads) await new Promise((r) => setTimeout(r, 5));
  Atomics.store(gate, 1, 1);
  return (await Promise.all(rates)).reduce((a, b) => a + b);
}

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
