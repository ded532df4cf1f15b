import type { AddedToken } from "./added-tokens.ts";
import { type BpeModel, TokenIndex } from "./bpe.ts";
import { BYTE_TO_CHAR, bytesToToken, CHAR_TO_BYTE, hashBytes } from "./bytes.ts";
import type { JsonReader } from "./json-reader.ts";

/** The file's vocabulary and merges, before they are checked against each other. */
export interface RawModel {
  options: Record<string, unknown>;
  /** Bytes of all tokens and merges, each run at its place below. */
  pool: Uint8Array;
  tokens: Runs;
  ids: number[];
  /** Tokens that are not in the byte alphabet: index in `tokens`, and the string. */
  strings: Map<number, string>;
  /** Two runs per merge. */
  merges: Runs;
  /** Where each merge stands in the file. */
  mergeAt: number[];
}

interface Runs {
  starts: number[];
  ends: number[];
}

/** Reads the field `model`. */
export function readModel(reader: JsonReader): RawModel {
  const options: Record<string, unknown> = {};
  const places = new Map<string, number>();
  reader.object((key) => {
    if (key === "vocab" || key === "merges") {
      reader.peek();
      places.set(key, reader.pos);
      reader.skip();
    } else options[key] = reader.value();
  });
  const end = reader.pos;
  refuseModelOptions(options);
  const model: RawModel = {
    options,
    pool: new Uint8Array(reader.bytes.length),
    tokens: { starts: [], ends: [] },
    ids: [],
    strings: new Map(),
    merges: { starts: [], ends: [] },
    mergeAt: [],
  };
  for (const key of ["vocab", "merges"] as const) {
    const place = places.get(key);
    if (place === undefined) reader.fail(`the model has no field "${key}"`, end);
    reader.pos = place;
    if (key === "vocab") readVocab(reader, model);
    else readMerges(reader, model);
  }
  reader.pos = end;
  return model;
}

function readVocab(reader: JsonReader, model: RawModel): void {
  const { pool, tokens, ids, strings } = model;
  const bytes = reader.bytes;
  let at = 0;
  reader.members(() => {
    const start = reader.pos;
    reader.expect('"');
    let end = readByteString(reader, pool, at);
    if (end < 0 || bytes[reader.pos - 1] !== 0x22) {
      reader.pos = start;
      const string = reader.value() as string;
      strings.set(ids.length, string);
      const utf8 = new TextEncoder().encode(string);
      pool.set(utf8, at);
      end = at + utf8.length;
    }
    if (end === at) reader.fail("an empty token in the vocabulary", start);
    if (end - at > 0xffff) reader.fail("a token of more than 65,535 bytes", start);
    tokens.starts.push(at);
    tokens.ends.push(end);
    at = end;
    reader.expect(":");
    ids.push(reader.integer());
  });
  model.pool = pool.slice(0, at);
}

/** Both spellings: `"a b"`, and `["a", "b"]` of files since 2024. */
function readMerges(reader: JsonReader, model: RawModel): void {
  const { merges, mergeAt } = model;
  const scratch = new Uint8Array(reader.bytes.length - reader.pos);
  let at = 0;
  const readPart = (terminator: string, index: number): void => {
    const end = readByteString(reader, scratch, at);
    if (end < 0) reader.fail(`merge ${index} names an unknown token`, mergeAt[index]);
    if (end === at || reader.bytes[reader.pos - 1] !== terminator.charCodeAt(0)) {
      reader.fail(`merge ${index} does not have two parts`, mergeAt[index]);
    }
    merges.starts.push(at);
    merges.ends.push(end);
    at = end;
  };
  reader.array((index) => {
    const first = reader.peek();
    mergeAt.push(reader.pos);
    if (first === 0x5b) {
      reader.expect("[");
      reader.expect('"');
      readPart('"', index);
      reader.expect(",");
      reader.expect('"');
      readPart('"', index);
      reader.expect("]");
    } else {
      reader.expect('"');
      readPart(" ", index);
      readPart('"', index);
    }
  });
  mergePools(model, scratch.subarray(0, at));
}

/** Puts the merges' bytes behind the tokens' in one pool. */
function mergePools(model: RawModel, scratch: Uint8Array): void {
  const base = model.pool.length;
  const pool = new Uint8Array(base + scratch.length);
  pool.set(model.pool);
  pool.set(scratch, base);
  model.pool = pool;
  for (let i = 0; i < model.merges.starts.length; i++) {
    model.merges.starts[i]! += base;
    model.merges.ends[i]! += base;
  }
}

/**
 * Reads a string in the byte alphabet to `pool` from `at`, from after its opening quote to its
 * closing quote or to a space, which is in no alphabet but parts the halves of a merge.
 * @returns the end in `pool`, or -1 where a character is not in the alphabet
 */
function readByteString(reader: JsonReader, pool: Uint8Array, at: number): number {
  const bytes = reader.bytes;
  let end = at;
  let i = reader.pos;
  for (;;) {
    let char = bytes[i] ?? -1;
    if (char === 0x22 || char === 0x20) {
      reader.pos = i + 1;
      return end;
    }
    if (char === 0x5c) {
      reader.pos = i;
      char = reader.escape();
      i = reader.pos;
    } else if (char < 0x80) {
      if (char === -1) reader.fail("the file ends inside this string");
      i++;
    } else if (char < 0xe0) {
      char = ((char & 0x1f) << 6) | (bytes[i + 1]! & 0x3f);
      i += 2;
    } else return -1;
    const byte = char < CHAR_TO_BYTE.length ? CHAR_TO_BYTE[char]! : -1;
    if (byte < 0) return -1;
    pool[end++] = byte;
  }
}

