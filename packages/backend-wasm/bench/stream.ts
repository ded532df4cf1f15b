/**
 * The rate at which threads read memory through WebAssembly, the ceiling of everything that streams:
 *
 *     node bench/stream.ts [THREADS [MB]]
 *
 * Last-level caches of servers hold 128 MB and more, and are faster than memory: to compare with a
 * program that reads so many bytes again and again, stream as many.
 */
import { Worker } from "node:worker_threads";
import { f32x4, i32, Module, v128 } from "../src/asm.ts";
import { MEMORY_IMPORT } from "../src/driver.ts";

const STREAM_MB = 128;
/** What a thread reads is a multiple of this: four streams of 128 bytes. */
const WHOLE = 512;

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

/** Bytes per nanosecond (GB/s) at which threads read so many megabytes (10^6 bytes) together. */
export async function streaming(threads: number, megabytes = STREAM_MB): Promise<number> {
  const each = Math.ceil((megabytes * 1e6) / threads / WHOLE) * WHOLE;
  const memory = new WebAssembly.Memory({
    initial: Math.ceil((threads * each + 1024) / 65536),
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

if (import.meta.main) {
  const [threads = 2, megabytes = STREAM_MB] = process.argv.slice(2).map(Number);
  const gigabytesPerSecond = await streaming(threads, megabytes);
  console.log(JSON.stringify({ threads, megabytes, gigabytesPerSecond }));
}
