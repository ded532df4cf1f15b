/** Documents as tokens: one long array, and where each document starts. */

import { fillInTheMiddle } from "./fim.ts";
import { randomStream } from "./random.ts";

/** What encoding needs of a tokenizer; `Tokenizer` of @dsv3/tokenizer has it. */
export interface DocumentTokenizer {
  encode(text: string): ArrayLike<number>;
  readonly special: {
    readonly bos?: number;
    readonly eos?: number;
    readonly fimBegin?: number;
    readonly fimHole?: number;
    readonly fimEnd?: number;
  };
}

export interface Corpus {
  readonly tokens: Int32Array;
  /** Document d is tokens[starts[d]] … tokens[starts[d + 1] − 1], the tokens around it included. */
  readonly starts: Float64Array;
}

export interface EncodeCorpusOptions {
  /**
   * Share of documents rewritten for filling in the middle (0.1 in section 4.1 of the report), before
   * packing; 0 unless told.
   */
  readonly fimRate?: number;
  /** Decides which documents, and where they are cut. */
  readonly seed?: number;
  /** Called after each document with the number done. */
  readonly onProgress?: (documents: number) => void;
}

/**
 * Encodes documents, each after the begin-of-sentence token, where the tokenizer has one, and before
 * the end-of-sequence token. Empty documents are left out.
 * @throws Error when the tokenizer lacks the tokens that this needs
 */
export function encodeCorpus(
  texts: Iterable<string>,
  tokenizer: DocumentTokenizer,
  options: EncodeCorpusOptions = {},
): Corpus {
  const { fimRate = 0, seed = 0 } = options;
  const { bos, eos } = tokenizer.special;
  if (eos === undefined)
    throw new Error("the tokenizer has no end-of-sequence token, which ends each document");
  const random = randomStream(seed);
  let tokens = new Int32Array(1 << 16);
  let length = 0;
  const starts = [0];
  const append = (ids: ArrayLike<number>) => {
    if (length + ids.length > tokens.length) {
      const grown = new Int32Array(Math.max(2 * tokens.length, length + ids.length));
      grown.set(tokens.subarray(0, length));
      tokens = grown;
    }
    tokens.set(ids, length);
    length += ids.length;
  };
  let done = 0;
  for (const text of texts) {
    if (text.length > 0) {
      const fim = fimRate > 0 && random() < fimRate;
      if (bos !== undefined) append([bos]);
      append(fim ? fillInTheMiddle(text, tokenizer, random) : tokenizer.encode(text));
      append([eos]);
      starts.push(length);
    }
    options.onProgress?.(++done);
  }
  return { tokens: tokens.slice(0, length), starts: Float64Array.from(starts) };
}
