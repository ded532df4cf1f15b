/** Rows of tokens as the tensors of a batch. */
import type { Batch } from "@dsv3/model";
import { tensor } from "@dsv3/tensor";

/** Row-major [rows, length]. */
export interface Rows {
  readonly inputIds: Int32Array;
  /** Negative: leaves the place out of the loss. */
  readonly targets: Int32Array;
  /** Tokens of different numbers do not see each other. */
  readonly segments?: Int32Array;
  /** The source of each target, see RowSource; −1 for none. */
  readonly sources?: Int32Array;
}

/** Where rows of tokens come from: `PackedRows` and `ConversationSource` of @dsv3/data. */
export interface RowSource {
  next(rows: number, length: number): Rows;
  /** Names of what `sources` of the rows number. */
  readonly sourceNames?: readonly string[];
  /** Plain JSON. */
  readonly position: unknown;
  seek(position: never): void;
}

/** The next batch. @param toTarget what becomes of each target; −1 leaves it out of the loss */
export function nextBatch(
  data: RowSource,
  { batch, length }: { readonly batch: number; readonly length: number },
  toTarget: (id: number) => number = (id) => id,
): Batch {
  return batchOf(data.next(batch, length), [batch, length], toTarget);
}

export function batchOf(
  { inputIds, targets, segments }: Rows,
  shape: readonly [rows: number, length: number],
  toTarget: (id: number) => number = (id) => id,
): Batch {
  const i32 = (data: Int32Array) => tensor(data, { shape: [...shape], dtype: "i32" });
  return {
    inputIds: i32(inputIds),
    targets: i32(targets.map(toTarget)),
    ...(segments ? { segments: i32(segments) } : {}),
  };
}
