/** The backend as `@dsv3/tensor` sees it. */
import type { Backend, DeviceBuffer } from "@dsv3/tensor";
import { Compiler } from "./compiler.ts";
import { CONTROL_BYTES, MAX_THREADS } from "./driver.ts";
import { WasmExecutable } from "./executable.ts";
import { hasQuickDots, hasRelaxedSimd, hasThreads } from "./features.ts";
import { freedOrForeign, Heap, type MemorySize, WasmBuffer } from "./memory.ts";
import { isNode, Pool } from "./pool.ts";
import { Scratch } from "./scratch.ts";
import { widenVectors } from "./wide-vectors.ts";

export interface WasmOptions {
  /**
   * Threads, this one included. Results do not depend on it. Default: one per core, at most 16; one
   * where memory cannot be shared (a page that is not cross-origin isolated).
   */
  readonly threads?: number;
  /** Bytes of memory to start with (1 MiB) and to grow to at most (4 GiB − 64 KiB). */
  readonly memory?: MemorySize;
  /**
   * Use fused multiply-add and the other relaxed SIMD instructions. Default: where the engine has
   * them. Results differ in the last bits with and without.
   */
  readonly relaxedSimd?: boolean;
  /**
   * Ask the engine for vectors of 256 bits. Products run up to 1.9 times as fast, and results have the
   * same bits. It is an experiment of V8's, which the backend switches on for the whole process, in
   * Node 26 on x86 with AVX2; elsewhere the option does nothing. Default: false.
   */
  readonly wideVectors?: boolean;
}

/**
 * Starts a WebAssembly backend: SIMD kernels assembled for the shapes at hand, run by threads over one
 * shared memory. Dispose of it to end the threads.
 * @throws RangeError for options out of range; Error where the engine lacks SIMD or shared memory
 */
export async function wasmBackend(options: WasmOptions = {}): Promise<Backend> {
  const { threads = defaultThreads() } = options;
  if (!Number.isInteger(threads) || threads < 1 || threads > MAX_THREADS) {
    throw new RangeError(
      `threads is ${threads}, but must be a whole number from 1 to ${MAX_THREADS}`,
    );
  }
  const relaxedSimd = options.relaxedSimd ?? hasRelaxedSimd();
  if (relaxedSimd && !hasRelaxedSimd()) {
    throw new Error("relaxedSimd: true, but this engine has no relaxed SIMD; leave the option out");
  }
  const wideVectors = options.wideVectors === true && (await widenVectors());
  const heap = new Heap(CONTROL_BYTES, options.memory);
  const pool = await Pool.start(heap, threads);
  const compiler = new Compiler(
    { relaxedSimd, quickDots: relaxedSimd && hasQuickDots(), wideVectors },
    pool.tableSize,
    (module, tableSize) => pool.install(module, tableSize),
  );
  const scratch = new Scratch(heap, pool);

  const own = (buffer: DeviceBuffer): WasmBuffer => {
    if (!(buffer instanceof WasmBuffer) || buffer.owner !== heap) throw freedOrForeign(buffer);
    return buffer;
  };
  const readSync = (buffer: DeviceBuffer) => {
    const { address, bytes } = own(buffer);
    return heap.bytes.slice(address, address + bytes);
  };
  return {
    name: "wasm",
    alloc: (bytes) => heap.alloc(bytes),
    free: (buffer) => heap.free(own(buffer)),
    write(buffer, data, offset = 0) {
      const { address, bytes } = own(buffer);
      if (!(offset >= 0 && offset + data.length <= bytes)) {
        throw new RangeError(
          `writing ${data.length} bytes at offset ${offset} of a buffer of ${bytes} bytes`,
        );
      }
      heap.bytes.set(data, address + offset);
    },
    read: async (buffer) => readSync(buffer),
    readSync,
    compile: (program) => new WasmExecutable(program, heap, pool, compiler, scratch),
    memory: () => heap.stats(),
    dispose: () => pool.stop(),
  };
}

function defaultThreads(): number {
  if (!isNode() && !hasThreads()) return 1;
  return Math.max(1, Math.min(16, globalThis.navigator?.hardwareConcurrency ?? 1));
}
