/** The threads: this one, and workers that share its memory and follow the same driver. */
import { CONTROL, type Driver, driverModule, LINE } from "./driver.ts";
import type { Heap } from "./memory.ts";
import { WORKER_SOURCE, type WorkerInput } from "./worker.ts";

/** The parts of Node's and the web's workers that we use. */
interface WorkerHandle {
  terminate(): unknown;
}

export class Pool {
  readonly threads: number;
  readonly #heap: Heap;
  readonly #workers: readonly WorkerHandle[];
  readonly #table: WebAssembly.Table;
  readonly #driver: Driver;
  readonly #maySleep: boolean;
  #broken: string | undefined;

  private constructor(
    heap: Heap,
    workers: readonly WorkerHandle[],
    driver: WebAssembly.Module,
    tableSize: number,
  ) {
    this.threads = workers.length + 1;
    this.#heap = heap;
    this.#workers = workers;
    this.#maySleep = mayBlock();
    this.#table = new WebAssembly.Table({ element: "anyfunc", initial: tableSize });
    this.#driver = this.#instantiate(driver).exports as unknown as Driver;
  }

  /** Starts workers, and resolves when all of them are ready. */
  static async start(heap: Heap, threads: number): Promise<Pool> {
    const driver = new WebAssembly.Module(driverModule());
    const tableSize = Pool.driverFunctions(driver);
    const { memory } = heap;
    const workers = await Promise.all(
      Array.from({ length: threads - 1 }, (_, i) =>
        startWorker({ memory, driver, tableSize, thread: i + 1, threads }),
      ),
    );
    return new Pool(heap, workers, driver, tableSize);
  }

  static driverFunctions(driver: WebAssembly.Module): number {
    return WebAssembly.Module.exports(driver).length;
  }

  /** Functions in the table. */
  get tableSize(): number {
    return this.#table.length;
  }

  /** Installs a module's functions on every thread. */
  install(bytes: Uint8Array<ArrayBuffer>, tableSize: number): void {
    this.#check();
    const module = new WebAssembly.Module(bytes);
    this.#table.grow(tableSize - this.#table.length);
    this.#instantiate(module);
    if (this.threads === 1) return;
    const block = this.#heap.reserve(bytes.length, "a module of kernels");
    this.#heap.bytes.set(bytes, block.address);
    const words = this.#heap.words;
    words.set([block.address, bytes.length, tableSize], CONTROL.mailAddress / 4);
    Atomics.store(words, CONTROL.installed / 4, 0);
    Atomics.add(words, CONTROL.mail / 4, 1);
    this.#ring();
    for (;;) {
      const installed = Atomics.load(words, CONTROL.installed / 4);
      if (installed === this.threads - 1) break;
      this.#check();
      if (this.#maySleep) Atomics.wait(words, CONTROL.installed / 4, installed, 100);
    }
    this.#heap.release(block);
  }

  /** Tells the driver where scratch memory is. */
  setScratch(shared: number, thread: (index: number) => number): void {
    const words = this.#heap.words;
    words[CONTROL.sharedScratch / 4] = shared;
    for (let t = 0; t < this.threads; t++) words[(CONTROL.lines + t * LINE + 8) / 4] = thread(t);
  }

  /** Runs the steps whose entries lie in [first, last), and returns when they are done. */
  run(first: number, last: number): void {
    this.#check();
    let failed: unknown;
    try {
      if (this.#driver.run(first, last, this.threads, this.#maySleep ? 1 : 0) === 0) return;
    } catch (error) {
      failed = error;
      this.#broken = `${error}`;
      this.#abort();
    }
    this.#check(failed);
  }

  stop(): void {
    this.#broken = "it was disposed of";
    this.#abort();
    for (const worker of this.#workers) worker.terminate();
  }

  #abort(): void {
    Atomics.store(this.#heap.words, CONTROL.abort / 4, 1);
    this.#ring();
  }

  /** Wakes all workers, whatever they wait for. */
  #ring(): void {
    const words = this.#heap.words;
    Atomics.add(words, CONTROL.ticket / 4, 1);
    Atomics.notify(words, CONTROL.ticket / 4);
  }

  #check(cause?: unknown): void {
    if (this.#broken === undefined && Atomics.load(this.#heap.words, CONTROL.abort / 4) !== 0) {
      const length = this.#heap.words[CONTROL.error / 4] as number;
      const text = this.#heap.bytes.slice(CONTROL.error + 4, CONTROL.error + 4 + length);
      this.#broken = `a thread failed: ${new TextDecoder().decode(text)}`;
    }
    if (this.#broken !== undefined) {
      throw new Error(`the wasm backend has stopped (${this.#broken}); make a new one`, { cause });
    }
  }

  #instantiate(module: WebAssembly.Module): WebAssembly.Instance {
    const env = { memory: this.#heap.memory, table: this.#table };
    return new WebAssembly.Instance(module, { env });
  }
}

/** Whether this thread may block: Node and web workers yes, a browser's main thread no. */
function mayBlock(): boolean {
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 1);
    return true;
  } catch {
    return false;
  }
}

export function isNode(): boolean {
  return typeof process === "object" && typeof process.versions?.node === "string";
}

async function startWorker(input: WorkerInput): Promise<WorkerHandle> {
  if (isNode()) {
    const { Worker } = await import("node:worker_threads");
    const worker = new Worker(WORKER_SOURCE, { eval: true, workerData: input, name: "dsv3-wasm" });
    await new Promise<void>((resolve, reject) => {
      worker.once("message", () => resolve());
      worker.once("error", reject);
    });
    worker.unref(); // it sleeps between runs, and must not keep the process alive
    return worker;
  }
  const url = URL.createObjectURL(new Blob([WORKER_SOURCE], { type: "text/javascript" }));
  const worker = new Worker(url, { name: "dsv3-wasm" });
  await new Promise<void>((resolve, reject) => {
    worker.onmessage = () => resolve();
    worker.onerror = (event) => reject(new Error(`a worker did not start: ${event.message}`));
    worker.postMessage(input);
  });
  URL.revokeObjectURL(url);
  return worker;
}
