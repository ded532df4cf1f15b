import { hashBytes, sameBytes } from "./bytes.ts";
import type { Scanner } from "./pretokenize.ts";

/** The distinct words of some texts and how often each occurs, as plain arrays. */
export interface WordCounts {
  /** The bytes of every word. */
  pool: Uint8Array;
  /** Where each word's bytes start in `pool`; one more entry marks the end of the last. */
  starts: Uint32Array;
  /** How often each word occurs. */
  counts: Float64Array;
}

/** Counts words in a hash table over one pool of bytes: no string and no object per word. */
export class WordCounter {
  readonly #scan: Scanner;
  readonly #utf8 = new TextEncoder();
  #size = 0;
  #pool = new Uint8Array(1 << 16);
  #starts = new Uint32Array(1 << 12);
  #hashes = new Int32Array(1 << 12);
  #counts = new Float64Array(1 << 12);
  /** Index + 1 of the word in each slot, at most half full; 0 is empty. */
  #slots = new Uint32Array(1 << 13);

  constructor(scan: Scanner) {
    this.#scan = scan;
  }

  /** Counts the words of one text; a word never joins two texts. */
  add(text: string): void {
    const bytes = this.#utf8.encode(text);
    const end = bytes.length;
    for (let pos = 0; pos < end; ) {
      const stop = this.#scan(bytes, pos, end);
      this.#count(bytes, pos, stop);
      pos = stop;
    }
  }

  /** The counts so far. */
  result(): WordCounts {
    return {
      pool: this.#pool.subarray(0, this.#starts[this.#size]),
      starts: this.#starts.subarray(0, this.#size + 1),
      counts: this.#counts.subarray(0, this.#size),
    };
  }

  #count(bytes: Uint8Array, start: number, end: number): void {
    const hash = hashBytes(bytes, start, end);
    const length = end - start;
    const slots = this.#slots;
    const mask = slots.length - 1;
    let slot = (hash ^ (hash >>> 15)) & mask;
    for (; slots[slot] !== 0; slot = (slot + 1) & mask) {
      const word = slots[slot]! - 1;
      if (this.#hashes[word] !== hash) continue;
      const at = this.#starts[word]!;
      if (this.#starts[word + 1]! - at !== length) continue;
      if (sameBytes(this.#pool, at, bytes, start, length)) {
        this.#counts[word]!++;
        return;
      }
    }
    const word = this.#size++;
    slots[slot] = word + 1;
    const at = this.#starts[word]!;
    if (at + length > this.#pool.length) this.#pool = grow(this.#pool, at + length);
    this.#pool.set(bytes.subarray(start, end), at);
    if (word + 2 > this.#starts.length) {
      this.#starts = grow(this.#starts, word + 2);
      this.#hashes = grow(this.#hashes, word + 2);
      this.#counts = grow(this.#counts, word + 2);
    }
    this.#starts[word + 1] = at + length;
    this.#hashes[word] = hash;
    this.#counts[word] = 1;
    if (2 * this.#size > slots.length) this.#rehash(2 * slots.length);
  }

  #rehash(size: number): void {
    const slots = new Uint32Array(size);
    const mask = size - 1;
    for (let word = 0; word < this.#size; word++) {
      const hash = this.#hashes[word]!;
      let slot = (hash ^ (hash >>> 15)) & mask;
      while (slots[slot] !== 0) slot = (slot + 1) & mask;
      slots[slot] = word + 1;
    }
    this.#slots = slots;
  }
}

/** A longer copy: twice as long, or `least` where that is more. */
export function grow<T extends Uint8Array | Uint32Array | Int32Array | Float64Array>(
  array: T,
  least: number,
): T {
  const length = Math.max(least, 2 * array.length);
  const grown = new (array.constructor as new (length: number) => T)(length);
  grown.set(array as never);
  return grown;
}
