import { hashBytes, sameBytes } from "./bytes.ts";

/** A tokenizer's vocabulary and merges as plain arrays, cheap to hand to a worker. */
export interface BpeModel {
  /** Highest id + 1. */
  vocabSize: number;
  /** The bytes of every token, in any order. */
  pool: Uint8Array;
  /** Where each id's bytes start in `pool`. */
  starts: Uint32Array;
  /** How many they are; 0 for ids without a token. */
  lengths: Uint16Array;
  /** Token of each single byte. 256 entries. */
  byteIds: Uint32Array;
  /** Three by three, best first: left token, right token, and the token that they become. */
  merges: Uint32Array;
  /** A word that is a token by itself is that token, whatever the merges would give. */
  ignoreMerges: boolean;
}

/** Words up to here find the best pair by looking at all of them; longer ones use a heap. */
const SCAN_LIMIT = 96;
/** Scratch memory for a longer word is given back. */
const KEEP_SCRATCH = 1 << 16;
const NO_RANK = 0x7fffffff;

/** Applies a model's merges to one word at a time. */
export class BpeMerger {
  readonly #model: BpeModel;
  /** Rank + 1 of each pair in the low bits, and the pair's hash above them. An empty slot is 0. */
  readonly #pairs: Int32Array;
  readonly #rankMask: number;
  readonly #whole: TokenIndex | undefined;

  // The word in work: symbols, the rank of each with its right neighbour, and for the heap, links.
  #symbols: Int32Array = new Int32Array(SCAN_LIMIT);
  #ranks: Int32Array = new Int32Array(SCAN_LIMIT);
  #next: Int32Array = new Int32Array(SCAN_LIMIT);
  #previous: Int32Array = new Int32Array(SCAN_LIMIT);

  constructor(model: BpeModel) {
    this.#model = model;
    const count = model.merges.length / 3;
    this.#pairs = new Int32Array(tableSize(count));
    this.#rankMask = idMask(count);
    const merges = model.merges;
    const pairs = this.#pairs;
    const mask = pairs.length - 1;
    const rankMask = this.#rankMask;
    for (let rank = 0; rank < count; rank++) {
      const left = merges[3 * rank]!;
      const right = merges[3 * rank + 1]!;
      const hash = hashPair(left, right);
      const tag = tagOf(hash) & ~rankMask;
      let slot = hash & mask;
      for (; pairs[slot] !== 0; slot = (slot + 1) & mask) {
        if ((pairs[slot]! & ~rankMask) !== tag) continue;
        // A pair that is listed twice has the later rank, as in Hugging Face's map.
        const other = (pairs[slot]! & rankMask) - 1;
        if (merges[3 * other] === left && merges[3 * other + 1] === right) break;
      }
      pairs[slot] = tag | (rank + 1);
    }
    if (model.ignoreMerges) this.#whole = new TokenIndex(model);
  }

  /** Writes the tokens of the word `bytes[start..end)` to `out` from `at`; returns how many. */
  merge(bytes: Uint8Array, start: number, end: number, out: Uint32Array, at: number): number {
    const whole = this.#whole?.find(bytes, start, end) ?? -1;
    if (whole >= 0) {
      out[at] = whole;
      return 1;
    }
    const length = end - start;
    if (length > this.#symbols.length) this.#setScratch(length * 2);
    const symbols = this.#symbols;
    const byteIds = this.#model.byteIds;
    for (let i = 0; i < length; i++) symbols[i] = byteIds[bytes[start + i]!]!;
    const count = length <= SCAN_LIMIT ? this.#mergeByScan(length) : this.#mergeByHeap(length);
    for (let i = 0; i < count; i++) out[at + i] = symbols[i]!;
    if (length > KEEP_SCRATCH) this.#setScratch(SCAN_LIMIT);
    return count;
  }

  #setScratch(size: number): void {
    this.#symbols = new Int32Array(size);
    this.#ranks = new Int32Array(size);
    this.#next = new Int32Array(size);
    this.#previous = new Int32Array(size);
  }

  /** Notes the rank of the pair at `i`. */
  #rate(i: number, left: number, right: number): void {
    const pairs = this.#pairs;
    const merges = this.#model.merges;
    const rankMask = this.#rankMask;
    const mask = pairs.length - 1;
    const hash = hashPair(left, right);
    const tag = tagOf(hash) & ~rankMask;
    for (let slot = hash & mask; pairs[slot] !== 0; slot = (slot + 1) & mask) {
      const entry = pairs[slot]!;
      if ((entry & ~rankMask) !== tag) continue;
      const rank = (entry & rankMask) - 1;
      if (merges[3 * rank] === left && merges[3 * rank + 1] === right) {
        this.#ranks[i] = rank;
        return;
      }
    }
    this.#ranks[i] = NO_RANK;
  }

  #mergeByScan(length: number): number {
    const symbols = this.#symbols;
    const ranks = this.#ranks;
    const merges = this.#model.merges;
    let count = length;
    for (let i = 0; i < count - 1; i++) this.#rate(i, symbols[i]!, symbols[i + 1]!);
    for (;;) {
      let best = NO_RANK;
      let at = -1;
      for (let i = 0; i < count - 1; i++) {
        const rank = ranks[i]!;
        if (rank < best) {
          best = rank;
          at = i;
        }
      }
      if (at < 0) return count;
      symbols[at] = merges[3 * best + 2]!;
      count--;
      for (let i = at + 1; i < count; i++) {
        symbols[i] = symbols[i + 1]!;
        ranks[i] = ranks[i + 1]!;
      }
      if (at > 0) this.#rate(at - 1, symbols[at - 1]!, symbols[at]!);
      if (at < count - 1) this.#rate(at, symbols[at]!, symbols[at + 1]!);
    }
  }

  /** The same with a priority queue: n log n for a word of n bytes. */
  #mergeByHeap(length: number): number {
    const symbols = this.#symbols;
    const ranks = this.#ranks;
    const next = this.#next;
    const previous = this.#previous;
    const heap = new MinHeap(length);
    const rateAndQueue = (i: number, right: number): void => {
      this.#rate(i, symbols[i]!, symbols[right]!);
      if (ranks[i] !== NO_RANK) heap.push(ranks[i]! * 2 ** 32 + i); // by rank, then from the left
    };
    for (let i = 0; i < length; i++) {
      next[i] = i + 1;
      previous[i] = i - 1;
    }
    for (let i = 0; i < length - 1; i++) rateAndQueue(i, i + 1);
    ranks[length - 1] = NO_RANK;

    while (heap.size > 0) {
      const top = heap.pop();
      const rank = Math.floor(top / 2 ** 32);
      const at = top - rank * 2 ** 32;
      if (ranks[at] !== rank) continue; // the pair that was queued is no longer there
      const gone = next[at]!;
      const after = next[gone]!;
      symbols[at] = this.#model.merges[3 * rank + 2]!;
      ranks[gone] = NO_RANK;
      next[at] = after;
      if (after < length) {
        previous[after] = at;
        rateAndQueue(at, after);
      } else ranks[at] = NO_RANK;
      if (previous[at]! >= 0) rateAndQueue(previous[at]!, at);
    }
    let count = 0;
    for (let i = 0; i < length; i = next[i]!) symbols[count++] = symbols[i]!;
    return count;
  }
}

