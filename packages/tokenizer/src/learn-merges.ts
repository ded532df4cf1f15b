import { grow, type WordCounts } from "./word-counter.ts";

/** Where to stop merging. */
export interface MergeLimits {
  /** Tokens in all, those given included. */
  vocabSize: number;
  /** Pairs that occur less often are not merged. */
  minFrequency: number;
  /** Merged tokens are shorter than this many bytes, but for those of two. */
  maxTokenLength: number;
}

/** The vocabulary as it grows. */
export interface GrowingVocab {
  /** Each id's bytes as a string of characters up to U+00FF; "" for a token that no text gives. */
  tokens: string[];
  /** Token of each single byte. 256 entries. */
  byteIds: Uint32Array;
  /** Strings that no merge may give. */
  reserved: ReadonlySet<string>;
}

/**
 * Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909, algorithm 1): again and again, the
 * most frequent pair of neighbours becomes a token; of equally frequent pairs, that with the lower
 * ids. `vocab.tokens` grows by the new tokens.
 *
 * The books are kept exactly as Hugging Face's trainer keeps them, also where one string is reached
 * by two pairs ("--" + "----" and "----" + "--"): a queue entry knows the words where its pair was
 * formed since the last entry, and a pair keeps what is left of its count when it is merged.
 *
 * Yields the size of the vocabulary after every new token.
 * @returns left, right and merged token, three by three, first merge first
 */
export function* learnMerges(
  words: WordCounts,
  vocab: GrowingVocab,
  limits: MergeLimits,
): Generator<number, Uint32Array> {
  const { tokens } = vocab;
  const idOf = new Map(tokens.map((token, id) => [token, id]));
  const text = symbolsOf(words, vocab.byteIds);
  const pairs = new PairTable();
  const queue = new PairQueue(pairs);
  const changes = new Changes(pairs);

  const wordCount = words.counts.length;
  for (let w = 0; w < wordCount; w++) {
    const count = words.counts[w]!;
    const start = words.starts[w]!;
    const end = start + text.lengths[w]!;
    for (let i = start; i + 1 < end; i++) {
      changes.add(pairs.index(text.symbols[i]!, text.symbols[i + 1]!), count, w);
    }
  }
  changes.flush(queue);

  let merges = new Uint32Array(1 << 12);
  let merged = 0;
  while (tokens.length < limits.vocabSize) {
    const entry = queue.pop();
    if (entry < 0) break;
    const pair = queue.pairOf[entry]!;
    const count = pairs.counts[pair]!;
    if (queue.countOf[entry] !== count) {
      if (count > 0) queue.put(entry, count);
      continue;
    }
    if (count < limits.minFrequency) break;
    const left = pairs.lefts[pair]!;
    const right = pairs.rights[pair]!;
    const token = tokens[left]! + tokens[right]!;
    if (vocab.reserved.has(token)) continue;
    let id = idOf.get(token);
    if (id === undefined) {
      id = tokens.push(token) - 1;
      idOf.set(token, id);
      yield tokens.length;
    }
    if (3 * merged + 3 > merges.length) merges = grow(merges, 0);
    merges.set([left, right, id], 3 * merged++);

    const end = queue.placeEnds[entry]!;
    for (let p = queue.placeStarts[entry]!; p < end; p++) {
      mergeInWord(queue.places[p]!, left, right, id);
    }
    changes.flush(queue);
  }
  return withoutRepeats(merges.subarray(0, 3 * merged));

  /** Puts `id` for every `left`, `right` of a word, from the left, and notes what that changes. */
  function mergeInWord(word: number, left: number, right: number, id: number): void {
    const symbols = text.symbols;
    const start = words.starts[word]!;
    const end = start + text.lengths[word]!;
    const count = words.counts[word]!;
    const room = limits.maxTokenLength - tokens[id]!.length;
    let out = start;
    for (let i = start; i < end; i++) {
      const symbol = symbols[i]!;
      if (symbol !== left || i + 1 === end || symbols[i + 1] !== right) {
        symbols[out++] = symbol;
        continue;
      }
      if (out > start) {
        const before = symbols[out - 1]!;
        changes.add(pairs.index(before, left), -count, word);
        if (tokens[before]!.length < room) changes.add(pairs.index(before, id), count, word);
      }
      i++;
      symbols[out++] = id;
      if (i + 1 < end) {
        const after = symbols[i + 1]!;
        changes.add(pairs.index(right, after), -count, word);
        if (tokens[after]!.length < room) changes.add(pairs.index(id, after), count, word);
      }
    }
    text.lengths[word] = out - start;
  }
}

