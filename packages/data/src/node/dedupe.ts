/**
 * Which documents were seen before: exactly by their hash, nearly by MinHash over word shingles
 * (Broder 1997), with one permutation cut in bins (Li, Owen and Zhang, NIPS 2012) whose empty bins
 * borrow from a random full one (Shrivastava, ICML 2017), and banded lookup (Leskovec, Rajaraman and
 * Ullman, Mining of Massive Datasets, section 3.4).
 */
import { createHash } from "node:crypto";

export interface DeduplicatorOptions {
  /**
   * Estimated Jaccard similarity of word shingles from which two documents count as near
   * duplicates; 0.8 unless told, 1 for exact duplicates alone.
   */
  readonly near?: number;
}

const BINS = 128;
/** 32 bands of 4 bins meet with probability 1 − (1 − s⁴)³²: 0.98 at s = 0.6, and the estimate decides. */
const BANDS = 32;
const SHINGLE_WORDS = 5;
const EMPTY = 0xffffffff;

export class Deduplicator {
  readonly #near: number;
  readonly #hashes = new Set<string>();
  readonly #signatures: Uint32Array[] = [];
  readonly #bands: Map<string, number[]>[] = Array.from({ length: BANDS }, () => new Map());

  /** @throws RangeError for a similarity outside (0, 1] */
  constructor(options: DeduplicatorOptions = {}) {
    const { near = 0.8 } = options;
    if (!(near > 0 && near <= 1)) throw new RangeError(`near must lie in (0, 1], is ${near}`);
    this.#near = near;
  }

  /** Remembers a document, unless it is one that was there before: then says in which way. */
  add(text: string): "new" | "exact" | "near" {
    const hash = createHash("sha256").update(text).digest("base64");
    if (this.#hashes.has(hash)) return "exact";
    if (this.#near < 1) {
      const signature = minHash(text);
      if (signature && this.#resembles(signature)) return "near";
      if (signature) this.#remember(signature);
    }
    this.#hashes.add(hash);
    return "new";
  }

  #resembles(signature: Uint32Array): boolean {
    const candidates = new Set<number>();
    for (const [b, band] of this.#bands.entries()) {
      for (const d of band.get(bandKey(signature, b)) ?? []) candidates.add(d);
    }
    for (const d of candidates) {
      if (similarity(signature, this.#signatures[d] as Uint32Array) >= this.#near) return true;
    }
    return false;
  }

  #remember(signature: Uint32Array): void {
    const d = this.#signatures.push(signature) - 1;
    for (const [b, band] of this.#bands.entries()) {
      const key = bandKey(signature, b);
      const list = band.get(key);
      if (list) list.push(d);
      else band.set(key, [d]);
    }
  }
}

function bandKey(signature: Uint32Array, band: number): string {
  const width = BINS / BANDS;
  return signature.subarray(band * width, (band + 1) * width).join();
}

function similarity(a: Uint32Array, b: Uint32Array): number {
  let same = 0;
  for (let i = 0; i < BINS; i++) if (a[i] === b[i]) same++;
  return same / BINS;
}

/** The least hash in each bin, over all shingles; undefined for a text without words. */
function minHash(text: string): Uint32Array | undefined {
  const words = wordHashes(text);
  if (words.length === 0) return undefined;
  const bins = new Uint32Array(BINS).fill(EMPTY);
  const width = Math.min(SHINGLE_WORDS, words.length);
  for (let i = 0; i + width <= words.length; i++) {
    let h = 0;
    for (let w = i; w < i + width; w++) h = mix(Math.imul(h, 31) ^ (words[w] as number));
    const bin = h % BINS;
    const rest = mix(h ^ 0x5bd1e995);
    if (rest < (bins[bin] as number)) bins[bin] = rest;
  }
  return fillEmpty(bins);
}

function fillEmpty(bins: Uint32Array): Uint32Array {
  const full = bins.slice();
  for (let bin = 0; bin < BINS; bin++) {
    let from = bin;
    for (let attempt = 1; bins[from] === EMPTY; attempt++) from = mix(bin * BINS + attempt) % BINS;
    full[bin] = bins[from] as number;
  }
  return full;
}

/** A hash per word: runs of letters and digits, in lower case. */
function wordHashes(text: string): number[] {
  const hashes: number[] = [];
  for (const [word] of text.toLowerCase().matchAll(/[\p{L}\p{N}]+/gu)) {
    let h = 0x811c9dc5;
    for (let i = 0; i < word.length; i++) h = Math.imul(h ^ word.charCodeAt(i), 0x01000193);
    hashes.push(mix(h));
  }
  return hashes;
}

/** A 32-bit finaliser (the one of MurmurHash3, A. Appleby). */
function mix(x: number): number {
  let h = x | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
