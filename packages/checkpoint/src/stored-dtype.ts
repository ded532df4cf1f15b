import type { DType } from "@dsv3/tensor/dtype";

/** What a safetensors file can hold: our dtypes, and those that we only copy. */
export type StoredDType =
  | DType
  | "f64"
  | "i64"
  | "u64"
  | "i16"
  | "u16"
  | "c64"
  | "f8e4m3fnuz"
  | "f8e5m2fnuz"
  | "f8e8m0"
  | "f6e2m3"
  | "f6e3m2"
  | "f4";

/** Name in the file, and bits of one element. */
export const STORED_DTYPES: Record<StoredDType, { name: string; bits: number }> = {
  f64: { name: "F64", bits: 64 },
  f32: { name: "F32", bits: 32 },
  bf16: { name: "BF16", bits: 16 },
  f16: { name: "F16", bits: 16 },
  f8e4m3: { name: "F8_E4M3", bits: 8 },
  f8e5m2: { name: "F8_E5M2", bits: 8 },
  f8e4m3fnuz: { name: "F8_E4M3FNUZ", bits: 8 },
  f8e5m2fnuz: { name: "F8_E5M2FNUZ", bits: 8 },
  f8e8m0: { name: "F8_E8M0", bits: 8 },
  f6e2m3: { name: "F6_E2M3", bits: 6 },
  f6e3m2: { name: "F6_E3M2", bits: 6 },
  f4: { name: "F4", bits: 4 },
  c64: { name: "C64", bits: 64 },
  i64: { name: "I64", bits: 64 },
  u64: { name: "U64", bits: 64 },
  i32: { name: "I32", bits: 32 },
  u32: { name: "U32", bits: 32 },
  i16: { name: "I16", bits: 16 },
  u16: { name: "U16", bits: 16 },
  i8: { name: "I8", bits: 8 },
  u8: { name: "U8", bits: 8 },
  bool: { name: "BOOL", bits: 8 },
};

/** From the name in the file. */
export const DTYPE_BY_NAME: ReadonlyMap<string, StoredDType> = new Map(
  Object.entries(STORED_DTYPES).map(([dtype, { name }]) => [name, dtype as StoredDType]),
);

/**
 * Bytes of a tensor, or why there is no such tensor: more elements than can be counted exactly, or,
 * of 4- and 6-bit elements, a number that fills no whole byte.
 */
export function tensorBytes(dtype: StoredDType, shape: readonly number[]): number | string {
  const { bits } = STORED_DTYPES[dtype];
  let elements = 1;
  for (const size of shape) {
    elements *= size;
    if (elements * bits > Number.MAX_SAFE_INTEGER) {
      return `shape [${shape}] overflows: more than 2^53 bits of ${dtype}`;
    }
  }
  if ((elements * bits) % 8 !== 0) return `shape [${shape}] of ${dtype} fills no whole byte`;
  return (elements * bits) / 8;
}
