/** The backend as a page runs it: no Node, Web Workers, and a main thread that must not block. */
import { Worker as NodeWorker } from "node:worker_threads";
import type { Backend, DeviceBuffer } from "@dsv3/tensor";
import { afterEach, expect, test, vi } from "vitest";
import { wasmBackend } from "./index.ts";
import { kernelProgram } from "./testing.ts";

/** A Web Worker's globals around a script, in a thread of Node's. */
const WEB_GLOBALS = `
  const { parentPort, workerData } = require("node:worker_threads");
  globalThis.postMessage = (data) => parentPort.postMessage(data);
  parentPort.on("message", (data) => globalThis.onmessage({ data }));
  delete globalThis.process;
  (0, eval)(workerData);
`;

/** Workers that were started, and those of them that were ended. */
let workers: { script: string; ended: boolean }[];

class WebWorker {
  onmessage: ((event: { data: unknown }) => void) | undefined;
  onerror: ((event: { message: string }) => void) | undefined;
  readonly #thread: NodeWorker;
  readonly #state: (typeof workers)[number];

  constructor(url: string) {
    this.#state = { script: scripts.get(url) as string, ended: false };
    workers.push(this.#state);
    this.#thread = new NodeWorker(WEB_GLOBALS, { eval: true, workerData: this.#state.script });
    this.#thread.on("message", (data) => this.onmessage?.({ data }));
    this.#thread.on("error", ({ message }) => this.onerror?.({ message }));
    this.#thread.unref();
  }

  postMessage(data: unknown): void {
    this.#thread.postMessage(data);
  }

  terminate(): void {
    this.#state.ended = true;
    void this.#thread.terminate();
  }
}

const scripts = new Map<string, string>();

function becomePage(change: (script: string) => string = (script) => script): void {
  workers = [];
  scripts.clear();
  vi.stubGlobal("process", undefined);
  vi.stubGlobal("crossOriginIsolated", true);
  vi.stubGlobal("navigator", { hardwareConcurrency: 3 });
  vi.stubGlobal("Worker", WebWorker);
  vi.stubGlobal(
    "Blob",
    class {
      readonly script: string;
      constructor(parts: readonly string[]) {
        this.script = parts.join("");
      }
    },
  );
  vi.spyOn(URL, "createObjectURL").mockImplementation((blob) => {
    const url = `blob:${scripts.size}`;
    scripts.set(url, change((blob as unknown as { script: string }).script));
    return url;
  });
  vi.spyOn(URL, "revokeObjectURL").mockImplementation((url) => void scripts.delete(url));
  vi.spyOn(Atomics, "wait").mockImplementation(() => {
    throw new TypeError("Atomics.wait cannot be called in this context");
  });
}

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

/** The square of a matrix of ones and twos, n × n. */
function square(backend: Backend, n: number): number[] {
  const matrix = (slot: number) => ({
    slot,
    dtype: "f32" as const,
    offset: 0,
    batch: [],
    row: n,
    col: 1,
  });
  const program = kernelProgram(
    { kind: "matmul", batch: [], m: n, n, k: n, a: matrix(0), b: matrix(0), out: matrix(1) },
    [
      { dtype: "f32", elements: n * n },
      { dtype: "f32", elements: n * n },
    ],
    [1],
  );
  const executable = backend.compile(program);
  const [from, to] = [backend.alloc(4 * n * n), backend.alloc(4 * n * n)] as [
    DeviceBuffer,
    DeviceBuffer,
  ];
  const values = Float32Array.from({ length: n * n }, (_, i) => 1 + (i % 2));
  backend.write(from, new Uint8Array(values.buffer));
  for (let i = 0; i < 20; i++) executable.run([from, to]);
  return [...new Float32Array(backend.readSync(to).buffer)];
}

test("a cross-origin isolated page computes with a Web Worker for each further core", async () => {
  becomePage();
  const backend = await wasmBackend();
  expect(workers).toHaveLength(2);
  expect(scripts.size).toBe(0); // their addresses are given back
  const n = 130;
  const got = square(backend, n);
  // Every row of the matrix is 1, 2, 1, 2 …
  expect(got).toEqual(Array.from({ length: n * n }, (_, i) => (1 + (i % 2)) * 1.5 * n));
  backend.dispose();
  expect(workers.every((w) => w.ended)).toBe(true);
});

test("a worker that does not start is an error", async () => {
  becomePage(() => 'throw new Error("blocked by the page\'s content security policy")');
  await expect(wasmBackend({ threads: 2 })).rejects.toThrow(
    "a worker did not start: blocked by the page's content security policy",
  );
});
