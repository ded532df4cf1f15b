/** Where the tokens of some sequences stand, as the programs take it: ids, lengths, and tables of pages. */
import type { Tensor } from "@dsv3/tensor";
import { i32, powerOfTwo } from "./draw-rows.ts";
import type { Sequence } from "./sequence.ts";

/** Tokens that one row of a batch computes: the last ones before place `end`. */
export interface Row {
  readonly sequence: Sequence;
  /** Tokens that follow the sequence's own: drafts, or tokens that were drawn in this step. */
  readonly more: readonly number[];
  readonly end: number;
}

export interface PlaceOptions {
  /** Rows of the program; those from `rows.length` on are idle. */
  readonly batch: number;
  /** Tokens of a row, aligned to the right. */
  readonly width: number;
  /** How much further on than its position each id stands. */
  readonly shift: 0 | 1;
  /** Pages of the longest sequence there may be. */
  readonly tableWidth: number;
  /** Whether pages are decoded before they are read, as those of a cache in FP8. */
  readonly decoded: boolean;
}

export type Placed = {
  ids: Tensor; //         i32 [batch, width]
  lengths: Tensor; //     i32 [batch]
  pages: Tensor; //       i32 [batch, tableWidth]
  used: Tensor | null; // i32, what pages means, where they are decoded
};

export function place(rows: readonly Row[], options: PlaceOptions): Placed {
  const { batch, width, shift, tableWidth, decoded } = options;
  const ids = new Int32Array(batch * width);
  const lengths = new Int32Array(batch);
  const pages = new Int32Array(batch * tableWidth);
  for (const [row, { sequence, more, end }] of rows.entries()) {
    lengths[row] = end;
    pages.set(sequence.blocks, row * tableWidth);
    const known = sequence.tokens.length;
    const from = Math.max(0, end - width) + shift;
    const tokens = [
      ...sequence.tokens.slice(from, end + shift),
      ...more.slice(Math.max(0, from - known), Math.max(0, end + shift - known)),
    ];
    ids.set(tokens, (row + 1) * width - tokens.length);
  }
  const used = decoded ? usedPages(pages) : null;
  return {
    ids: i32(ids, [batch, width]),
    lengths: i32(lengths, [batch]),
    pages: i32(pages, [batch, tableWidth]),
    used,
  };
}

/**
 * The pages that a table refers to, each once, filled up to a power of two with pages that nobody reads;
 * the table is changed to count in these.
 */
function usedPages(table: Int32Array): Tensor {
  const places = new Map<number, number>();
  for (const [i, page] of table.entries()) {
    if (!places.has(page)) places.set(page, places.size);
    table[i] = places.get(page)!;
  }
  const used = new Int32Array(powerOfTwo(places.size));
  used.set([...places.keys()]);
  return i32(used, [used.length]);
}
