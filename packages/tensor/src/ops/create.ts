/** Tensors made of nothing: constants and counters. */
import { type DType, roundTo } from "../dtype.ts";
import { computeType } from "../loop.ts";
import type { Spec } from "../spec.ts";
import type { Tensor } from "../tensor.ts";
import { apply1, define } from "./registry.ts";

define("full", {
  cost: 0,
  infer: (_, attrs) => [attrs as unknown as Spec],
  emit: ({ b }, node) =>
    b.constant(node.attrs.value as number, computeType(node.attrs.dtype as DType)),
});

define("iota", {
  cost: 0,
  infer: (_, attrs) => [attrs as unknown as Spec],
  emit({ b }, node, index) {
    const value = b.valueOf(index[node.attrs.axis as number] as (typeof index)[number]);
    const type = computeType(node.attrs.dtype as DType);
    return type === "i32" ? value : b.make({ op: "cast", type, args: [value] });
  },
});

/** A tensor filled with `value`, rounded to the dtype. */
export function full(shape: readonly number[], value: number, dtype: DType = "f32"): Tensor {
  return apply1("full", [], { shape, value: exactly(value, dtype), dtype });
}

export function zeros(shape: readonly number[], dtype: DType = "f32"): Tensor {
  return full(shape, 0, dtype);
}

export function ones(shape: readonly number[], dtype: DType = "f32"): Tensor {
  return full(shape, 1, dtype);
}

/** 0, 1, 2 … along an axis. */
export function iota(
  shape: number | readonly number[],
  options: { axis?: number; dtype?: DType } = {},
): Tensor {
  const dims = typeof shape === "number" ? [shape] : shape;
  const axis = options.axis ?? dims.length - 1;
  if (axis < 0 || axis >= dims.length) {
    throw new Error(`iota: axis ${axis} is outside shape [${dims.join(", ")}]`);
  }
  return apply1("iota", [], { shape: dims, axis, dtype: options.dtype ?? "i32" });
}

function exactly(value: number, dtype: DType): number {
  switch (dtype) {
    case "f32":
      return Math.fround(value);
    case "i32":
      return value | 0;
    case "u32":
      return value >>> 0;
    case "bool":
      return value ? 1 : 0;
    default:
      return roundTo(value, dtype);
  }
}
