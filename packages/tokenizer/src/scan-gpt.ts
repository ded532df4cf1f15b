import { classAt, LETTER, NEWLINE, NUMBER, SPACE, widthOf } from "./unicode.ts";

const END = 15;

const isWhite = (kind: number): boolean => kind === SPACE || kind === NEWLINE;
/** `[^\s\p{L}\p{N}]`: marks, punctuation, symbols and all the rest. */
const isOther = (kind: number): boolean =>
  kind !== END && kind !== LETTER && kind !== NUMBER && !isWhite(kind);
const kindAt = (bytes: Uint8Array, i: number, end: number): number =>
  i < end ? classAt(bytes, i) & 7 : END;

/** Bytes of `'s|'t|'re|'ve|'m|'ll|'d` at `pos`, or 0; `fold` sets bits that letter case may flip. */
function contraction(bytes: Uint8Array, pos: number, end: number, fold: number): number {
  if (bytes[pos] !== 0x27 || pos + 1 >= end) return 0;
  const first = bytes[pos + 1]! | fold;
  if (first === 0x73 || first === 0x74 || first === 0x6d || first === 0x64) return 2; // s t m d
  // The long s, U+017F, is an s where case does not matter.
  if (fold !== 0 && bytes[pos + 1] === 0xc5 && bytes[pos + 2] === 0xbf) return 3;
  if (pos + 2 >= end) return 0;
  const second = bytes[pos + 2]! | fold;
  if ((first === 0x72 || first === 0x76) && second === 0x65) return 3; // re ve
  return first === 0x6c && second === 0x6c ? 3 : 0; // ll
}

function skip(
  bytes: Uint8Array,
  from: number,
  end: number,
  test: (kind: number) => boolean,
): number {
  let i = from;
  while (i < end && test(classAt(bytes, i) & 7)) i += widthOf(bytes[i]!);
  return i;
}

const isLetter = (kind: number): boolean => kind === LETTER;
const isNumber = (kind: number): boolean => kind === NUMBER;

/** `\s+(?!\S)|\s+`, after `\s*[\r\n]+` where `cutNewlines`. */
function nextWhite(bytes: Uint8Array, pos: number, end: number, cutNewlines: boolean): number {
  let i = pos;
  let last = pos;
  let afterNewline = -1;
  let kind = classAt(bytes, i) & 7;
  while (isWhite(kind)) {
    last = i;
    i += widthOf(bytes[i]!);
    if (kind === NEWLINE) afterNewline = i;
    kind = kindAt(bytes, i, end);
  }
  if (cutNewlines && afterNewline >= 0) return afterNewline;
  return i === end || last === pos ? i : last;
}

/** GPT-2: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`. */
export function nextGpt2Word(bytes: Uint8Array, pos: number, end: number): number {
  const apostrophe = contraction(bytes, pos, end, 0);
  if (apostrophe > 0) return pos + apostrophe;
  const start = bytes[pos] === 0x20 ? pos + 1 : pos;
  const kind = kindAt(bytes, start, end);
  if (kind === LETTER) return skip(bytes, start, end, isLetter);
  if (kind === NUMBER) return skip(bytes, start, end, isNumber);
  if (isOther(kind)) return skip(bytes, start, end, isOther);
  return nextWhite(bytes, pos, end, false);
}

/**
 * The pattern of cl100k, Llama 3 and Qwen 2, which differ in how many digits make a word:
 * `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
 */
function nextCl100kWord(bytes: Uint8Array, pos: number, end: number, digits: number): number {
  const apostrophe = contraction(bytes, pos, end, 0x20);
  if (apostrophe > 0) return pos + apostrophe;
  const kind = classAt(bytes, pos) & 7;
  let i = pos + widthOf(bytes[pos]!);
  if (kind === LETTER) return skip(bytes, i, end, isLetter);
  if (kind === NUMBER) {
    for (let n = 1; n < digits && kindAt(bytes, i, end) === NUMBER; n++) i += widthOf(bytes[i]!);
    return i;
  }
  const next = kindAt(bytes, i, end);
  if (kind !== NEWLINE && next === LETTER) return skip(bytes, i, end, isLetter);
  if (isOther(kind) || (bytes[pos] === 0x20 && isOther(next))) {
    i = skip(bytes, i, end, isOther);
    while (i < end && (bytes[i] === 0x0a || bytes[i] === 0x0d)) i++;
    return i;
  }
  return nextWhite(bytes, pos, end, true);
}

/** Llama 3 and cl100k: numbers in threes. */
export function nextLlama3Word(bytes: Uint8Array, pos: number, end: number): number {
  return nextCl100kWord(bytes, pos, end, 3);
}

/** Qwen 2: digit by digit. */
export function nextQwen2Word(bytes: Uint8Array, pos: number, end: number): number {
  return nextCl100kWord(bytes, pos, end, 1);
}
