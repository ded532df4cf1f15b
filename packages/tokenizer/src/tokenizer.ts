import { type AddedToken, AddedTokenFinder } from "./added-tokens.ts";
import { findInvalidUtf8 } from "./bytes.ts";
import { Encoder, IdBuffer } from "./encoder.ts";
import { scannerOf } from "./pretokenize.ts";
import { readTokenizerJson } from "./read-json.ts";
import {
  resolveSpecial,
  type SpecialIds,
  type SpecialRole,
  type TokenizerConfig,
} from "./special.ts";
import { StreamDecoder } from "./stream-decoder.ts";
import type { TokenizerData } from "./tokenizer-data.ts";
import { writeTokenizerJson } from "./write-json.ts";

export interface EncodeOptions {
  /** Put the begin-of-sentence token before the text (and what else the file says). Default false. */
  addSpecial?: boolean;
  /**
   * Find added tokens, such as `<｜User｜>`, in the text. Default false: whatever the text is, it
   * becomes ordinary tokens, so that nobody can write a control token into a prompt.
   */
  allowSpecial?: boolean;
}

export interface DecodeOptions {
  /** Leave out the tokens flagged `special` in the file. Default false. */
  skipSpecial?: boolean;
}

/** Texts shorter than a third of this are put into UTF-8 in one lasting buffer. */
const SCRATCH_BYTES = 1 << 16;

/** Byte-level BPE: text to token ids and back. */
export class Tokenizer {
  /** Highest id + 1. A model's embedding may have more rows. */
  readonly vocabSize: number;
  /** Bytes of text that each id stands for; 0 for added tokens and unused ids. [vocabSize] */
  readonly byteLengths: Uint16Array;
  /** Ids of the control tokens by role. */
  readonly special: SpecialIds;
  /** The tokens found as a whole. */
  readonly addedTokens: readonly AddedToken[];
  /** tokenizer_config.json as it was read; empty where there was none. */
  readonly config: TokenizerConfig;
  /** All of it as plain arrays, which structured cloning can send to a worker. */
  readonly data: TokenizerData;

  readonly #added = new Map<number, { token: AddedToken; bytes: Uint8Array }>();
  readonly #idOf = new Map<string, number>();
  readonly #finder: AddedTokenFinder;
  readonly #encoder: Encoder;
  readonly #ids = new IdBuffer();
  readonly #scratch = new Uint8Array(SCRATCH_BYTES);
  readonly #utf8 = new TextEncoder();

  constructor(data: TokenizerData) {
    this.data = data;
    this.vocabSize = data.model.vocabSize;
    this.byteLengths = data.model.lengths;
    this.addedTokens = data.addedTokens;
    this.config = data.config;
    for (const token of data.addedTokens) {
      this.#added.set(token.id, { token, bytes: this.#utf8.encode(token.content) });
      this.#idOf.set(token.content, token.id);
    }
    this.special = resolveSpecial((content) => this.#idOf.get(content), data.config);
    this.#finder = new AddedTokenFinder(data.addedTokens);
    this.#encoder = new Encoder(data.model, scannerOf(data.preTokenizer));
  }

  /**
   * Reads a Hugging Face tokenizer.json (text, bytes or parsed) and, where there is one,
   * tokenizer_config.json.
   * @throws with the place of what is broken, or the name of a feature that is not implemented
   */
  static fromJSON(
    tokenizerJson: string | Uint8Array | object,
    config?: TokenizerConfig,
  ): Tokenizer {
    return new Tokenizer(readTokenizerJson(tokenizerJson, config));
  }

  /**
   * Token ids of a text. Halves of surrogate pairs, which are no characters, become U+FFFD.
   * @param text a string, or UTF-8
   * @throws for bytes that are not UTF-8, with their offset
   */
  encode(text: string | Uint8Array, options: EncodeOptions = {}): Uint32Array {
    const ids = this.#ids;
    ids.length = 0;
    if (options.addSpecial) for (const id of this.data.prefix) ids.push(id);
    if (options.allowSpecial) {
      const string = typeof text === "string" ? text : decodeStrictly(text);
      for (const piece of this.#finder.split(string)) {
        if (piece.id >= 0) ids.push(piece.id);
        else this.#encodePlain(string.slice(piece.start, piece.end));
      }
    } else this.#encodePlain(text);
    if (options.addSpecial) for (const id of this.data.suffix) ids.push(id);
    return ids.take();
  }

  /** {@link encode} for each text. With threads: `EncoderPool` in `@dsv3/tokenizer/node`. */
  encodeBatch(texts: readonly string[], options?: EncodeOptions): Uint32Array[] {
    return texts.map((text) => this.encode(text, options));
  }

  #encodePlain(text: string | Uint8Array): void {
    if (typeof text !== "string") {
      checkUtf8(text);
      this.#encoder.encode(text, 0, text.length, this.#ids);
    } else if (text.length * 3 <= SCRATCH_BYTES) {
      const { written } = this.#utf8.encodeInto(text, this.#scratch);
      this.#encoder.encode(this.#scratch, 0, written, this.#ids);
    } else {
      const bytes = this.#utf8.encode(text);
      this.#encoder.encode(bytes, 0, bytes.length, this.#ids);
    }
  }

