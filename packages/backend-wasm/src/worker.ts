/**
 * What a worker thread runs, as source text: it must start from TypeScript sources, from a bundle, in
 * Node (evaluated as a script or, after `--input-type=module`, as a module) and in browsers (from a
 * Blob), so it imports nothing.
 *
 * New modules arrive as bytes in shared memory rather than as messages: a worker never has to return
 * to its event loop, and V8, which keeps one compiled copy per process of equal module bytes, does not
 * compile them again.
 */
import { CONTROL, ERROR_BYTES, SERVE } from "./driver.ts";

export interface WorkerInput {
  readonly memory: WebAssembly.Memory;
  readonly driver: WebAssembly.Module;
  readonly tableSize: number;
  readonly thread: number;
  readonly threads: number;
}

export const WORKER_SOURCE: string = `
function start({ memory, driver, tableSize, thread, threads }, ready) {
  const words = () => new Int32Array(memory.buffer);
  const bytes = () => new Uint8Array(memory.buffer);
  try {
    const table = new WebAssembly.Table({ element: "anyfunc", initial: tableSize });
    const env = { memory, table };
    const { serve } = new WebAssembly.Instance(driver, { env }).exports;
    ready();
    for (let seen = 0; serve(thread, threads, seen) === ${SERVE.mail}; ) {
      seen = Atomics.load(words(), ${CONTROL.mail / 4});
      const [address, length, size] = words().slice(${CONTROL.mailAddress / 4}, ${CONTROL.mailAddress / 4 + 3});
      const from = address >>> 0;
      const module = new WebAssembly.Module(bytes().slice(from, from + length));
      if (size > table.length) table.grow(size - table.length);
      new WebAssembly.Instance(module, { env });
      Atomics.add(words(), ${CONTROL.installed / 4}, 1);
      Atomics.notify(words(), ${CONTROL.installed / 4});
    }
  } catch (error) {
    const text = new TextEncoder().encode(String(error && error.stack || error)).subarray(0, ${ERROR_BYTES});
    bytes().set(text, ${CONTROL.error + 4});
    words()[${CONTROL.error / 4}] = text.length;
    Atomics.store(words(), ${CONTROL.abort / 4}, 1);
    Atomics.add(words(), ${CONTROL.ticket / 4}, 1);
    Atomics.notify(words(), ${CONTROL.ticket / 4});
    Atomics.notify(words(), ${CONTROL.installed / 4});
  }
}
if (typeof process === "object") {
  const { parentPort, workerData } = process.getBuiltinModule("node:worker_threads");
  start(workerData, () => parentPort.postMessage("ready"));
} else {
  onmessage = ({ data }) => start(data, () => postMessage("ready"));
}
`;
