import { BpeMerger, type BpeModel } from "./bpe.ts";
import { hashBytes, sameBytes } from "./bytes.ts";
import type { Scanner } from "./pretokenize.ts";

/** A list of ids that grows; cleared and used again by every call. */
export class IdBuffer {
  data: Uint32Array = new Uint32Array(1024);
  length = 0;

  push(id: number): void {
    this.reserve(1);
    this.data[this.length++] = id;
  }

  /** Makes room for `extra` more ids. */
  reserve(extra: number): void {
    if (this.length + extra <= this.data.length) return;
    const grown = new Uint32Array(Math.max(this.length + extra, this.data.length * 2));
    grown.set(this.data.subarray(0, this.length));
    this.data = grown;
  }

  take(): Uint32Array {
    const ids = this.data.slice(0, this.length);
    this.length = 0;
    if (this.data.length > 1 << 20) this.data = new Uint32Array(1024);
    return ids;
  }
}

// A cached word is one slot of sixteen 32-bit words (a cache line):
// hash, byte length | token count << 8, the tokens, the bytes.
const SLOT = 16;
const MAX_TOKENS = 6;
const MAX_BYTES = 32;
const TOKENS = 2;
const BYTES = TOKENS + MAX_TOKENS;
const WAYS = 4;
const SLOTS = 1 << 16;

/**
 * Text in UTF-8 to ids, through a cache of short words. The cache is 4-way associative and 4 MiB
 * for ever: no text can make it grow or slow, and the words of a language soon live in it.
 */
export class Encoder {
  readonly #scan: Scanner;
  readonly #merger: BpeMerger;
  readonly #byteIds: Uint32Array;
  #words: Int32Array = new Int32Array(0); // made at the first use
  #wordBytes: Uint8Array = new Uint8Array(0);
  #victim = 0;

  constructor(model: BpeModel, scan: Scanner) {
    this.#scan = scan;
    this.#merger = new BpeMerger(model);
    this.#byteIds = model.byteIds;
  }

  /** Appends the tokens of `bytes[start..end)`, valid UTF-8, to `out`. */
  encode(bytes: Uint8Array, start: number, end: number, out: IdBuffer): void {
    if (this.#words.length === 0) {
      this.#words = new Int32Array(SLOT * SLOTS);
      this.#wordBytes = new Uint8Array(this.#words.buffer);
    }
    const scan = this.#scan;
    const words = this.#words;
    let ids = out.data;
    let n = out.length;
    let pos = start;
    while (pos < end) {
      const stop = scan(bytes, pos, end);
      const length = stop - pos;
      if (n + length > ids.length) {
        out.length = n;
        out.reserve(length);
        ids = out.data;
      }
      if (length === 1) ids[n++] = this.#byteIds[bytes[pos]!]!;
      else if (length > MAX_BYTES) n += this.#merger.merge(bytes, pos, stop, ids, n);
      else {
        const hash = hashBytes(bytes, pos, stop);
        const slot = this.#find(bytes, pos, length, hash);
        if (slot >= 0) {
          const count = words[slot + 1]! >> 8;
          ids[n++] = words[slot + TOKENS]!;
          for (let i = 1; i < count; i++) ids[n++] = words[slot + TOKENS + i]!;
        } else {
          const count = this.#merger.merge(bytes, pos, stop, ids, n);
          if (count <= MAX_TOKENS) this.#keep(bytes, pos, length, hash, ids, n, count);
          n += count;
        }
      }
      pos = stop;
    }
    out.length = n;
  }

  #find(bytes: Uint8Array, start: number, length: number, hash: number): number {
    const words = this.#words;
    const set = setOf(hash);
    for (let slot = set; slot < set + SLOT * WAYS; slot += SLOT) {
      if (
        words[slot] === hash &&
        (words[slot + 1]! & 0xff) === length &&
        sameBytes(this.#wordBytes, (slot + BYTES) * 4, bytes, start, length)
      ) {
        return slot;
      }
    }
    return -1;
  }

  #keep(
    bytes: Uint8Array,
    start: number,
    length: number,
    hash: number,
    ids: Uint32Array,
    at: number,
    count: number,
  ): void {
    const words = this.#words;
    const set = setOf(hash);
    let slot = set;
    while (slot < set + SLOT * WAYS && words[slot + 1] !== 0) slot += SLOT;
    if (slot === set + SLOT * WAYS) {
      this.#victim = (this.#victim + 1) % WAYS;
      slot = set + SLOT * this.#victim;
    }
    words[slot] = hash;
    words[slot + 1] = length | (count << 8);
    for (let i = 0; i < count; i++) words[slot + TOKENS + i] = ids[at + i]!;
    for (let i = 0; i < length; i++) this.#wordBytes[(slot + BYTES) * 4 + i] = bytes[start + i]!;
  }
}

/** First slot of the hash's set. */
function setOf(hash: number): number {
  return (Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d) >>> 18) * (SLOT * WAYS);
}
