/** Words of a text as numbers, for comparing texts without regard to case, space and punctuation. */

const WORD = /[\p{L}\p{M}\p{N}]/u;
/** Scripts without spaces between words: each character counts as one. */
const ALONE =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/u;

const [UNKNOWN, OTHER, IN_WORD, WORD_ALONE] = [0, 1, 2, 3];
/** What each character of one UTF-16 unit is, found out when it first comes. */
const kinds = new Uint8Array(0x1_0000);

/** A hash of 32 bits for each word, in order: runs of letters, marks and digits, in lower case. */
export function wordHashes(text: string): Uint32Array {
  const lower = text.toLowerCase();
  const hashes = new Uint32Array(lower.length);
  let count = 0;
  let inWord = false;
  let h = FNV_OFFSET;
  const end = () => {
    if (inWord) hashes[count++] = mix(h);
    inWord = false;
    h = FNV_OFFSET;
  };
  for (let i = 0; i < lower.length; i++) {
    let code = lower.charCodeAt(i);
    let kind = kinds[code] as number;
    if (kind === UNKNOWN) {
      code = lower.codePointAt(i) as number;
      kind = kindOf(String.fromCodePoint(code));
      if (code > 0xffff) i++;
      else if (code < 0xd800 || code > 0xdfff) kinds[code] = kind;
    }
    if (kind !== IN_WORD) end();
    if (kind !== OTHER) {
      h = Math.imul(h ^ code, FNV_PRIME);
      inWord = true;
    }
    if (kind === WORD_ALONE) end();
  }
  end();
  return hashes.subarray(0, count);
}

function kindOf(character: string): number {
  if (ALONE.test(character)) return WORD_ALONE;
  return WORD.test(character) ? IN_WORD : OTHER;
}

/** FNV-1a of 32 bits (Fowler, Noll and Vo), on code points instead of bytes. */
const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

/** A 32-bit finaliser (the one of MurmurHash3, A. Appleby). */
export function mix(x: number): number {
  let h = x | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
