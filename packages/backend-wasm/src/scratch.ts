/**
 * Scratch memory, one region for all programs of a backend (they run one after another): an arena for
 * temporaries, a region that the threads share within a kernel, and one for each thread. It grows to
 * the largest that any program has asked for.
 */
import type { Block, Heap } from "./memory.ts";
import type { Pool } from "./pool.ts";

export interface ScratchSize {
  readonly arena: number;
  readonly shared: number;
  readonly thread: number;
}

export class Scratch {
  readonly #heap: Heap;
  readonly #pool: Pool;
  #size: ScratchSize = { arena: 0, shared: 0, thread: 0 };
  #block: Block | undefined;
  /** Changes when the arena has moved. */
  version = 0;

  constructor(heap: Heap, pool: Pool) {
    this.#heap = heap;
    this.#pool = pool;
  }

  /** Address of the arena. */
  get arena(): number {
    return this.#block?.address ?? 0;
  }

  /** Grows to at least `size`. Nothing may be running. */
  require(size: ScratchSize): void {
    const old = this.#size;
    if (size.arena <= old.arena && size.shared <= old.shared && size.thread <= old.thread) return;
    const line = (bytes: number) => Math.ceil(bytes / 64) * 64;
    const next = {
      arena: line(Math.max(size.arena, old.arena)),
      shared: line(Math.max(size.shared, old.shared)),
      thread: line(Math.max(size.thread, old.thread)),
    };
    if (this.#block) this.#heap.releaseScratch(this.#block);
    this.#block = undefined;
    this.#size = { arena: 0, shared: 0, thread: 0 };
    const bytes = next.arena + next.shared + next.thread * this.#pool.threads;
    const block = this.#heap.reserveScratch(bytes, "scratch memory of programs");
    this.#block = block;
    this.#size = next;
    this.version++;
    const shared = block.address + next.arena;
    this.#pool.setScratch(shared, (thread) => shared + next.shared + thread * next.thread);
  }
}
