/** Quantisation to E4M3 for products both ways, by one kernel; for backends that have it. */
import { dtypeBytes, isFloat } from "../dtype.ts";
import { describe, type Spec } from "../spec.ts";
import type { Tensor } from "../tensor.ts";
import type { BlockScale } from "./matrix.ts";
import { apply, define } from "./registry.ts";
import { transpose } from "./shape.ts";

/** Numbers along the contraction that share a scale. */
const BLOCK = 128;

define("quantize", {
  infer([x, offsets]) {
    const t = x as Tensor;
    if (t.rank !== 2 || !isFloat(t.dtype) || dtypeBytes(t.dtype) < 2)
      throw new Error(`quantize needs a matrix of floats of 16 or 32 bits, got ${describe(t)}`);
    if (offsets && (offsets.dtype !== "i32" || offsets.rank !== 1 || offsets.size < 1))
      throw new Error(`quantize: offsets should be i32[groups + 1], got ${describe(offsets)}`);
    const [rows, width] = t.shape as [number, number];
    // Every run, or the only one, may leave all but one column of its last block empty.
    const most = rows + (BLOCK - 1) * (offsets ? offsets.size - 1 : 1);
    const blocks = Math.floor(most / BLOCK);
    const outputs: Spec[] = [
      { shape: [rows, width], dtype: "f8e4m3" },
      { shape: [Math.ceil(width / BLOCK), rows], dtype: "f32" },
      { shape: [width, blocks * BLOCK], dtype: "f8e4m3" },
      { shape: [blocks, width], dtype: "f32" },
    ];
    return offsets ? [...outputs, { shape: offsets.shape, dtype: "i32" }] : outputs;
  },
});

/** A matrix in E4M3 and the scales of its blocks. */
export interface Fp8Matrix extends BlockScale {
  readonly values: Tensor; // f8e4m3 [..., R, C]
}

/**
 * x [N, D] in E4M3 in blocks of 1 × 128 (`rows`) and, with its rows padded by zeros to [P, D], in blocks
 * of 128 × 1 (`columns`, stored transposed), by the rule of `quantizeFp8`. In a compiled program only
 * what is used is computed, by one kernel. Runs of rows that start at offsets i32 [G + 1], the first at
 * 0, are padded each to whole blocks: they start at `starts` i32 [G + 1] of `columns`. The backend must
 * have `quantizes`.
 */
export function quantize(
  x: Tensor,
  offsets?: Tensor,
): { readonly rows: Fp8Matrix; readonly columns: Fp8Matrix; readonly starts?: Tensor } {
  const [values, scale, turned, turnedScale, starts] = apply(
    "quantize",
    offsets ? [x, offsets] : [x],
  ) as [Tensor, Tensor, Tensor, Tensor, Tensor?];
  return {
    rows: { values, scale: transpose(scale), block: [1, BLOCK] },
    columns: { values: transpose(turned), scale: turnedScale, block: [BLOCK, 1] },
    ...(starts && { starts }),
  };
}
