/**
 * Four elements of any dtype to and from vectors of their compute type, bit for bit as
 * `@dsv3/tensor/dtype` does it. Bool is computed with as a mask: all ones or zero in each lane.
 */
import type { DType } from "@dsv3/tensor/dtype";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, f32x4, i8x16, i16x8, i32, i32x4, type Value, v128 } from "./asm.ts";

type V = Value<"v128">;

/**
 * A binary float format below f32. Codes without the sign grow with the magnitude; those above
 * `max` are not finite. Beyond `max`, numbers become `overflow` (the f8 formats saturate).
 */
interface Minifloat {
  readonly bits: 8 | 16;
  readonly mantissa: number;
  readonly bias: number;
  readonly max: number;
  readonly overflow: number;
  readonly nan: number;
  /** Whether the code after `max` is infinity. */
  readonly infinity: boolean;
}

const MINIFLOATS: Partial<Record<DType, Minifloat>> = {
  f16: {
    bits: 16,
    mantissa: 10,
    bias: 15,
    max: 0x7bff,
    overflow: 0x7c00,
    nan: 0x7e00,
    infinity: true,
  },
  f8e4m3: { bits: 8, mantissa: 3, bias: 7, max: 0x7e, overflow: 0x7e, nan: 0x7f, infinity: false },
  f8e5m2: { bits: 8, mantissa: 2, bias: 15, max: 0x7b, overflow: 0x7b, nan: 0x7f, infinity: true },
};

const INFINITY = 0x7f800000;

/** Loads 4 consecutive elements as raw codes: i32 lanes, sign-extended for i8, else zero-extended. */
export function loadCodes(dtype: DType, address: Value<"i32">, offset = 0): V {
  switch (dtypeBytes(dtype)) {
    case 4:
      return v128.load(address, offset);
    case 2:
      return v128.load16x4U(address, offset);
    default: {
      const four = v128.load32Zero(address, offset);
      return dtype === "i8"
        ? i32x4.extendLowI16x8S(i16x8.extendLowI8x16S(four))
        : i32x4.extendLowI16x8U(i16x8.extendLowI8x16U(four));
    }
  }
}

/** Loads one element as a raw code. */
export function loadCode(dtype: DType, address: Value<"i32">, offset = 0): Value<"i32"> {
  switch (dtypeBytes(dtype)) {
    case 4:
      return i32.load(address, offset);
    case 2:
      return i32.load16U(address, offset);
    default:
      return dtype === "i8" ? i32.load8S(address, offset) : i32.load8U(address, offset);
  }
}

/** Stores 4 raw codes in consecutive elements. */
export function storeCodes(
  dtype: DType,
  address: Value<"i32">,
  codes: V,
  offset = 0,
): Value<"void"> {
  switch (dtypeBytes(dtype)) {
    case 4:
      return v128.store(address, codes, offset);
    case 2:
      return v128.store64Lane(address, i16x8.narrowI32x4U(codes, codes), 0, offset);
    default: {
      // Signed codes keep their sign through the first step.
      const half = i16x8.narrowI32x4S(codes, codes);
      const bytes =
        dtype === "i8" ? i8x16.narrowI16x8S(half, half) : i8x16.narrowI16x8U(half, half);
      return v128.store32Lane(address, bytes, 0, offset);
    }
  }
}

/** Stores one lane of raw codes. */
export function storeCode(
  dtype: DType,
  address: Value<"i32">,
  codes: V,
  lane: number,
  offset = 0,
): Value<"void"> {
  const bytes = dtypeBytes(dtype);
  if (bytes === 4) return v128.store32Lane(address, codes, lane, offset);
  return bytes === 2
    ? v128.store16Lane(address, codes, 2 * lane, offset)
    : v128.store8Lane(address, codes, 4 * lane, offset);
}