  /**
   * The text of some ids. Bytes that are not UTF-8 become U+FFFD, as in every decoder on the web.
   * @throws for an id outside the vocabulary, with its position
   */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    return UTF8_DECODER.decode(this.decodeBytes(ids, options));
  }

  /** The bytes of some ids. See {@link decode}. */
  decodeBytes(ids: ArrayLike<number>, options: DecodeOptions = {}): Uint8Array {
    const { starts, lengths, pool } = this.data.model;
    const skip = options.skipSpecial ?? false;
    let size = 0;
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i]!;
      size += lengths[id] || this.#addedBytes(id, i, skip).length;
    }
    const bytes = new Uint8Array(size);
    let at = 0;
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i]!;
      const length = lengths[id]!;
      if (length > 0) {
        const start = starts[id]!;
        for (let k = 0; k < length; k++) bytes[at + k] = pool[start + k]!;
        at += length;
      } else {
        const added = this.#addedBytes(id, i, skip);
        bytes.set(added, at);
        at += added.length;
      }
    }
    return bytes;
  }

  /** Decodes token by token; see {@link StreamDecoder}. */
  decoder(options: DecodeOptions = {}): StreamDecoder {
    return new StreamDecoder((ids) => this.decodeBytes(ids, options));
  }

  /** The bytes of one id; for an added token, its text in UTF-8. */
  tokenBytes(id: number): Uint8Array {
    const { starts, lengths, pool } = this.data.model;
    const length = lengths[id] ?? 0;
    if (length > 0) return pool.slice(starts[id], starts[id]! + length);
    return this.#addedBytes(id, -1, false).slice();
  }

  /** The id of an added token, by its text. */
  addedId(content: string): number | undefined {
    return this.#idOf.get(content);
  }

  /** The id of a role. @throws where the vocabulary has no such token */
  specialId(role: SpecialRole): number {
    const id = this.special[role];
    if (id === undefined) throw new Error(`this vocabulary has no token for the role "${role}"`);
    return id;
  }

  /** tokenizer.json, parsed. */
  toJSON(): Record<string, unknown> {
    return writeTokenizerJson(this.data);
  }

  #addedBytes(id: number, position: number, skip: boolean): Uint8Array {
    const added = this.#added.get(id);
    if (added !== undefined) return skip && added.token.special ? NO_BYTES : added.bytes;
    const where = position < 0 ? "" : ` at position ${position}`;
    throw new RangeError(
      Number.isInteger(id) && id >= 0 && id < this.vocabSize
        ? `id ${id}${where} is not used by this vocabulary`
        : `id ${id}${where} is outside the vocabulary, 0 to ${this.vocabSize - 1}`,
    );
  }
}

const NO_BYTES = new Uint8Array(0);
const UTF8_DECODER = new TextDecoder("utf-8", { ignoreBOM: true });

function checkUtf8(bytes: Uint8Array): void {
  if (!(bytes instanceof Uint8Array)) {
    throw new TypeError(`expected a string or a Uint8Array, got ${typeof bytes}`);
  }
  const at = findInvalidUtf8(bytes);
  if (at < 0) return;
  const byte = bytes[at]!.toString(16).padStart(2, "0");
  throw new Error(`the text is not UTF-8: byte 0x${byte} at offset ${at}`);
}

function decodeStrictly(bytes: Uint8Array): string {
  checkUtf8(bytes);
  return UTF8_DECODER.decode(bytes);
}
