import {
  CJK,
  classAt,
  LETTER,
  MARK,
  NEWLINE,
  NUMBER,
  OTHER,
  PUNCTUATION,
  SPACE,
  widthOf,
} from "./unicode.ts";

/** What lies past the end of the piece: no class of a character. */
const END = 15;

const isLetterOrMark = (kind: number): boolean => kind === LETTER || kind === MARK;
const isWhite = (kind: number): boolean => kind === SPACE || kind === NEWLINE;
const isAsciiLetter = (byte: number): boolean => (byte | 0x20) >= 0x61 && (byte | 0x20) <= 0x7a;

/**
 * End of the word that starts at `pos`, by DeepSeek-V3's three splits. The first two cut out
 * numbers, three digits at a time, and runs of Chinese characters and kana; the third, below, sees
 * each piece alone, so the end of a piece is the end of the text for it (hence "a  1" keeps both
 * spaces together). `zone` is the CJK bit of the piece: xor takes it off the classes inside and
 * puts it on those outside.
 *
 * Linear: a call looks at most one character past the word it returns, but for white space, which
 * a second call may look at once more.
 */
export function nextDeepSeekWord(bytes: Uint8Array, pos: number, end: number): number {
  const lead = bytes[pos]!;
  const raw = classAt(bytes, pos);
  let i = pos + widthOf(lead);
  if (raw === NUMBER) {
    for (let n = 1; n < 3 && i < end && classAt(bytes, i) === NUMBER; n++) i += widthOf(bytes[i]!);
    return i;
  }
  const zone = raw & CJK;
  const kind = raw ^ zone;
  const next = i < end ? classAt(bytes, i) ^ zone : END;

  // [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+
  if (kind === PUNCTUATION && lead < 0x80 && i < end && isAsciiLetter(bytes[i]!)) {
    do i++;
    while (i < end && isAsciiLetter(bytes[i]!));
    return i;
  }
  // [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+
  if (isLetterOrMark(kind)) return skipLetters(bytes, i, end, zone);
  if ((kind === SPACE || kind === OTHER) && isLetterOrMark(next)) {
    return skipLetters(bytes, i, end, zone);
  }
  //  ?[\p{P}\p{S}]+[\r\n]*
  if (kind === PUNCTUATION || (lead === 0x20 && next === PUNCTUATION)) {
    while (i < end && (classAt(bytes, i) ^ zone) === PUNCTUATION) i += widthOf(bytes[i]!);
    while (i < end && (bytes[i] === 0x0a || bytes[i] === 0x0d)) i++;
    return i;
  }
  if (isWhite(kind)) return nextWhite(bytes, pos, end);

  // Nothing matches here: everything up to the next match is one word.
  while (i < end && (classAt(bytes, i) ^ zone) === OTHER) {
    const after = i + widthOf(bytes[i]!);
    if (after < end && isLetterOrMark(classAt(bytes, after) ^ zone)) break;
    i = after;
  }
  return i;
}

function skipLetters(bytes: Uint8Array, from: number, end: number, zone: number): number {
  let i = from;
  while (i < end) {
    const lead = bytes[i]!;
    if (lead < 0x80) {
      if (zone !== 0 || !isAsciiLetter(lead)) break;
      i++;
    } else if (isLetterOrMark(classAt(bytes, i) ^ zone)) i += widthOf(lead);
    else break;
  }
  return i;
}

/** `\s*[\r\n]+|\s+(?!\S)|\s+` where the piece ends at a number or at CJK. */
function nextWhite(bytes: Uint8Array, pos: number, end: number): number {
  let i = pos;
  let last = pos; // start of the run's last character
  let afterNewline = -1;
  let kind = classAt(bytes, i);
  while (isWhite(kind)) {
    last = i;
    i += widthOf(bytes[i]!);
    if (kind === NEWLINE) afterNewline = i;
    kind = i < end ? classAt(bytes, i) : END;
  }
  if (afterNewline >= 0) return afterNewline;
  const pieceEnds = kind === NUMBER || kind >= CJK;
  return pieceEnds || last === pos ? i : last;
}
