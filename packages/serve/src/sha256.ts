/**
 * SHA-256 (FIPS 180-4), synchronous: the Web Crypto interface answers later, in another task, and a
 * scheduler that looks a block up has to know now.
 */

/** The first 32 bits of the fractional parts of roots of the first primes, in integers alone. */
function fractions(count: number, root: 2n | 3n): Uint32Array {
  const found = new Uint32Array(count);
  for (let n = 2n, i = 0; i < count; n++) {
    let prime = true;
    for (let d = 2n; d * d <= n; d++) prime &&= n % d !== 0n;
    if (prime) found[i++] = Number(BigInt.asUintN(32, integerRoot(n << (32n * root), root)));
  }
  return found;
}

/** The largest r with r^degree ≤ n. */
function integerRoot(n: bigint, degree: 2n | 3n): bigint {
  let low = 0n;
  let high = 1n << 48n;
  while (high - low > 1n) {
    const middle = (low + high) / 2n;
    if (middle ** degree <= n) low = middle;
    else high = middle;
  }
  return low;
}

const START = fractions(8, 2n);
const ROUND = fractions(64, 3n);

/** The digest of a message, 32 bytes. */
export function sha256(message: Uint8Array): Uint8Array {
  // One bit, zeros, and the length in bits as 64 bits fill the last chunk of 64 bytes.
  const padded = new Uint8Array(Math.ceil((message.length + 9) / 64) * 64);
  padded.set(message);
  padded[message.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, Math.floor(message.length / 2 ** 29));
  view.setUint32(padded.length - 4, message.length << 3);

  const state = Uint32Array.from(START);
  const w = new Uint32Array(64);
  for (let chunk = 0; chunk < padded.length; chunk += 64) {
    for (let i = 0; i < 16; i++) w[i] = view.getUint32(chunk + 4 * i);
    for (let i = 16; i < 64; i++) {
      const [x, y] = [w[i - 15]!, w[i - 2]!];
      const s0 = right(x, 7) ^ right(x, 18) ^ (x >>> 3);
      const s1 = right(y, 17) ^ right(y, 19) ^ (y >>> 10);
      w[i] = w[i - 16]! + s0 + w[i - 7]! + s1;
    }
    let [a, b, c, d, e, f, g, h] = state as unknown as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    for (let i = 0; i < 64; i++) {
      const s1 = right(e, 6) ^ right(e, 11) ^ right(e, 25);
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + ROUND[i]! + w[i]!) | 0;
      const s0 = right(a, 2) ^ right(a, 13) ^ right(a, 22);
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + t1) | 0, c, b, a, (t1 + t2) | 0];
    }
    for (const [i, x] of [a, b, c, d, e, f, g, h].entries()) state[i] = state[i]! + x;
  }
  const digest = new Uint8Array(32);
  const out = new DataView(digest.buffer);
  for (const [i, word] of state.entries()) out.setUint32(4 * i, word);
  return digest;
}

function right(x: number, bits: number): number {
  return (x >>> bits) | (x << (32 - bits));
}
