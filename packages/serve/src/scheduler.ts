/**
 * Which tokens are computed next. Every step takes one token from each answer in the making, and as
 * many tokens of prompts as the step's budget allows, so that a long prompt delays nobody by more
 * than a chunk (continuous batching with chunked prefill; Orca, OSDI 2022; Sarathi-Serve, OSDI 2024).
 *
 * When blocks run out, the last and least important running sequence gives its own back and waits at
 * its old place; its tokens are computed again later, as one prompt (vLLM, SOSP 2023, section 4.5). So
 * do those of less priority when a more important one finds no place, and those whose readers are behind.
 */
import { BlockPool } from "./blocks.ts";
import type { Sequence } from "./sequence.ts";

export interface Chunk {
  readonly sequence: Sequence;
  /** Tokens [start, end) are computed; from the last of all, the next one is drawn. */
  readonly start: number;
  readonly end: number;
}

export interface Plan {
  /** To be computed in this order: later ones may rely on blocks that earlier ones fill. */
  readonly prefill: readonly Chunk[];
  /** One new token each, after the prefill. */
  readonly decode: readonly Sequence[];
}

export interface SchedulerOptions {
  readonly blocks: number;
  /** Answers computed at once. */
  readonly maxRunning: number;
  /** Prompt tokens computed in a step. */
  readonly maxPrefill: number;
}

export class Scheduler {
  readonly pool: BlockPool;
  readonly #options: SchedulerOptions;
  /** By priority, then arrival. */
  readonly #waiting: Sequence[] = [];
  readonly #running: Sequence[] = [];
  preemptions = 0;
  /** Tokens looked up in the cache, and found. */
  prefixQueries = 0;
  prefixHits = 0;

  constructor(options: SchedulerOptions) {
    this.#options = options;
    this.pool = new BlockPool(options.blocks);
  }

  get waiting(): number {
    return this.#waiting.length - this.paused;
  }

  /** Those that wait for their readers. */
  get paused(): number {
    return this.#waiting.filter(({ paused }) => paused).length;
  }

  get running(): number {
    return this.#running.length;
  }

  /** Puts a sequence into the queue, at the place that its priority and arrival give it. */
  add(sequence: Sequence): void {
    const at = this.#waiting.findIndex((other) => before(sequence, other));
    this.#waiting.splice(at < 0 ? this.#waiting.length : at, 0, sequence);
  }

  /** Forgets a sequence, wherever it is, and frees its blocks. */
  remove(sequence: Sequence): void {
    for (const list of [this.#waiting, this.#running]) {
      const at = list.indexOf(sequence);
      if (at >= 0) list.splice(at, 1);
    }
    sequence.release(this.pool);
  }

  /** The next step's work. Blocks for all of it are taken, and count as computed. */
  plan(): Plan {
    for (const sequence of this.#running.filter(({ paused }) => paused)) this.#setAside(sequence);
    this.#giveWay();
    const decode: Sequence[] = [];
    for (const sequence of this.#running.filter((s) => s.decoding).sort(order)) {
      if (this.#makeRoom(sequence)) {
        sequence.extend(this.pool, sequence.wanted);
        decode.push(sequence);
      }
    }

    const prefill: Chunk[] = [];
    let budget = this.#options.maxPrefill;
    const chunk = (sequence: Sequence) => {
      const start = sequence.computed;
      const end = Math.min(sequence.tokens.length, start + budget);
      budget -= end - start;
      sequence.advance(this.pool, end);
      prefill.push({ sequence, start, end });
    };
    const unfinished = this.#running.filter((s) => !s.decoding).sort(order);
    for (const sequence of unfinished) if (budget > 0) chunk(sequence);
    while (budget > 0 && this.#admit()) chunk(this.#running.at(-1)!);

    for (const sequence of decode) sequence.advance(this.pool, sequence.tokens.length);
    return { prefill, decode };
  }

  /** A draft proved right: its token, which was appended, counts as computed. */
  accept(sequence: Sequence): void {
    sequence.advance(this.pool, sequence.tokens.length);
  }

  /** Recounts every block. @throws Error if the accounts do not agree */
  check(): void {
    const held = [...this.#waiting, ...this.#running].map(({ blocks }) => blocks);
    this.pool.check(held);
  }

  /** Frees blocks for one more token; false if the sequence itself had to give way. */
  #makeRoom(sequence: Sequence): boolean {
    while (this.#running.includes(sequence)) {
      if (sequence.missing(sequence.wanted) <= this.pool.free) return true;
      this.#preempt(this.#running.toSorted(order).at(-1)!);
    }
    return false;
  }

  /** Those of less priority wait if else the first of the queue would have to, the last of them first. */
  #giveWay(): void {
    const urgent = this.#next();
    if (urgent === undefined) return;
    const victims = this.#running.filter(({ priority }) => priority > urgent.priority).sort(order);
    const held = victims.reduce((sum, { blocks }) => sum + blocks.length, 0);
    const need = urgent.missing(urgent.tokens.length);
    if (need > this.pool.free + held) return;
    const isFull = () => this.#running.length >= this.#options.maxRunning || need > this.pool.free;
    while (isFull() && victims.length > 0) this.#preempt(victims.pop()!);
  }

  #preempt(victim: Sequence): void {
    this.#setAside(victim);
    this.preemptions++;
  }

  /** Takes a sequence's blocks; it waits at its old place. */
  #setAside(sequence: Sequence): void {
    this.#running.splice(this.#running.indexOf(sequence), 1);
    sequence.release(this.pool);
    sequence.preemptions++;
    this.add(sequence);
  }

  /** The first of the queue that can go on. */
  #next(): Sequence | undefined {
    return this.#waiting.find(({ paused }) => !paused);
  }

  /** Starts the first of the queue, if there is a place and room for all its tokens. */
  #admit(): boolean {
    const sequence = this.#next();
    if (sequence === undefined || this.#running.length >= this.#options.maxRunning) return false;
    sequence.reuse(this.pool);
    if (sequence.missing(sequence.tokens.length) > this.pool.free) {
      sequence.release(this.pool);
      return false;
    }
    this.#waiting.splice(this.#waiting.indexOf(sequence), 1);
    this.#running.push(sequence);
    sequence.extend(this.pool, sequence.tokens.length);
    this.prefixQueries += sequence.tokens.length;
    this.prefixHits += sequence.computed;
    if (sequence.preemptions === 0) sequence.cachedTokens = sequence.computed;
    return true;
  }
}

function before(a: Sequence, b: Sequence): boolean {
  return a.priority !== b.priority ? a.priority < b.priority : a.arrival < b.arrival;
}

function order(a: Sequence, b: Sequence): number {
  return before(a, b) ? -1 : 1;
}