/** Each word as symbols, where its bytes are in the pool; words only shrink. */
function symbolsOf(
  { pool, starts, counts }: WordCounts,
  byteIds: Uint32Array,
): { symbols: Int32Array; lengths: Int32Array } {
  const symbols = new Int32Array(pool.length);
  for (let i = 0; i < pool.length; i++) symbols[i] = byteIds[pool[i]!]!;
  const lengths = new Int32Array(counts.length);
  for (let w = 0; w < lengths.length; w++) lengths[w] = starts[w + 1]! - starts[w]!;
  return { symbols, lengths };
}

/** A pair that was merged twice has the later place. */
function withoutRepeats(merges: Uint32Array): Uint32Array {
  const last = new Map<number, number>();
  for (let i = 0; i < merges.length; i += 3) last.set(merges[i]! * 2 ** 32 + merges[i + 1]!, i);
  if (3 * last.size === merges.length) return merges.slice();
  const kept = [...last.values()].sort((a, b) => a - b);
  return Uint32Array.from(kept.flatMap((i) => [...merges.subarray(i, i + 3)]));
}

/** Numbers the pairs of neighbours as they turn up, and holds the count of each. */
class PairTable {
  size = 0;
  lefts = new Int32Array(1 << 12);
  rights = new Int32Array(1 << 12);
  counts = new Float64Array(1 << 12);
  /** Number + 1 of the pair in each slot, at most half full; 0 is empty. */
  #slots = new Int32Array(1 << 13);

  index(left: number, right: number): number {
    const slots = this.#slots;
    const mask = slots.length - 1;
    let slot = hashPair(left, right) & mask;
    for (; slots[slot] !== 0; slot = (slot + 1) & mask) {
      const pair = slots[slot]! - 1;
      if (this.lefts[pair] === left && this.rights[pair] === right) return pair;
    }
    const pair = this.size++;
    slots[slot] = pair + 1;
    if (pair === this.lefts.length) {
      this.lefts = grow(this.lefts, 0);
      this.rights = grow(this.rights, 0);
      this.counts = grow(this.counts, 0);
    }
    this.lefts[pair] = left;
    this.rights[pair] = right;
    if (2 * this.size > slots.length) this.#rehash(2 * slots.length);
    return pair;
  }

  #rehash(size: number): void {
    const slots = new Int32Array(size);
    const mask = size - 1;
    for (let pair = 0; pair < this.size; pair++) {
      let slot = hashPair(this.lefts[pair]!, this.rights[pair]!) & mask;
      while (slots[slot] !== 0) slot = (slot + 1) & mask;
      slots[slot] = pair + 1;
    }
    this.#slots = slots;
  }
}

function hashPair(left: number, right: number): number {
  const mixed = Math.imul(Math.imul(left, 0x9e3779b1) ^ right, 0x85ebca6b);
  return mixed ^ (mixed >>> 15);
}

/** What one merge changes: counts at once, and the words where pairs were formed, to be queued. */
class Changes {
  readonly #pairs: PairTable;
  #size = 0;
  #pairOf = new Int32Array(1 << 12);
  #wordOf = new Int32Array(1 << 12);
  /** The last word noted for each pair, + 1, and how many; zero outside a merge. */
  #lastWord = new Int32Array(1 << 12);
  #wordsOf = new Int32Array(1 << 12);

  constructor(pairs: PairTable) {
    this.#pairs = pairs;
  }

