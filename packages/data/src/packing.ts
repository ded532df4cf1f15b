/**
 * Rows of tokens for pre-training: documents in random order, one after another, cut into rows
 * without regard to their borders and without masking between them (section 4.1 of the report).
 */
import type { TokenDocuments } from "./corpus.ts";
import { shuffled } from "./random.ts";

/** Where a stream stands: enough to go on from exactly there. */
export interface Position {
  readonly epoch: number;
  /** Place in the epoch's order of documents, and in that document. */
  readonly document: number;
  readonly offset: number;
}

export interface TokenRows {
  /** Row-major [rows, length]. */
  readonly inputIds: Int32Array;
  /** The token after each input. */
  readonly targets: Int32Array;
}

/** An endless stream of rows over a corpus; every epoch has its own order. */
export class PackedRows {
  readonly #corpus: TokenDocuments;
  readonly #seed: number;
  #order: Uint32Array;
  #position: Position = { epoch: 0, document: 0, offset: 0 };

  /** @throws RangeError for a corpus of fewer than two tokens */
  constructor(corpus: TokenDocuments, seed: number) {
    if (corpus.size < 2) {
      throw new RangeError(`a corpus needs two tokens at least, this one has ${corpus.size}`);
    }
    this.#corpus = corpus;
    this.#seed = seed;
    this.#order = this.#shuffle(0);
  }

  /** Where the next row starts. */
  get position(): Position {
    return this.#position;
  }

  /** Goes on from a saved position. @throws RangeError for one that this corpus does not have */
  seek(position: Position): void {
    const { epoch, document, offset } = position;
    const { documents } = this.#corpus;
    const whole = [epoch, document, offset].every((n) => Number.isInteger(n) && n >= 0);
    this.#order = this.#shuffle(whole ? epoch : 0);
    if (!whole || document >= documents || offset >= this.#sizeAt(document)) {
      throw new RangeError(
        `position ${JSON.stringify(position)} does not lie in this corpus of ${documents} documents; was it saved with other data?`,
      );
    }
    this.#position = position;
  }

  /** The next `rows` rows of `length` tokens. */
  next(rows: number, length: number): TokenRows {
    const inputIds = new Int32Array(rows * length);
    const targets = new Int32Array(rows * length);
    for (let r = 0; r < rows; r++) {
      const row = inputIds.subarray(r * length, (r + 1) * length);
      this.#fill(row);
      targets.set(row.subarray(1), r * length);
      targets[(r + 1) * length - 1] = this.#peek();
    }
    return { inputIds, targets };
  }

  #shuffle(epoch: number): Uint32Array {
    return shuffled(this.#corpus.documents, (this.#seed + Math.imul(epoch, 0x9e3779b1)) >>> 0);
  }

  #sizeAt(place: number): number {
    return this.#corpus.sizeOf(this.#order[place] as number);
  }

  #fill(row: Int32Array): void {
    for (let filled = 0; filled < row.length; ) {
      const { epoch, document, offset } = this.#position;
      const rest = this.#sizeAt(document) - offset;
      const part = row.subarray(filled, filled + rest);
      this.#corpus.read(this.#order[document] as number, offset, part);
      filled += part.length;
      if (part.length < rest) {
        this.#position = { epoch, document, offset: offset + part.length };
      } else if (document + 1 < this.#order.length) {
        this.#position = { epoch, document: document + 1, offset: 0 };
      } else {
        this.#order = this.#shuffle(epoch + 1);
        this.#position = { epoch: epoch + 1, document: 0, offset: 0 };
      }
    }
  }

  /** The token that the next row starts with. */
  #peek(): number {
    const { document, offset } = this.#position;
    const token = new Int32Array(1);
    this.#corpus.read(this.#order[document] as number, offset, token);
    return token[0] as number;
  }
}
