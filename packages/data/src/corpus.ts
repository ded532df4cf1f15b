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

/** Tokenized documents, wherever they are kept: `Corpus` in memory, `TokenShards` of `/node` on disk. */
export interface TokenDocuments {
  /** How many documents. */
  readonly documents: number;
  /** Tokens of all documents. */
  readonly size: number;
  /** Tokens of a document, those around its text included; at least 1. */
  sizeOf(document: number): number;
  /** Fills `into` with a document's tokens from `offset` on, which must reach that far. */
  read(document: number, offset: number, into: Int32Array): void;
}

/** Documents in memory. */
export class Corpus implements TokenDocuments {
  readonly tokens: Int32Array;
  /** Document d is tokens[starts[d]] … tokens[starts[d + 1] − 1], the tokens around it included. */
  readonly starts: Float64Array;

  constructor(tokens: Int32Array, starts: Float64Array) {
    this.tokens = tokens;
    this.starts = starts;
  }

  get documents(): number {
    return this.starts.length - 1;
  }

  get size(): number {
    return this.tokens.length;
  }

  sizeOf(document: number): number {
    return (this.starts[document + 1] as number) - (this.starts[document] as number);
  }

  read(document: number, offset: number, into: Int32Array): void {
    const from = (this.starts[document] as number) + offset;
    into.set(this.tokens.subarray(from, from + into.length));
  }
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
  return new Corpus(tokens.slice(0, length), Float64Array.from(starts));
}
