import type { AddedToken } from "./added-tokens.ts";
import { type BpeModel, TokenIndex, type Tokens } from "./bpe.ts";
import { BYTE_TO_CHAR, bytesToToken, CHAR_TO_BYTE, hashBytes } from "./bytes.ts";
import type { JsonReader } from "./json-reader.ts";

const MAX_TOKEN_BYTES = 0xffff;

/** The field `model` of tokenizer.json. */
export interface ReadModel {
  model: BpeModel;
  /** Vocabulary entries that are not in the byte alphabet, such as control tokens. */
  vocabStrings: Map<number, string>;
}

/** Reads the field `model`; each merge is checked against the vocabulary. */
export function readModel(reader: JsonReader): ReadModel {
  const options: Record<string, unknown> = {};
  let vocab: Vocab | undefined;
  let mergesAt = -1;
  let merges: Uint32Array | undefined;
  for (let more = reader.enter("{"); more; more = reader.more("}")) {
    const key = reader.key();
    if (key === "vocab") {
      refuseModelOptions(options); // another kind of model is refused by its name, not its looks
      vocab = readVocab(reader);
    } else if (key === "merges") {
      reader.peek();
      mergesAt = reader.pos;
      if (vocab === undefined) reader.skip();
      else merges = readMerges(reader, vocab);
    } else options[key] = reader.value();
  }
  refuseModelOptions(options);
  if (vocab === undefined) reader.fail('the model has no field "vocab"');
  if (mergesAt < 0) reader.fail('the model has no field "merges"');
  if (merges === undefined) {
    const end = reader.pos;
    reader.pos = mergesAt;
    merges = readMerges(reader, vocab);
    reader.pos = end;
  }
  const ignoreMerges = options.ignore_merges === true;
  return {
    model: { ...vocab.tokens, merges, byteIds: findByteIds(vocab.index), ignoreMerges },
    vocabStrings: vocab.strings,
  };
}

interface Vocab {
  tokens: Tokens;
  strings: Map<number, string>;
  index: TokenIndex;
}

function readVocab(reader: JsonReader): Vocab {
  const bytes = reader.bytes;
  const strings = new Map<number, string>();
  let pool = new Uint8Array(1 << 20);
  let starts = new Uint32Array(1 << 16);
  let lengths = new Uint16Array(1 << 16);
  let at = 0;
  let vocabSize = 0;
  for (let more = reader.enter("{"); more; more = reader.more("}")) {
    if (at + MAX_TOKEN_BYTES > pool.length) pool = resize(pool, pool.length * 2);
    reader.quote();
    const start = reader.pos - 1;
    let end = readByteString(reader, pool, at);
    let string: string | undefined;
    if (end < 0 || bytes[reader.pos - 1] !== 0x22) {
      reader.pos = start;
      string = reader.value() as string;
      end = at + (new TextEncoder().encodeInto(string, pool.subarray(at)).written ?? 0);
    }
    if (end === at) reader.fail("an empty token in the vocabulary", start);
    if (end - at > MAX_TOKEN_BYTES) reader.fail("a token of more than 65,535 bytes", start);
    if (bytes[reader.pos] === 0x3a) reader.pos++;
    else reader.expect(":");
    const id = reader.integer();
    if (string !== undefined) strings.set(id, string);
    if (id >= vocabSize) vocabSize = id + 1;
    if (id >= lengths.length) {
      if (id > bytes.length) reader.fail(`id ${id} is past any vocabulary that this file can hold`);
      const size = Math.max(id + 1, 2 * lengths.length);
      starts = resize(starts, size);
      lengths = resize(lengths, size);
    }
    if (lengths[id] !== 0) reader.fail(`two tokens of the vocabulary have the id ${id}`);
    starts[id] = at;
    lengths[id] = end - at;
    at = end;
  }
  const tokens: Tokens = {
    vocabSize,
    pool: pool.subarray(0, at),
    starts: starts.subarray(0, vocabSize),
    lengths: lengths.subarray(0, vocabSize),
  };
  const index = new TokenIndex(tokens);
  if (index.duplicate >= 0) {
    reader.fail(`the token with the id ${index.duplicate} is twice in the vocabulary`);
  }
  return { tokens, strings, index };
}

