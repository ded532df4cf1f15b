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

/**
 * Bytes between regions, a page: while a thread writes its own, its processor fetches what comes next in
 * the page, and would take it from the thread that writes there.
 */
const APART = 4096;

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
    const region = (bytes: number) => (bytes > 0 ? Math.ceil(bytes / 64) * 64 + APART : 0);
    const next = {
      arena: Math.max(size.arena, old.arena),
      shared: Math.max(size.shared, old.shared),
      thread: Math.max(size.thread, old.thread),
    };
    const [arena, sharedBytes, thread] = [next.arena, next.shared, next.thread].map(region) as [
      number,
      number,
      number,
    ];
    if (this.#block) this.#heap.releaseScratch(this.#block);
    this.#block = undefined;
    this.#size = { arena: 0, shared: 0, thread: 0 };
    const bytes = arena + sharedBytes + thread * this.#pool.threads;
    const block = this.#heap.reserveScratch(bytes, "scratch memory of programs");
    this.#block = block;
    this.#size = next;
    this.version++;
    const shared = block.address + arena;
    this.#pool.setScratch(shared, (index) => shared + sharedBytes + index * thread);
  }
}
