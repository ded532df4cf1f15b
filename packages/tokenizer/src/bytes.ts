/**
 * Byte-level BPE writes every byte as one printable character, so that a token of any bytes is a
 * readable JSON string. The printable ASCII and Latin-1 bytes stand for themselves; the other 68
 * take the code points from U+0100 on, in order (GPT-2, openai/gpt-2 `encoder.py`).
 */

const isPrintable = (byte: number): boolean =>
  (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;

/** Code point of each byte's character: 256 entries. */
export const BYTE_TO_CHAR: Uint16Array = new Uint16Array(256);

/** Byte of each character up to U+0143, the last of the alphabet; -1 where there is none. */
export const CHAR_TO_BYTE: Int16Array = new Int16Array(0x144).fill(-1);

let next = 0x100;
for (let byte = 0; byte < 256; byte++) {
  const char = isPrintable(byte) ? byte : next++;
  BYTE_TO_CHAR[byte] = char;
  CHAR_TO_BYTE[char] = byte;
}

/** The token string, as it stands in a vocabulary file, of some bytes. */
export function bytesToToken(bytes: Uint8Array): string {
  let token = "";
  for (const byte of bytes) token += String.fromCharCode(BYTE_TO_CHAR[byte]!);
  return token;
}

/** FNV-1a over `bytes[start..end)`, continuing from `seed`: hash(ab) = hash(b, seed = hash(a)). */
export function hashBytes(
  bytes: Uint8Array,
  start: number,
  end: number,
  seed: number = 0x811c9dc5 | 0,
): number {
  let hash = seed;
  for (let i = start; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193);
  return hash;
}

/** True where two equally long runs of bytes agree. */
export function sameBytes(
  a: Uint8Array,
  aStart: number,
  b: Uint8Array,
  bStart: number,
  length: number,
): boolean {
  for (let i = 0; i < length; i++) if (a[aStart + i] !== b[bStart + i]) return false;
  return true;
}

/**
 * Offset of the first byte that is not UTF-8, or -1. Overlong forms, surrogates and values past
 * U+10FFFF are not UTF-8 (Unicode 16, table 3-7).
 */
export function findInvalidUtf8(bytes: Uint8Array): number {
  let i = 0;
  while (i < bytes.length) {
    const lead = bytes[i]!;
    if (lead < 0x80) {
      i++;
      continue;
    }
    const width = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    if (width === 0) return i;
    const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
    const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
    const second = bytes[i + 1] ?? 0;
    if (second < low || second > high) return i;
    for (let k = 2; k < width; k++) if (((bytes[i + k] ?? 0) & 0xc0) !== 0x80) return i;
    i += width;
  }
  return -1;
}
