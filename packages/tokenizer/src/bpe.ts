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
  /** Merge of rank r joins `left[r]` and `right[r]` into `merged[r]`; lower ranks go first. */
  left: Uint32Array;
  right: Uint32Array;
  merged: Uint32Array;
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
  /** Open addressing, four words per slot: left, right, rank, merged. An empty slot's rank is -1. */
  readonly #pairs: Int32Array;
  readonly #shift: number;
  readonly #whole: TokenIndex | undefined;

  // The word in work: symbols, the rank of each with its right neighbour, and for the heap, links.
  #symbols: Int32Array = new Int32Array(SCAN_LIMIT);
  #ranks: Int32Array = new Int32Array(SCAN_LIMIT);
  #mergedIds: Int32Array = new Int32Array(SCAN_LIMIT);
  #next: Int32Array = new Int32Array(SCAN_LIMIT);
  #previous: Int32Array = new Int32Array(SCAN_LIMIT);

  constructor(model: BpeModel) {
    this.#model = model;
    const bits = Math.max(4, 33 - Math.clz32(model.left.length));
    this.#shift = 32 - bits;
    const pairs = new Int32Array(4 << bits).fill(-1);
    const mask = pairs.length - 1;
    for (let rank = 0; rank < model.left.length; rank++) {
      const left = model.left[rank]!;
      const right = model.right[rank]!;
      let slot = hashPair(left, right, this.#shift) << 2;
      // A pair that is listed twice has the later rank, as in Hugging Face's map.
      while (pairs[slot + 2] !== -1 && !(pairs[slot] === left && pairs[slot + 1] === right)) {
        slot = (slot + 4) & mask;
      }
      pairs[slot] = left;
      pairs[slot + 1] = right;
      pairs[slot + 2] = rank;
      pairs[slot + 3] = model.merged[rank]!;
    }
    this.#pairs = pairs;
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
    this.#mergedIds = new Int32Array(size);
    this.#next = new Int32Array(size);
    this.#previous = new Int32Array(size);
  }

  /** Slot of the pair in the table, or -1. */
  #find(left: number, right: number): number {
    const pairs = this.#pairs;
    const mask = pairs.length - 1;
    let slot = hashPair(left, right, this.#shift) << 2;
    for (;;) {
      if (pairs[slot] === left && pairs[slot + 1] === right) return slot;
      if (pairs[slot + 2] === -1) return -1;
      slot = (slot + 4) & mask;
    }
  }

  #rate(i: number, left: number, right: number): void {
    const slot = this.#find(left, right);
    if (slot < 0) this.#ranks[i] = NO_RANK;
    else {
      this.#ranks[i] = this.#pairs[slot + 2]!;
      this.#mergedIds[i] = this.#pairs[slot + 3]!;
    }
  }

  #mergeByScan(length: number): number {
    const symbols = this.#symbols;
    const ranks = this.#ranks;
    const mergedIds = this.#mergedIds;
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
      symbols[at] = mergedIds[at]!;
      count--;
      for (let i = at + 1; i < count; i++) {
        symbols[i] = symbols[i + 1]!;
        ranks[i] = ranks[i + 1]!;
        mergedIds[i] = mergedIds[i + 1]!;
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
      symbols[at] = this.#mergedIds[at]!;
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

function hashPair(left: number, right: number, shift: number): number {
  return Math.imul(Math.imul(left, 0x9e3779b1) ^ right, 0x85ebca6b) >>> shift;
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

/** Finds a token by its bytes. */
export class TokenIndex {
  readonly #model: BpeModel;
  readonly #table: Int32Array;
  readonly #hashes: Int32Array;

  constructor(model: BpeModel) {
    this.#model = model;
    const { vocabSize, pool, starts, lengths } = model;
    this.#table = new Int32Array(1 << (34 - Math.clz32(vocabSize))).fill(-1);
    this.#hashes = new Int32Array(vocabSize);
    const mask = this.#table.length - 1;
    for (let id = 0; id < vocabSize; id++) {
      if (lengths[id] === 0) continue;
      const hash = hashBytes(pool, starts[id]!, starts[id]! + lengths[id]!);
      this.#hashes[id] = hash;
      let slot = spread(hash) & mask;
      while (this.#table[slot]! >= 0) slot = (slot + 1) & mask;
      this.#table[slot] = id;
    }
  }

  /** The id of the token `bytes[start..end)`, or -1; `hash` where the caller has it already. */
  find(
    bytes: Uint8Array,
    start: number,
    end: number,
    hash: number = hashBytes(bytes, start, end),
  ): number {
    const { pool, starts, lengths } = this.#model;
    const mask = this.#table.length - 1;
    for (let slot = spread(hash) & mask; ; slot = (slot + 1) & mask) {
      const id = this.#table[slot]!;
      if (id < 0) return -1;
      if (
        this.#hashes[id] === hash &&
        lengths[id] === end - start &&
        sameBytes(pool, starts[id]!, bytes, start, end - start)
      ) {
        return id;
      }
    }
  }
}

/** FNV's low bits are its weakest. */
function spread(hash: number): number {
  return hash ^ (hash >>> 15);
}
