import type { AddedToken } from "./added-tokens.ts";
import { BYTE_TO_CHAR } from "./bytes.ts";
import { CHAT_TEMPLATE } from "./chat-template.ts";
import { learnMerges } from "./learn-merges.ts";
import { type PreTokenizerName, scannerOf } from "./pretokenize.ts";
import { SPECIAL_TOKENS, type TokenizerConfig } from "./special.ts";
import { Tokenizer } from "./tokenizer.ts";
import { WordCounter } from "./word-counter.ts";

/** How far training is. */
export interface TrainBpeProgress {
  /** First the words of all texts are counted, then the most frequent pairs are merged. */
  stage: "count" | "merge";
  /** `count`: UTF-16 units read so far. `merge`: tokens in the vocabulary so far. */
  done: number;
  /** `merge`: the vocabulary wanted. Unknown while counting, for texts may come from a stream. */
  total?: number;
}

export interface TrainBpeOptions {
  /** Tokens in all: the special ones, the 256 bytes and the merged. */
  vocabSize: number;
  /** Pairs that occur less often are not merged. Default 1. */
  minFrequency?: number;
  /**
   * Merged tokens are shorter than this many bytes, as in Hugging Face's trainer, but for those of
   * two bytes. Default 65,536, the most there is.
   */
  maxTokenLength?: number;
  /**
   * Control tokens, which take the first ids. Default: all of DeepSeek-V3's by role
   * ({@link SPECIAL_TOKENS}) and R1's two for thinking. Roles are known by these texts.
   */
  specialTokens?: readonly string[];
  /** How texts are cut into words, which no token crosses. Default "deepseek-v3". */
  preTokenizer?: PreTokenizerName;
}

/** Progress is told this often: UTF-16 units of text, and new tokens. */
const TEXT_STEP = 1 << 20;
const TOKEN_STEP = 256;

/**
 * Learns a byte-level BPE vocabulary: the same merges as Hugging Face's `BpeTrainer` on the same
 * texts, pre-tokenizer and settings, with the whole byte alphabet. Ids: special tokens, bytes (in
 * the order of their characters in the byte alphabet), merges. The vocabulary is smaller than asked
 * where the texts have no more pairs.
 * @throws RangeError for a vocabulary too small for the special tokens and the bytes
 */
export function trainBpe(
  texts: Iterable<string>,
  options: TrainBpeOptions & {
    /** Called now and then. */
    onProgress?: (progress: TrainBpeProgress) => void;
  },
): Tokenizer {
  const learning = new Learning(options);
  for (const text of texts) {
    if (learning.add(text)) options.onProgress?.(learning.counted());
  }
  for (const steps = learning.merge(); ; ) {
    const step = steps.next();
    if (step.done) return step.value;
    options.onProgress?.(step.value);
  }
}

/**
 * {@link trainBpe} in pieces of some milliseconds, also from texts that come one after another: yields
 * its progress now and then, and returns the tokenizer. Between two pieces a program can do other work,
 * or stop.
 */
export async function* trainBpeSteps(
  texts: Iterable<string> | AsyncIterable<string>,
  options: TrainBpeOptions,
): AsyncGenerator<TrainBpeProgress, Tokenizer> {
  const learning = new Learning(options);
  for await (const text of texts) {
    if (learning.add(text)) yield learning.counted();
  }
  return yield* learning.merge();
}

/** Words are counted text by text, then merged. */
class Learning {
  readonly #options: Required<TrainBpeOptions>;
  readonly #counter: WordCounter;
  #read = 0;
  #told = 0;

  constructor(options: TrainBpeOptions) {
    this.#options = complete(options);
    this.#counter = new WordCounter(scannerOf(this.#options.preTokenizer));
  }

