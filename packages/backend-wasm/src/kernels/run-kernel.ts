/**
 * Runs one kernel without a backend: for tests and for tuning. Tasks are called one range after
 * another, as threads might claim them.
 */
import { i32, Module } from "../asm.ts";
import type { KernelCode } from "../kernel.ts";

const PAGE = 65536;

/** How the tasks of a phase are cut into ranges, in the order in which they run. */
export type Split = (tasks: number) => readonly (readonly [begin: number, end: number])[];

export interface KernelRun {
  run(split?: Split): void;
  /** Bytes of a slot: a view of memory. */
  slot(n: number): Uint8Array;
}

/** Puts `slots` into a fresh memory and assembles the kernel for it. */
export function loadKernel(code: KernelCode, slots: readonly Uint8Array[]): KernelRun {
  const align = (n: number) => Math.ceil(n / 64) * 64;
  let top = 4096;
  const place = (bytes: number) => {
    const at = top;
    top = align(top + bytes + 1);
    return at;
  };
  const thread = place(code.threadScratch ?? 0);
  const shared = place(code.sharedScratch ?? 0);
  const at = slots.map((slot) => place(slot.length));
  // The last slot ends where memory does, so that who reads on beyond it is found.
  const last = slots.length - 1;
  const lastBytes = align(slots[last]?.length ?? 0);
  const pages = Math.ceil((top + lastBytes) / PAGE);
  at[last] = pages * PAGE - lastBytes;
  const memory = new WebAssembly.Memory({ initial: pages, maximum: 65536, shared: true });
  const bytes = new Uint8Array(memory.buffer);
  // What was left in memory by others must not matter.
  bytes.fill(0xff);
  for (const [n, slot] of slots.entries()) bytes.set(slot, at[n] as number);
  const module = new Module({ memory: { initial: 1, maximum: 65536, shared: true } });
  for (const [p, phase] of code.phases.entries()) {
    module.func(`phase${p}`, ["i32", "i32", "i32"], "void", (f, begin, end, threadScratch) =>
      phase.emit(f, {
        begin,
        end,
        threadScratch,
        slot: (n) => i32.const(at[n] as number),
        sharedScratch: () => i32.const(shared),
      }),
    );
  }
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module.bytes()), {
    env: { memory },
  });
  return {
    run(split = (tasks) => [[0, tasks]]) {
      code.phases.forEach(({ tasks }, p) => {
        const call = exports[`phase${p}`] as (begin: number, end: number, scratch: number) => void;
        for (const [begin, end] of split(tasks)) call(begin, end, thread);
      });
    },
    slot: (n) =>
      bytes.subarray(at[n] as number, (at[n] as number) + (slots[n] as Uint8Array).length),
  };
}
