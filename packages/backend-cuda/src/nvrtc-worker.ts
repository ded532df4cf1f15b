/** A thread that compiles what it is sent; NVRTC 12.3 and later compile concurrently. */
import { isMainThread, type MessagePort, workerData } from "node:worker_threads";
import { Nvrtc } from "./nvrtc.ts";

/** Sent to the thread. `done` is counted up when the answer has been posted. */
export interface CompileJob {
  readonly id: number;
  readonly source: string;
  readonly options: readonly string[];
}

export type CompileAnswer =
  | { readonly id: number; readonly cubin: Uint8Array }
  | { readonly id: number; readonly error: string };

if (!isMainThread) {
  const { path, done, port } = workerData as { path: string; done: Int32Array; port: MessagePort };
  let nvrtc: Nvrtc | undefined;
  port.on("message", ({ id, source, options }: CompileJob) => {
    let answer: CompileAnswer;
    try {
      nvrtc ??= new Nvrtc(path);
      answer = { id, cubin: nvrtc.compile(source, options) };
    } catch (error) {
      answer = { id, error: error instanceof Error ? error.message : String(error) };
    }
    port.postMessage(answer);
    Atomics.add(done, 0, 1);
    Atomics.notify(done, 0);
  });
}
