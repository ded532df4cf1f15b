/** Rows of tokens as the tensors of a batch. */
import type { Batch } from "@dsv3/model";
import { tensor } from "@dsv3/tensor";

/** Where rows of tokens come from; `PackedRows` of @dsv3/data is one. */
export interface RowSource {
  next(rows: number, length: number): { inputIds: Int32Array; targets: Int32Array };
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
  const rows = data.next(batch, length);
  const shape = [batch, length];
  return {
    inputIds: tensor(rows.inputIds, { shape, dtype: "i32" }),
    targets: tensor(rows.targets.map(toTarget), { shape, dtype: "i32" }),
  };
}
