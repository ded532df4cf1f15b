/**
 * MinHash signatures of texts (Broder 1997): the share of places at which two signatures agree estimates
 * the Jaccard similarity of the texts' sets of shingles, with a standard error of √(s(1 − s) / 128).
 *
 * One hash of each shingle serves all places: it chooses one of 128 bins, and the least in each bin
 * counts (Li, Owen and Zhang, NIPS 2012); bins that stay empty borrow from random full ones
 * (Shrivastava, ICML 2017).
 */
import { mix, wordHashes } from "./words.ts";

/** Places of a signature. */
export const BINS = 128;
/** Words in a row that make a shingle; a shorter text is one. */
const SHINGLE_WORDS = 5;
const EMPTY = 0xffffffff;

/** A text's signature [BINS]; undefined for one without words. */
export function minHash(text: string): Uint32Array | undefined {
  const words = wordHashes(text);
  if (words.length === 0) return undefined;
  const bins = new Uint32Array(BINS).fill(EMPTY);
  const width = Math.min(SHINGLE_WORDS, words.length);
  // A polynomial of the words, rolled from each shingle to the next.
  const base = 0x9e3779b1;
  let gone = 1;
  for (let w = 0; w < width; w++) gone = Math.imul(gone, base);
  let rolled = 0;
  for (let i = 0; i < words.length; i++) {
    rolled = (Math.imul(rolled, base) + (words[i] as number)) | 0;
    if (i >= width) rolled = (rolled - Math.imul(words[i - width] as number, gone)) | 0;
    if (i < width - 1) continue;
    const h = mix(rolled);
    const least = mix(h ^ 0x5bd1e995);
    if (least < (bins[h % BINS] as number)) bins[h % BINS] = least;
  }
  return withoutEmpty(bins);
}

function withoutEmpty(bins: Uint32Array): Uint32Array {
  const full = bins.slice();
  for (let bin = 0; bin < BINS; bin++) {
    let from = bin;
    for (let attempt = 1; bins[from] === EMPTY; attempt++) from = mix(bin * BINS + attempt) % BINS;
    full[bin] = bins[from] as number;
  }
  return full;
}
