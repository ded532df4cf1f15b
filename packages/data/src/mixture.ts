/** Several corpora in one stream of rows, each with its share. */

import type { TokenDocuments } from "./corpus.ts";
import { PackedRows, type Position, type TokenRows } from "./packing.ts";
import { randomStream } from "./random.ts";

/** Where a mixture stands: rows drawn so far, and the place in each corpus. */
export interface MixturePosition {
  readonly rows: number;
  readonly sources: readonly Position[];
}

/** An endless stream of rows; each row comes from one corpus, drawn by weight. */
export class MixedRows {
  readonly #sources: PackedRows[];
  readonly #shares: number[];
  readonly #seed: number;
  #rows = 0;

  /**
   * @param sources corpora with their weights, in any unit: a corpus gives weight / sum of the tokens
   * @throws RangeError for no corpus, and for a weight that is not a positive number
   */
  constructor(sources: readonly { corpus: TokenDocuments; weight: number }[], seed: number) {
    if (sources.length === 0) throw new RangeError("a mixture needs one corpus at least");
    for (const [i, { weight }] of sources.entries()) {
      if (!(weight > 0 && Number.isFinite(weight))) {
        throw new RangeError(`weight ${i} must be a positive number, is ${weight}`);
      }
    }
    const total = sources.reduce((sum, { weight }) => sum + weight, 0);
    this.#shares = sources.map(({ weight }) => weight / total);
    this.#sources = sources.map(({ corpus }, i) => new PackedRows(corpus, (seed + i) >>> 0));
    this.#seed = seed;
  }

  get position(): MixturePosition {
    return { rows: this.#rows, sources: this.#sources.map((source) => source.position) };
  }

  /** Goes on from a saved position. @throws RangeError for one of another mixture */
  seek({ rows, sources }: MixturePosition): void {
    if (!Number.isInteger(rows) || rows < 0 || sources?.length !== this.#sources.length) {
      throw new RangeError(
        `this mixture has ${this.#sources.length} corpora, the position ${sources?.length ?? "none"}; was it saved with other data?`,
      );
    }
    for (const [i, source] of this.#sources.entries()) source.seek(sources[i] as Position);
    this.#rows = rows;
  }

  /** The next `rows` rows of `length` tokens. */
  next(rows: number, length: number): TokenRows {
    const inputIds = new Int32Array(rows * length);
    const targets = new Int32Array(rows * length);
    for (let r = 0; r < rows; r++) {
      const row = (this.#sources[this.#draw()] as PackedRows).next(1, length);
      inputIds.set(row.inputIds, r * length);
      targets.set(row.targets, r * length);
    }
    return { inputIds, targets };
  }

  /** Which corpus the next row comes from: a function of the seed and the row's number alone. */
  #draw(): number {
    let u = randomStream((this.#seed ^ Math.imul(this.#rows++, 0x9e3779b1)) >>> 0)();
    for (const [i, share] of this.#shares.entries()) {
      u -= share;
      if (u < 0) return i;
    }
    return this.#shares.length - 1;
  }
}