  add(pair: number, count: number, word: number): void {
    this.#pairs.counts[pair]! += count;
    if (count < 0) return;
    if (pair >= this.#lastWord.length) {
      this.#lastWord = grow(this.#lastWord, pair + 1);
      this.#wordsOf = grow(this.#wordsOf, pair + 1);
    }
    if (this.#lastWord[pair] === word + 1) return;
    this.#lastWord[pair] = word + 1;
    this.#wordsOf[pair]!++;
    if (this.#size === this.#pairOf.length) {
      this.#pairOf = grow(this.#pairOf, 0);
      this.#wordOf = grow(this.#wordOf, 0);
    }
    this.#pairOf[this.#size] = pair;
    this.#wordOf[this.#size++] = word;
  }

  /** Queues every pair that was formed, with its words together, and forgets them. */
  flush(queue: PairQueue): void {
    let place = queue.reserve(this.#size);
    // From here on, wordsOf is where the pair's next word goes.
    for (let i = 0; i < this.#size; i++) {
      const pair = this.#pairOf[i]!;
      if (this.#lastWord[pair] === 0) continue; // has its places
      this.#lastWord[pair] = 0;
      const words = this.#wordsOf[pair]!;
      if (this.#pairs.counts[pair]! > 0) queue.add(pair, place, place + words);
      this.#wordsOf[pair] = place;
      place += words;
    }
    for (let i = 0; i < this.#size; i++) {
      queue.places[this.#wordsOf[this.#pairOf[i]!]!++] = this.#wordOf[i]!;
    }
    for (let i = 0; i < this.#size; i++) this.#wordsOf[this.#pairOf[i]!] = 0;
    this.#size = 0;
    if (this.#pairOf.length > 1 << 20) {
      this.#pairOf = new Int32Array(1 << 12);
      this.#wordOf = new Int32Array(1 << 12);
    }
  }
}

/**
 * Priority queue: highest count first, then the lower left id, then the lower right one. An entry's
 * count may be out of date, but only too high.
 */
class PairQueue {
  readonly #pairs: PairTable;
  #size = 0;
  #heap = new Int32Array(1 << 12);
  #entries = 0;
  #placed = 0;
  pairOf = new Int32Array(1 << 12);
  countOf = new Float64Array(1 << 12);
  /** Words of each entry: `places[placeStarts[e] .. placeEnds[e])`. */
  placeStarts = new Uint32Array(1 << 12);
  placeEnds = new Uint32Array(1 << 12);
  places = new Int32Array(1 << 12);

  constructor(pairs: PairTable) {
    this.#pairs = pairs;
  }

  /** Makes room for that many more words, and returns where they go. */
  reserve(words: number): number {
    const start = this.#placed;
    this.#placed += words;
    if (this.#placed > this.places.length) this.places = grow(this.places, this.#placed);
    return start;
  }

  add(pair: number, placeStart: number, placeEnd: number): void {
    const entry = this.#entries++;
    if (entry === this.pairOf.length) {
      this.pairOf = grow(this.pairOf, 0);
      this.countOf = grow(this.countOf, 0);
      this.placeStarts = grow(this.placeStarts, 0);
      this.placeEnds = grow(this.placeEnds, 0);
    }
    this.pairOf[entry] = pair;
    this.placeStarts[entry] = placeStart;
    this.placeEnds[entry] = placeEnd;
    this.put(entry, this.#pairs.counts[pair]!);
  }

  /** Puts an entry in, with the count given. */
  put(entry: number, count: number): void {
    this.countOf[entry] = count;
    if (this.#size === this.#heap.length) this.#heap = grow(this.#heap, 0);
    const heap = this.#heap;
    let i = this.#size++;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!this.#isBefore(entry, heap[parent]!)) break;
      heap[i] = heap[parent]!;
      i = parent;
    }
    heap[i] = entry;
  }

  /** Takes the first entry out; -1 where there is none. */
  pop(): number {
    if (this.#size === 0) return -1;
    const heap = this.#heap;
    const first = heap[0]!;
    const entry = heap[--this.#size]!;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= this.#size) break;
      if (child + 1 < this.#size && this.#isBefore(heap[child + 1]!, heap[child]!)) child++;
      if (!this.#isBefore(heap[child]!, entry)) break;
      heap[i] = heap[child]!;
      i = child;
    }
    heap[i] = entry;
    return first;
  }

  #isBefore(a: number, b: number): boolean {
    const counts = this.countOf[a]! - this.countOf[b]!;
    if (counts !== 0) return counts > 0;
    const { lefts, rights } = this.#pairs;
    const p = this.pairOf[a]!;
    const q = this.pairOf[b]!;
    return lefts[p] === lefts[q] ? rights[p]! < rights[q]! : lefts[p]! < lefts[q]!;
  }
}