/** Checks vocabulary, merges and added tokens against each other, and lays out the arrays. */
export function buildModel(
  reader: JsonReader,
  raw: RawModel,
  addedTokens: AddedToken[],
): { model: BpeModel; vocabStrings: Map<number, string> } {
  let maxId = -1;
  for (const id of raw.ids) if (id > maxId) maxId = id;
  for (const token of addedTokens) if (token.id > maxId) maxId = token.id;
  const limit = 4 * (raw.ids.length + addedTokens.length) + 65_536;
  if (maxId >= limit) {
    throw new Error(
      `tokenizer.json: id ${maxId} is far past the number of tokens, ${raw.ids.length}`,
    );
  }

  const vocabSize = maxId + 1;
  const mergeCount = raw.merges.starts.length / 2;
  const model: BpeModel = {
    vocabSize,
    pool: raw.pool.slice(0, raw.tokens.ends.at(-1) ?? 0),
    starts: new Uint32Array(vocabSize),
    lengths: new Uint16Array(vocabSize),
    byteIds: new Uint32Array(256),
    left: new Uint32Array(mergeCount),
    right: new Uint32Array(mergeCount),
    merged: new Uint32Array(mergeCount),
    ignoreMerges: raw.options.ignore_merges === true,
  };
  for (let i = 0; i < raw.ids.length; i++) {
    const id = raw.ids[i]!;
    if (model.lengths[id] !== 0) throw new Error(`tokenizer.json: two tokens have the id ${id}`);
    model.starts[id] = raw.tokens.starts[i]!;
    model.lengths[id] = raw.tokens.ends[i]! - raw.tokens.starts[i]!;
  }
  const vocabStrings = new Map([...raw.strings].map(([i, string]) => [raw.ids[i]!, string]));
  takeOutAddedTokens(model, addedTokens, vocabStrings);

  const index = new TokenIndex(model);
  for (let id = 0; id < vocabSize; id++) {
    const start = model.starts[id]!;
    const end = start + model.lengths[id]!;
    if (end > start && !vocabStrings.has(id) && index.find(model.pool, start, end) !== id) {
      throw new Error(
        `tokenizer.json: the token ${JSON.stringify(bytesToToken(model.pool.subarray(start, end)))} is twice in the vocabulary`,
      );
    }
  }
  const single = new Uint8Array(1);
  for (let byte = 0; byte < 256; byte++) {
    single[0] = byte;
    const id = index.find(single, 0, 1);
    if (id < 0) {
      throw new Error(
        `tokenizer.json: the vocabulary has no token for byte ${byte} (${JSON.stringify(String.fromCharCode(BYTE_TO_CHAR[byte]!))}); only complete byte-level vocabularies are implemented`,
      );
    }
    model.byteIds[byte] = id;
  }
  const { starts, ends } = raw.merges;
  for (let rank = 0; rank < mergeCount; rank++) {
    const start = starts[2 * rank]!;
    const middle = ends[2 * rank]!;
    const end = ends[2 * rank + 1]!;
    const leftHash = hashBytes(raw.pool, start, middle);
    const left = index.find(raw.pool, start, middle, leftHash);
    const right = index.find(raw.pool, middle, end);
    const merged = index.find(raw.pool, start, end, hashBytes(raw.pool, middle, end, leftHash));
    if (left < 0 || right < 0 || merged < 0) {
      const [from, to] = left < 0 ? [start, middle] : right < 0 ? [middle, end] : [start, end];
      const token = JSON.stringify(bytesToToken(raw.pool.subarray(from, to)));
      reader.fail(`merge ${rank} names an unknown token, ${token}`, raw.mergeAt[rank]);
    }
    model.left[rank] = left;
    model.right[rank] = right;
    model.merged[rank] = merged;
  }
  return { model, vocabStrings };
}

/** Added tokens that are in the vocabulary too lose their bytes there: only the finder gives them. */
function takeOutAddedTokens(
  model: BpeModel,
  addedTokens: AddedToken[],
  vocabStrings: Map<number, string>,
): void {
  const inVocab = new Map([...vocabStrings].map(([id, string]) => [string, id]));
  for (const { id, content } of addedTokens) {
    const elsewhere = inVocab.get(content);
    const start = model.starts[id]!;
    const entry =
      vocabStrings.get(id) ?? bytesToToken(model.pool.subarray(start, start + model.lengths[id]!));
    if ((entry !== "" && entry !== content) || (elsewhere !== undefined && elsewhere !== id)) {
      throw new Error(
        `tokenizer.json: the added token ${JSON.stringify(content)} has the id ${id}, but the vocabulary says ${entry !== "" ? `that is ${JSON.stringify(entry)}` : elsewhere}`,
      );
    }
    if (entry !== "") vocabStrings.set(id, entry);
    model.lengths[id] = 0;
  }
}

const isUnset = (value: unknown): boolean => value === undefined || value === null || value === "";

function refuseModelOptions(options: Record<string, unknown>): void {
  const refuse = (what: string): never => {
    throw new Error(`tokenizer.json: ${what} is not implemented`);
  };
  if (options.type !== undefined && options.type !== "BPE") {
    refuse(`the model type ${JSON.stringify(options.type)}`);
  }
  if (!isUnset(options.dropout) && options.dropout !== 0) refuse("dropout");
  if (!isUnset(options.continuing_subword_prefix)) refuse("continuing_subword_prefix");
  if (!isUnset(options.end_of_word_suffix)) refuse("end_of_word_suffix");
  if (options.byte_fallback === true) refuse("byte_fallback");
  // unk_token and fuse_unk say nothing: every byte has a token.
  const known = ["type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"];
  known.push("fuse_unk", "byte_fallback", "ignore_merges");
  for (const key of Object.keys(options)) {
    if (!known.includes(key)) refuse(`the field "${key}" of the model`);
  }
}
