/**
 * One file of tokenized documents. All numbers are little-endian:
 *
 *     0   "dsv3toks"
 *     8   u32 version, 1
 *     12  u32 bytes of a token, 2 or 4
 *     16  u64 number of documents D
 *     24  u64 number of tokens T
 *     32  u64 where each document starts, in tokens [D + 1]; the last is T
 *     …   tokens, u16 or u32 [T]
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";

const MAGIC = 0x736b_6f74_3376_7364n; // "dsv3toks"
const VERSION = 1;
const HEADER_BYTES = 32;

export type TokenBytes = 2 | 4;

/** The narrowest tokens for a vocabulary. */
export const tokenBytesFor = (vocabSize: number): TokenBytes => (vocabSize <= 0x1_0000 ? 2 : 4);

/** Documents that will be one file. */
export class ShardBuilder {
  readonly #bytes: TokenBytes;
  #tokens: Uint16Array | Uint32Array;
  #size = 0;
  #starts: number[] = [0];

  constructor(bytes: TokenBytes) {
    this.#bytes = bytes;
    this.#tokens = this.#array(1 << 16);
  }

  get documents(): number {
    return this.#starts.length - 1;
  }

  get size(): number {
    return this.#size;
  }

  /** Adds one document, of the pieces one after another. */
  add(pieces: readonly ArrayLike<number>[]): void {
    const size = pieces.reduce((sum, piece) => sum + piece.length, this.#size);
    if (size > this.#tokens.length) {
      const grown = this.#array(Math.max(size, 2 * this.#tokens.length));
      grown.set(this.#tokens.subarray(0, this.#size));
      this.#tokens = grown;
    }
    for (const piece of pieces) {
      this.#tokens.set(piece, this.#size);
      this.#size += piece.length;
    }
    this.#starts.push(this.#size);
  }

  /** The file's bytes in parts, which are good until the next document; the builder is empty then. */
  take(): Uint8Array[] {
    const header = new DataView(new ArrayBuffer(HEADER_BYTES));
    header.setBigUint64(0, MAGIC, true);
    header.setUint32(8, VERSION, true);
    header.setUint32(12, this.#bytes, true);
    header.setBigUint64(16, BigInt(this.documents), true);
    header.setBigUint64(24, BigInt(this.#size), true);
    const starts = BigUint64Array.from(this.#starts, BigInt);
    const tokens = this.#tokens.subarray(0, this.#size);
    this.#starts = [0];
    this.#size = 0;
    return [header, starts, tokens].map(
      ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength),
    );
  }

  #array(length: number): Uint16Array | Uint32Array {
    return this.#bytes === 2 ? new Uint16Array(length) : new Uint32Array(length);
  }
}

/** A shard that is read in places, by ranges; nothing of it stays in memory. */
export class ShardFile {
  readonly #path: string;
  readonly #file: number;
  readonly #tokens: number;
  readonly #tokenBytes: TokenBytes;
  readonly #tokensAt: number;
  readonly #bounds = new BigUint64Array(2);

  /** @throws Error with the path for a file that is not what it should be, or cut short */
  constructor(path: string, expected: { documents: number; tokens: number; bytes: TokenBytes }) {
    const { documents, tokens, bytes } = expected;
    this.#path = path;
    this.#tokens = tokens;
    this.#tokenBytes = bytes;
    this.#tokensAt = HEADER_BYTES + 8 * (documents + 1);
    this.#file = openSync(path, "r");
    try {
      const header = new DataView(new ArrayBuffer(HEADER_BYTES));
      this.#readAt(0, header);
      const u64 = (at: number) => Number(header.getBigUint64(at, true));
      if (header.getBigUint64(0, true) !== MAGIC || header.getUint32(8, true) !== VERSION) {
        throw new Error(`${path} is no file of tokens, or of another version`);
      }
      if (header.getUint32(12, true) !== bytes || u64(16) !== documents || u64(24) !== tokens) {
        throw new Error(`${path} does not belong to its manifest; prepare the data again`);
      }
      const size = this.#tokensAt + bytes * tokens;
      const found = fstatSync(this.#file).size;
      if (found !== size) throw new Error(`${path} has ${found} bytes and should have ${size}`);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  close(): void {
    closeSync(this.#file);
  }

  /** Where a document starts and ends, in tokens of this file. */
  boundsOf(document: number): readonly [start: number, end: number] {
    this.#readAt(HEADER_BYTES + 8 * document, this.#bounds);
    const [start, end] = [Number(this.#bounds[0]), Number(this.#bounds[1])];
    if (start < end && end <= this.#tokens) return [start, end];
    throw new Error(`${this.#path} is damaged: document ${document} is ${start} to ${end}`);
  }

  /** Fills `into` with the tokens from `from` on. */
  read(from: number, into: Int32Array): void {
    const at = this.#tokensAt + this.#tokenBytes * from;
    if (this.#tokenBytes === 4) {
      this.#readAt(at, into);
      return;
    }
    // Into the upper half, and from there to its place: each token is read before it is overwritten.
    const half = into.byteOffset + 2 * into.length;
    const narrow = new Uint16Array(into.buffer, half, into.length);
    this.#readAt(at, narrow);
    for (let i = 0; i < narrow.length; i++) into[i] = narrow[i] as number;
  }

  #readAt(position: number, into: NodeJS.ArrayBufferView): void {
    const { buffer, byteOffset, byteLength } = into;
    const bytes = new Uint8Array(buffer, byteOffset, byteLength);
    for (let done = 0; done < byteLength; ) {
      const n = readSync(this.#file, bytes, done, byteLength - done, position + done);
      if (n === 0)
        throw new Error(`${this.#path} ends at byte ${position + done}; it was cut short`);
      done += n;
    }
  }
}