  /** Counts a text's words; whether it is time to tell of it. */
  add(text: string): boolean {
    this.#counter.add(text);
    this.#read += text.length;
    if (this.#read - this.#told < TEXT_STEP) return false;
    this.#told = this.#read;
    return true;
  }

  counted(): TrainBpeProgress {
    return { stage: "count", done: this.#read };
  }

  *merge(): Generator<TrainBpeProgress, Tokenizer> {
    const { vocabSize, minFrequency, maxTokenLength, specialTokens, preTokenizer } = this.#options;
    yield { ...this.counted(), total: this.#read };
    const { tokens, byteIds } = startVocab(specialTokens);
    const learning = learnMerges(
      this.#counter.result(),
      { tokens, byteIds, reserved: new Set(specialTokens.map(latin1)) },
      { vocabSize, minFrequency: Math.max(1, minFrequency), maxTokenLength },
    );
    let merged = learning.next();
    for (; !merged.done; merged = learning.next()) {
      if (merged.value % TOKEN_STEP === 0) {
        yield { stage: "merge", done: merged.value, total: vocabSize };
      }
    }
    yield { stage: "merge", done: tokens.length, total: tokens.length };
    return buildTokenizer(tokens, byteIds, merged.value, specialTokens, preTokenizer);
  }
}
/** The options with their defaults. @throws RangeError or Error for what cannot be */
function complete(options: TrainBpeOptions): Required<TrainBpeOptions> {
  const { minFrequency = 1, maxTokenLength = MAX_TOKEN_BYTES + 1 } = options;
  const { vocabSize, preTokenizer = "deepseek-v3" } = options;
  const specialTokens = options.specialTokens ?? Object.values(SPECIAL_TOKENS);
  checkSpecialTokens(specialTokens);
  const least = specialTokens.length + 256;
  if (!Number.isInteger(vocabSize) || vocabSize < least || vocabSize > MAX_VOCAB) {
    throw new RangeError(
      `vocabSize ${vocabSize}: expected a whole number from ${least} (${specialTokens.length} special tokens and 256 bytes) to ${MAX_VOCAB}`,
    );
  }
  if (!(maxTokenLength >= 2 && maxTokenLength <= MAX_TOKEN_BYTES + 1)) {
    throw new RangeError(`maxTokenLength ${maxTokenLength}: expected 2 to ${MAX_TOKEN_BYTES + 1}`);
  }
  if (!(minFrequency >= 0)) {
    throw new RangeError(`minFrequency ${minFrequency}: expected 0 or more`);
  }
  return { vocabSize, minFrequency, maxTokenLength, specialTokens, preTokenizer };
}

/** Two million tokens: more than twenty times the largest vocabulary in use. */
const MAX_VOCAB = 1 << 21;
const MAX_TOKEN_BYTES = 0xffff;

function checkSpecialTokens(special: readonly string[]): void {
  const seen = new Set<string>();
  const letters = new Set(BYTE_TO_CHAR);
  for (const content of special) {
    const name = `special token ${JSON.stringify(content)}`;
    if (content === "") throw new Error("a special token is the empty string");
    if (seen.has(content)) throw new Error(`${name} is given twice`);
    if (content.length === 1 && letters.has(content.charCodeAt(0))) {
      throw new Error(`${name} is the token of a byte; give it a longer name`);
    }
    seen.add(content);
  }
}

/** Special tokens, without bytes, and then the bytes in the order of their characters. */
function startVocab(special: readonly string[]): { tokens: string[]; byteIds: Uint32Array } {
  const tokens = special.map(() => "");
  const byteIds = new Uint32Array(256);
  const bytes = Array.from(BYTE_TO_CHAR.keys());
  for (const byte of bytes.sort((a, b) => BYTE_TO_CHAR[a]! - BYTE_TO_CHAR[b]!)) {
    byteIds[byte] = tokens.push(String.fromCharCode(byte)) - 1;
  }
  return { tokens, byteIds };
}

function buildTokenizer(
  tokens: readonly string[],
  byteIds: Uint32Array,
  merges: Uint32Array,
  special: readonly string[],
  preTokenizer: PreTokenizerName,
): Tokenizer {
  const vocabSize = tokens.length;
  const starts = new Uint32Array(vocabSize);
  const lengths = new Uint16Array(vocabSize);
  const pool = new Uint8Array(tokens.reduce((size, token) => size + token.length, 0));
  let at = 0;
  for (const [id, token] of tokens.entries()) {
    starts[id] = at;
    lengths[id] = token.length;
    for (let i = 0; i < token.length; i++) pool[at++] = token.charCodeAt(i);
  }
  const addedTokens = special.map(
    (content, id): AddedToken => ({
      id,
      content,
      special: content !== SPECIAL_TOKENS.thinkBegin && content !== SPECIAL_TOKENS.thinkEnd,
      normalized: false,
      lstrip: false,
      rstrip: false,
      singleWord: false,
    }),
  );
  const bos = special.indexOf(SPECIAL_TOKENS.bos);
  return new Tokenizer({
    model: { vocabSize, pool, starts, lengths, byteIds, merges, ignoreMerges: false },
    preTokenizer,
    addedTokens,
    vocabStrings: new Map(special.map((content, id) => [id, content])),
    prefix: bos < 0 ? [] : [bos],
    suffix: [],
    postProcessor: bos < 0 ? null : bosTemplate(bos),
    config: configOf(special),
  });
}

/** The `post_processor` that puts the begin-of-sentence token before each text. */
function bosTemplate(id: number): object {
  const content = SPECIAL_TOKENS.bos;
  const bos = { SpecialToken: { id: content, type_id: 0 } };
  const text = (sequence: string, type_id: number) => ({ Sequence: { id: sequence, type_id } });
  return {
    type: "TemplateProcessing",
    single: [bos, text("A", 0)],
    pair: [bos, text("A", 0), { SpecialToken: { id: content, type_id: 1 } }, text("B", 1)],
    special_tokens: { [content]: { id: content, ids: [id], tokens: [content] } },
  };
}

/** tokenizer_config.json for transformers' `AutoTokenizer`. */
function configOf(special: readonly string[]): TokenizerConfig {
  const config: TokenizerConfig = {
    tokenizer_class: "PreTrainedTokenizerFast",
    clean_up_tokenization_spaces: false,
    add_bos_token: special.includes(SPECIAL_TOKENS.bos),
    add_eos_token: false,
  };
  for (const role of ["bos", "eos", "pad"] as const) {
    if (special.includes(SPECIAL_TOKENS[role])) config[`${role}_token`] = SPECIAL_TOKENS[role];
  }
  const needed = CHAT_TEMPLATE.match(/<｜.*?｜>/gu) ?? [];
  if (needed.every((token) => special.includes(token)) && config.bos_token !== undefined) {
    config.chat_template = CHAT_TEMPLATE;
  }
  return config;
}

/** A text's UTF-8, one character a byte, as the tokens are written while they grow. */
function latin1(text: string): string {
  let bytes = "";
  for (const byte of new TextEncoder().encode(text)) bytes += String.fromCharCode(byte);
  return bytes;
}
