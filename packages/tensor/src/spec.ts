/** Shape and dtype, with or without an array. */
import type { DType } from "./dtype.ts";

/** Shape and dtype of a tensor that may not exist yet. */
export interface Spec {
  readonly shape: readonly number[];
  readonly dtype: DType;
}

/** "f32[2, 3]" */
export function describe(spec: Spec): string {
  return `${spec.dtype}[${spec.shape.join(", ")}]`;
}

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}