/** Both spellings: `"a b"`, and `["a", "b"]` of files since 2024. */
function readMerges(reader: JsonReader, { index, tokens }: Vocab): Uint32Array {
  const bytes = reader.bytes;
  let merges = new Uint32Array(3 * tokens.vocabSize); // merges are seldom more than tokens
  const scratch = new Uint8Array(2 * MAX_TOKEN_BYTES + 2);
  let rank = 0;
  let place = 0;
  let guess = 0; // most files number the merged tokens in the order of the merges
  const readPart = (from: number, terminator: number): number => {
    const end = readByteString(reader, scratch, from);
    if (end < 0) reader.fail(`merge ${rank} names an unknown token`, place);
    if (end === from || bytes[reader.pos - 1] !== terminator) {
      reader.fail(`merge ${rank} does not have two parts`, place);
    }
    return end;
  };
  for (let more = reader.enter("["); more; more = reader.more("]")) {
    const first = reader.peek();
    place = reader.pos;
    let middle: number;
    let end: number;
    if (first === 0x5b) {
      reader.expect("[");
      reader.expect('"');
      middle = readPart(0, 0x22);
      reader.expect(",");
      reader.expect('"');
      end = readPart(middle, 0x22);
      reader.expect("]");
    } else {
      reader.expect('"');
      middle = readPart(0, 0x20);
      end = readPart(middle, 0x22);
    }
    const hash = hashBytes(scratch, 0, middle);
    const left = index.find(scratch, 0, middle, hash);
    const right = index.find(scratch, middle, end);
    const merged =
      guess < tokens.vocabSize && index.is(guess, scratch, 0, end)
        ? guess
        : index.find(scratch, 0, end, hashBytes(scratch, middle, end, hash));
    if (left < 0 || right < 0 || merged < 0) {
      const [a, b] = left < 0 ? [0, middle] : right < 0 ? [middle, end] : [0, end];
      const token = JSON.stringify(bytesToToken(scratch.subarray(a, b)));
      reader.fail(`merge ${rank} names an unknown token, ${token}`, place);
    }
    guess = merged + 1;
    if (3 * rank === merges.length) merges = resize(merges, 6 * rank);
    merges[3 * rank] = left;
    merges[3 * rank + 1] = right;
    merges[3 * rank + 2] = merged;
    rank++;
  }
  return merges.subarray(0, 3 * rank);
}

/**
 * Reads a string in the byte alphabet to `pool` from `at`, from after its opening quote to its
 * closing quote or to a space, which is in no alphabet but parts the halves of a merge.
 * @returns the end in `pool`, or -1 where a character is not in the alphabet
 */
function readByteString(reader: JsonReader, pool: Uint8Array, at: number): number {
  const bytes = reader.bytes;
  const limit = at + MAX_TOKEN_BYTES;
  let end = at;
  let i = reader.pos;
  for (;;) {
    let char = bytes[i] ?? -1;
    if (char > 0x22 && char < 0x7f && char !== 0x5c && end < limit) {
      pool[end++] = char; // stands for itself
      i++;
      continue;
    }
    if (char === 0x22 || char === 0x20) {
      reader.pos = i + 1;
      return end;
    }
    if (end === limit) reader.fail("a token of more than 65,535 bytes");
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

function findByteIds(index: TokenIndex): Uint32Array {
  return Uint32Array.from({ length: 256 }, (_, byte) => {
    const id = index.find(Uint8Array.of(byte), 0, 1);
    if (id >= 0) return id;
    const char = JSON.stringify(String.fromCharCode(BYTE_TO_CHAR[byte]!));
    throw new Error(
      `tokenizer.json: the vocabulary has no token for byte ${byte} (${char}); only complete byte-level vocabularies are implemented`,
    );
  });
}

/**
 * Makes room for added tokens, and takes the bytes from those that are in the vocabulary too: only
 * the finder may give them, never a merge.
 */
export function takeOutAddedTokens(
  { model, vocabStrings }: ReadModel,
  addedTokens: readonly AddedToken[],
): void {
  const vocabSize = addedTokens.reduce((size, { id }) => Math.max(size, id + 1), model.vocabSize);
  if (vocabSize > 4 * (model.vocabSize + addedTokens.length) + 65_536) {
    throw new Error(
      `tokenizer.json: the added token with the id ${vocabSize - 1} is far past the vocabulary`,
    );
  }
  model.vocabSize = vocabSize;
  model.starts = resize(model.starts, vocabSize);
  model.lengths = resize(model.lengths, vocabSize);

  const idOfString = new Map([...vocabStrings].map(([id, string]) => [string, id]));
  const isAdded = new Uint8Array(vocabSize);
  for (const { id, content } of addedTokens) {
    const start = model.starts[id]!;
    const entry =
      vocabStrings.get(id) ?? bytesToToken(model.pool.subarray(start, start + model.lengths[id]!));
    const elsewhere = idOfString.get(content) ?? id;
    if ((entry !== "" && entry !== content) || elsewhere !== id) {
      const says = elsewhere !== id ? elsewhere : `that is ${JSON.stringify(entry)}`;
      throw new Error(
        `tokenizer.json: the added token ${JSON.stringify(content)} has the id ${id}, but the vocabulary says ${says}`,
      );
    }
    if (entry !== "") vocabStrings.set(id, entry);
    model.lengths[id] = 0;
    isAdded[id] = 1;
  }
  for (const ids of [model.byteIds, model.merges]) {
    let at = 0;
    while (at < ids.length && isAdded[ids[at]!] === 0) at++; // a loop, for there are 400,000
    if (at === ids.length) continue;
    const content = addedTokens.find(({ id }) => id === ids[at])?.content;
    const what = ids === model.byteIds ? `byte ${at}` : `merge ${Math.floor(at / 3)}`;
    throw new Error(
      `tokenizer.json: ${what} gives the added token ${JSON.stringify(content)}; ordinary text must not`,
    );
  }
}

function resize<T extends Uint8Array | Uint16Array | Uint32Array>(array: T, length: number): T {
  if (length === array.length) return array;
  const grown = new (array.constructor as new (length: number) => T)(length);
  grown.set(array);
  return grown;
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