/** Whether a raw code is the value already. */
export function isPlain(dtype: DType): boolean {
  return dtype === "f32" || dtype === "i32" || dtype === "u32" || dtype === "i8" || dtype === "u8";
}

const bits = (n: number) => i32x4.const(n);

/** Raw codes to values. `f` keeps intermediate results. */
export function decode(f: Func, dtype: DType, codes: V): V {
  if (isPlain(dtype)) return codes;
  if (dtype === "bool") return i32x4.ne(codes, bits(0));
  if (dtype === "bf16") return i32x4.shl(codes, 16);
  const { bits: size, mantissa, bias, max, infinity } = MINIFLOATS[dtype] as Minifloat;
  const code = f.keep(codes);
  const magnitude = f.keep(v128.and(code, bits(2 ** (size - 1) - 1)));
  // Read as an f32 the exponent is off by the difference of the biases, also for subnormals.
  const scaled = f32x4.mul(i32x4.shl(magnitude, 23 - mantissa), f32x4.const(2 ** (127 - bias)));
  const special = i32x4.gtS(magnitude, bits(max));
  const notFinite = v128.and(special, bits(infinity ? INFINITY : 0x7fc00000));
  const sign = i32x4.shl(v128.and(code, bits(2 ** (size - 1))), 32 - size);
  return v128.or(v128.or(scaled, notFinite), sign);
}

/** Values to raw codes: to nearest, ties to even; saturating for the f8 formats and integers. */
export function encode(f: Func, dtype: DType, x: V): V {
  switch (dtype) {
    case "f32":
    case "i32":
    case "u32":
      return x;
    case "bool":
      return i32x4.shrU(x, 31);
    case "i8":
      return i32x4.maxS(i32x4.minS(x, bits(127)), bits(-128));
    case "u8":
      return i32x4.minU(x, bits(255));
    case "bf16": {
      const u = f.keep(x);
      const lowest = v128.and(i32x4.shrU(u, 16), bits(1));
      const rounded = i32x4.shrU(i32x4.add(i32x4.add(u, bits(0x7fff)), lowest), 16);
      return v128.bitselect(bits(0x7fc0), rounded, f32x4.ne(u, u));
    }
    default:
      return encodeMinifloat(f, MINIFLOATS[dtype] as Minifloat, x);
  }
}

function encodeMinifloat(f: Func, format: Minifloat, x: V): V {
  const { bits: size, mantissa, bias, max, overflow, nan } = format;
  const shift = 23 - mantissa;
  const u = f.keep(x);
  const magnitude = f.keep(v128.and(u, bits(0x7fffffff)));
  const lowest = v128.and(i32x4.shrU(magnitude, shift), bits(1));
  const carried = i32x4.add(i32x4.add(magnitude, bits(2 ** (shift - 1) - 1)), lowest);
  const normal = f.keep(i32x4.sub(i32x4.shrU(carried, shift), bits((127 - bias) << mantissa)));
  const clipped = v128.bitselect(bits(overflow), normal, i32x4.gtS(normal, bits(max)));
  // Subnormals, counted in units of the smallest one. (Large numbers saturate, and are not picked.)
  const units = f32x4.mul(magnitude, f32x4.const(2 ** (bias - 1 + mantissa)));
  const subnormal = i32x4.truncSatF32x4S(f32x4.nearest(units));
  const isNormal = i32x4.geS(magnitude, bits((128 - bias) << 23));
  const code = v128.bitselect(clipped, subnormal, isNormal);
  const sign = v128.and(i32x4.shrU(u, 32 - size), bits(2 ** (size - 1)));
  return v128.bitselect(bits(nan), v128.or(code, sign), f32x4.ne(u, u));
}

/** A number of bytes, as a shift where it is a power of two. */
export function scaled(index: Value<"i32">, bytes: number): Value<"i32"> {
  if (bytes === 1) return index;
  const log = Math.log2(bytes);
  return Number.isInteger(log) ? i32.shl(index, log) : i32.mul(index, bytes);
}
