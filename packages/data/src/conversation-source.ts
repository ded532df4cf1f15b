/** Rows for supervised fine-tuning, epoch after epoch, from a position that can be saved. */
import type { EncodedChat } from "@dsv3/tokenizer";
import { type ConversationRows, packConversations } from "./conversations.ts";
import type { TokenRows } from "./packing.ts";
import { shuffled } from "./random.ts";

/** An encoded conversation, and the name under which its loss is reported. */
export interface SourcedChat extends EncodedChat {
  readonly source: string;
}

export interface ConversationSourceOptions {
  /** Tokens of a row. */
  readonly length: number;
  /** Fills what is left of a row. */
  readonly padId: number;
  /** Times that each row comes (2 in section 5.1 of the report); after them rows hold no target. */
  readonly epochs: number;
  readonly seed: number;
  /** Conversations longer than a row are cut at its end, or left out. */
  readonly tooLong: "truncate" | "skip";
}

export interface SourcedRows extends TokenRows {
  /** See ConversationRows. */
  readonly segments: Int32Array;
  /** For each target its place in `sourceNames`; −1 where there is no target. */
  readonly sources: Int32Array;
}

/** Conversations packed into rows, which every epoch gives in an order of its own. */
export class ConversationSource {
  /** Rows of one epoch. */
  readonly rows: number;
  readonly sourceNames: readonly string[];
  /** Conversations cut at the row's end, left out for their length, and without a target in reach. */
  readonly counts: {
    readonly truncated: number;
    readonly skipped: number;
    readonly withoutTarget: number;
  };
  readonly #packed: ConversationRows;
  readonly #sources: Int32Array;
  readonly #options: ConversationSourceOptions;
  /** The order of the rows in one epoch, kept while that epoch lasts. */
  #order: { readonly epoch: number; readonly rows: Uint32Array } | undefined;
  #given = 0;

  /** @throws RangeError when no conversation has a target inside a row, or a length is under 2 */
  constructor(chats: readonly SourcedChat[], options: ConversationSourceOptions) {
    const { length, padId, tooLong } = options;
    const used = tooLong === "skip" ? chats.filter(({ ids }) => ids.length <= length) : chats;
    const packed = packConversations(used, length, padId);
    if (packed.rows === 0) {
      throw new RangeError(
        `none of ${chats.length} conversations has words of the assistant within ${length} tokens; are rows long enough?`,
      );
    }
    this.rows = packed.rows;
    this.sourceNames = [...new Set(used.map(({ source }) => source))].sort();
    this.counts = {
      truncated: packed.truncated.length,
      skipped: chats.length - used.length,
      withoutTarget: packed.dropped.length,
    };
    const numbers = new Map(this.sourceNames.map((name, i) => [name, i]));
    this.#sources = new Int32Array(packed.targets.length).fill(-1);
    for (const { conversation, row, column } of packed.placed) {
      const { ids, source } = used[conversation] as SourcedChat;
      const end = row * length + Math.min(length, column + ids.length);
      for (let i = row * length + column; i < end; i++) {
        if ((packed.targets[i] as number) >= 0) this.#sources[i] = numbers.get(source) as number;
      }
    }
    this.#packed = packed;
    this.#options = options;
  }

  /** Rows given so far. */
  get position(): number {
    return this.#given;
  }

  /** @throws RangeError for what is no number of rows */
  seek(position: number): void {
    if (!Number.isInteger(position) || position < 0) {
      throw new RangeError(`position ${JSON.stringify(position)} is no number of rows`);
    }
    this.#given = position;
  }

  /** The next `rows` rows. @throws RangeError when `length` is not what the rows were packed to */
  next(rows: number, length: number): SourcedRows {
    const { padId, epochs } = this.#options;
    if (length !== this.#options.length) {
      throw new RangeError(`rows were packed to ${this.#options.length} tokens, not ${length}`);
    }
    const size = rows * length;
    const [inputIds, targets] = [new Int32Array(size).fill(padId), new Int32Array(size).fill(-1)];
    const [segments, sources] = [new Int32Array(size), new Int32Array(size).fill(-1)];
    for (let r = 0; r < rows; r++) {
      const epoch = Math.floor(this.#given / this.rows);
      const place = this.#given++ % this.rows;
      if (epoch >= epochs) continue;
      const from = (this.#orderOf(epoch)[place] as number) * length;
      const copy = (to: Int32Array, all: Int32Array) =>
        to.set(all.subarray(from, from + length), r * length);
      copy(inputIds, this.#packed.inputIds);
      copy(targets, this.#packed.targets);
      copy(segments, this.#packed.segments);
      copy(sources, this.#sources);
    }
    return { inputIds, targets, segments, sources };
  }

  #orderOf(epoch: number): Uint32Array {
    if (this.#order?.epoch !== epoch) {
      const seed = (this.#options.seed + Math.imul(epoch, 0x9e3779b1)) >>> 0;
      this.#order = { epoch, rows: shuffled(this.rows, seed) };
    }
    return this.#order.rows;
  }
}
