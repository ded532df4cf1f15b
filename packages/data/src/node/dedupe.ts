/**
 * Which documents were seen before: exactly by their hash, nearly by MinHash signatures, which are
 * found by bands (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4).
 */
import { hash } from "node:crypto";
import { BINS, minHash } from "./minhash.ts";
import { mix } from "./words.ts";

export interface DeduplicatorOptions {
  /**
   * Estimated Jaccard similarity of the sets of five-word shingles from which two documents count as
   * near duplicates; 0.8 unless told, 1 for exact duplicates alone.
   */
  readonly near?: number;
}

/**
 * Remembers documents. Memory for each: 32 to 64 bytes for exact duplicates, and 0.8 to 1.5 KiB more
 * for near ones.
 */
export class Deduplicator {
  readonly #near: number;
  readonly #hashes = new HashSet();
  readonly #signatures = new Signatures();

  /** @throws RangeError for a similarity outside (0, 1] */
  constructor(options: DeduplicatorOptions = {}) {
    const { near = 0.8 } = options;
    if (!(near > 0 && near <= 1)) throw new RangeError(`near must lie in (0, 1], is ${near}`);
    this.#near = near;
  }

  /** Remembers a document, unless it is one that was there before: then says in which way. */
  add(text: string): "new" | "exact" | "near" {
    if (!this.#hashes.add(hash("sha256", text, "buffer"))) return "exact";
    if (this.#near < 1) {
      const signature = minHash(text);
      if (signature && this.#signatures.hasSimilar(signature, this.#near)) return "near";
      if (signature) this.#signatures.add(signature);
    }
    return "new";
  }
}

/** 128 bits of each hash, in an open table: a Set of strings takes ten times the memory, and ends at 2²⁴. */
class HashSet {
  #table = new Uint32Array(4 << 10);
  #size = 0;

  /** Whether the hash is new. */
  add(bytes: Uint8Array): boolean {
    const { buffer, byteOffset } = bytes;
    const view = new DataView(buffer, byteOffset, 16);
    // A place whose first word is 0 is free.
    const words = [0, 4, 8, 12].map((at) => view.getUint32(at)) as Words;
    words[0] = (words[0] | 1) >>> 0;
    if (8 * this.#size >= this.#table.length) this.#grow();
    return insert(this.#table, words) && this.#size++ >= 0;
  }

  #grow(): void {
    const old = this.#table;
    this.#table = new Uint32Array(2 * old.length);
    for (let at = 0; at < old.length; at += 4) {
      if (old[at] !== 0) insert(this.#table, old.subarray(at, at + 4) as unknown as Words);
    }
  }
}

type Words = [number, number, number, number];

function insert(table: Uint32Array, [a, b, c, d]: Words): boolean {
  const mask = table.length / 4 - 1;
  for (let place = d & mask; ; place = (place + 1) & mask) {
    const at = 4 * place;
    if (table[at] === 0) {
      table[at] = a;
      table[at + 1] = b;
      table[at + 2] = c;
      table[at + 3] = d;
      return true;
    }
    if (table[at] === a && table[at + 1] === b && table[at + 2] === c && table[at + 3] === d) {
      return false;
    }
  }
}

/**
 * Two texts of similarity s agree in all 4 places of one of 32 bands with probability 1 − (1 − s⁴)³²:
 * 0.87 at s = 0.5, 0.99 at 0.6, more above. Then the estimate from all 128 places decides, which is a
 * binomial one: with `near` = 0.8, a pair counts as near with probability 0.01 at s = 0.7, 0.09 at 0.75,
 * 0.50 at 0.8, 0.94 at 0.85 and 1.00 at 0.9.
 */
const BANDS = 32;
const BAND = BINS / BANDS;

/** Signatures, found by any of their bands. */
class Signatures {
  #count = 0;
  #values = new Uint32Array(BINS << 8);
  /** For each band of each signature, the one before it in its chain, counted from 1; 0 ends it. */
  #next = new Uint32Array(BANDS << 8);
  /** The last of each chain, by the hash of the band. */
  #heads = new Uint32Array(BANDS << 8);

  add(signature: Uint32Array): void {
    if (this.#count * BINS === this.#values.length) this.#grow();
    this.#values.set(signature, this.#count * BINS);
    this.#link(this.#count++);
  }

  hasSimilar(signature: Uint32Array, near: number): boolean {
    for (let band = 0; band < BANDS; band++) {
      const from = band * BAND;
      let entry = this.#heads[this.#chainOf(signature, from, band)] as number;
      for (; entry > 0; entry = this.#next[entry - 1] as number) {
        const at = Math.floor((entry - 1) / BANDS) * BINS;
        // Chains hold other bands, too.
        if ((entry - 1) % BANDS !== band || !this.#agree(signature, at, from)) continue;
        if (this.#similarity(signature, at) >= near) return true;
      }
    }
    return false;
  }

  #agree(signature: Uint32Array, at: number, from: number): boolean {
    for (let i = from; i < from + BAND; i++) {
      if (this.#values[at + i] !== signature[i]) return false;
    }
    return true;
  }

  #similarity(signature: Uint32Array, at: number): number {
    let same = 0;
    for (let i = 0; i < BINS; i++) if (this.#values[at + i] === signature[i]) same++;
    return same / BINS;
  }

  #chainOf(values: Uint32Array, from: number, band: number): number {
    let h = band;
    for (let i = from; i < from + BAND; i++) h = mix(Math.imul(h, 31) ^ (values[i] as number));
    return h & (this.#heads.length - 1);
  }

  #link(index: number): void {
    for (let band = 0; band < BANDS; band++) {
      const chain = this.#chainOf(this.#values, index * BINS + band * BAND, band);
      const entry = index * BANDS + band;
      this.#next[entry] = this.#heads[chain] as number;
      this.#heads[chain] = entry + 1;
    }
  }

  #grow(): void {
    const values = this.#values;
    this.#values = new Uint32Array(2 * values.length);
    this.#values.set(values);
    this.#next = new Uint32Array(2 * this.#next.length);
    this.#heads = new Uint32Array(2 * this.#heads.length);
    for (let index = 0; index < this.#count; index++) this.#link(index);
  }
}