function hashPair(left: number, right: number): number {
  const mixed = Math.imul(Math.imul(left, 0x9e3779b1) ^ right, 0x85ebca6b);
  return mixed ^ (mixed >>> 15);
}

/** The bits of a hash that a table's slot number does not tell, in the high bits. */
function tagOf(hash: number): number {
  return Math.imul(hash, 0xc2b2ae35);
}

/** Slots for open addressing, at most half full: a power of two. */
function tableSize(count: number): number {
  return 1 << Math.max(4, 33 - Math.clz32(count));
}

/** The bits that a number from 0 to `count` takes. */
function idMask(count: number): number {
  return 2 ** (32 - Math.clz32(count)) - 1;
}

/** Smallest number first. */
class MinHeap {
  #keys: Float64Array;
  size = 0;

  constructor(capacity: number) {
    this.#keys = new Float64Array(capacity);
  }

  push(key: number): void {
    if (this.size === this.#keys.length) {
      const grown = new Float64Array(this.size * 2);
      grown.set(this.#keys);
      this.#keys = grown;
    }
    const keys = this.#keys;
    let i = this.size++;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (keys[parent]! <= key) break;
      keys[i] = keys[parent]!;
      i = parent;
    }
    keys[i] = key;
  }

  pop(): number {
    const keys = this.#keys;
    const top = keys[0]!;
    const key = keys[--this.size]!;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= this.size) break;
      if (child + 1 < this.size && keys[child + 1]! < keys[child]!) child++;
      if (keys[child]! >= key) break;
      keys[i] = keys[child]!;
      i = child;
    }
    keys[i] = key;
    return top;
  }
}

/** The part of a model that says which bytes each id has. */
export type Tokens = Pick<BpeModel, "vocabSize" | "pool" | "starts" | "lengths">;

/** Finds a token by its bytes. */
export class TokenIndex {
  readonly #model: Tokens;
  /** Id + 1 in the low bits, and the bytes' hash above them. An empty slot is 0. */
  readonly #table: Int32Array;
  readonly #idMask: number;
  /** An id whose bytes another id has as well, or -1. */
  readonly duplicate: number;

  constructor(model: Tokens) {
    this.#model = model;
    const { vocabSize, pool, starts, lengths } = model;
    this.#table = new Int32Array(tableSize(vocabSize));
    this.#idMask = idMask(vocabSize);
    const table = this.#table;
    const mask = table.length - 1;
    let duplicate = -1;
    for (let id = 0; id < vocabSize; id++) {
      if (lengths[id] === 0) continue;
      const start = starts[id]!;
      const end = start + lengths[id]!;
      const hash = hashBytes(pool, start, end);
      const tag = tagOf(hash) & ~this.#idMask;
      let slot = slotOf(hash) & mask;
      for (; table[slot] !== 0; slot = (slot + 1) & mask) {
        if ((table[slot]! & ~this.#idMask) !== tag) continue;
        if (this.is((table[slot]! & this.#idMask) - 1, pool, start, end)) duplicate = id;
      }
      table[slot] = tag | (id + 1);
    }
    this.duplicate = duplicate;
  }

  /** The id of the token `bytes[start..end)`, or -1; `hash` where the caller has it already. */
  find(
    bytes: Uint8Array,
    start: number,
    end: number,
    hash: number = hashBytes(bytes, start, end),
  ): number {
    const table = this.#table;
    const mask = table.length - 1;
    const tag = tagOf(hash) & ~this.#idMask;
    for (let slot = slotOf(hash) & mask; table[slot] !== 0; slot = (slot + 1) & mask) {
      if ((table[slot]! & ~this.#idMask) !== tag) continue;
      const id = (table[slot]! & this.#idMask) - 1;
      if (this.is(id, bytes, start, end)) return id;
    }
    return -1;
  }

  /** Whether `bytes[start..end)` is the token `id`. */
  is(id: number, bytes: Uint8Array, start: number, end: number): boolean {
    const { pool, starts, lengths } = this.#model;
    return lengths[id] === end - start && sameBytes(pool, starts[id]!, bytes, start, end - start);
  }
}

/** FNV's low bits are its weakest. */
function slotOf(hash: number): number {
  return hash ^ (hash >>> 15);
}
