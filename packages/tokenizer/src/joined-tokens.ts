import type { Tokenizer } from "./tokenizer.ts";
import { classAt, NEWLINE, PUNCTUATION, widthOf } from "./unicode.ts";

export interface JoinedTokenSplitterOptions {
  /** The share of joined tokens that is split, from 0 to 1. The report gives no number. */
  rate: number;
  /** Other seeds split other tokens. Default 0. */
  seed?: number;
}

/**
 * Splits, at random, tokens that join punctuation and line breaks, such as `.\n\n`, into the two.
 * A model that always sees them joined is biased where a prompt ends in the punctuation alone
 * (DeepSeek-V3 technical report, arXiv:2412.19437, section 4.1). The text stays the same.
 */
export class JoinedTokenSplitter {
  /** What stands for each joined token when it is split. */
  readonly parts: ReadonlyMap<number, Uint32Array>;
  readonly #threshold: number;
  readonly #seed: number;

  constructor(tokenizer: Tokenizer, { rate, seed = 0 }: JoinedTokenSplitterOptions) {
    if (!(rate >= 0 && rate <= 1)) throw new RangeError(`rate ${rate}: expected 0 to 1`);
    this.parts = findJoined(tokenizer);
    this.#threshold = rate * 2 ** 32;
    this.#seed = seed;
  }

  /**
   * The ids with some joined tokens split.
   * @param key tells one sequence from another, such as the document's number: what is split
   * depends on seed, key and position alone, so that a resumed run splits the same
   */
  split(ids: Uint32Array, key: number): Uint32Array {
    let extra = 0;
    const chosen: number[] = [];
    for (let i = 0; i < ids.length; i++) {
      const parts = this.parts.get(ids[i]!);
      if (parts === undefined || randomBits(this.#seed, key, i) >= this.#threshold) continue;
      chosen.push(i);
      extra += parts.length - 1;
    }
    const result = new Uint32Array(ids.length + extra);
    let from = 0;
    let at = 0;
    for (const i of chosen) {
      result.set(ids.subarray(from, i), at);
      at += i - from;
      const parts = this.parts.get(ids[i]!)!;
      result.set(parts, at);
      at += parts.length;
      from = i + 1;
    }
    result.set(ids.subarray(from), at);
    return result;
  }
}

/** Tokens of punctuation, perhaps after a space, and then line breaks; each with its two parts. */
function findJoined(tokenizer: Tokenizer): Map<number, Uint32Array> {
  const joined = new Map<number, Uint32Array>();
  for (let id = 0; id < tokenizer.vocabSize; id++) {
    if (tokenizer.byteLengths[id]! < 2) continue;
    const bytes = tokenizer.tokenBytes(id);
    const last = bytes.at(-1)!;
    if (last !== 0x0a && last !== 0x0d) continue;
    const border = borderOf(bytes);
    if (border < 0) continue;
    const ids = [bytes.subarray(0, border), bytes.subarray(border)].flatMap((part) => [
      ...tokenizer.encode(part),
    ]);
    joined.set(id, Uint32Array.from(ids));
  }
  return joined;
}

/** Where the line breaks begin, or -1 where the bytes are not ` ?[\p{P}\p{S}]+[\r\n]+`. */
function borderOf(bytes: Uint8Array): number {
  const start = bytes[0] === 0x20 ? 1 : 0;
  let i = start;
  while (i < bytes.length && classOfWhole(bytes, i) === PUNCTUATION) i += widthOf(bytes[i]!);
  const border = i;
  while (i < bytes.length && classAt(bytes, i) === NEWLINE) i++;
  return border > start && i === bytes.length ? border : -1;
}

/** A token may begin or end within a character, which has no class then. */
function classOfWhole(bytes: Uint8Array, i: number): number {
  const lead = bytes[i]!;
  const isTail = lead >= 0x80 && lead < 0xc2;
  if (isTail || i + widthOf(lead) > bytes.length) return -1;
  for (let k = 1; k < widthOf(lead); k++) if ((bytes[i + k]! & 0xc0) !== 0x80) return -1;
  return classAt(bytes, i);
}

/** 32 bits that look random and depend on nothing else (the mixing steps of MurmurHash3). */
function randomBits(seed: number, key: number, index: number): number {
  let bits = 0;
  for (const word of [seed, key, index]) {
    bits = Math.imul(bits ^ word, 0x9e3779b1);
    bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
    bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
    bits ^= bits >>> 16;
  }
  return bits >>> 0;
}
