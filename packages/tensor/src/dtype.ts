/**
 * Element types, and exact conversions between their bits and f32.
 *
 * All bytes are little-endian, as in safetensors files and in every JavaScript engine's memory on
 * the machines we support. Floats round to the nearest value, ties to even.
 */

export type DType =
  | "f32"
  | "bf16"
  | "f16"
  | "f8e4m3"
  | "f8e5m2"
  | "i8"
  | "i32"
  | "u32"
  | "u8"
  | "bool";

/** What {@link typedView} returns: 16- and 8-bit floats are seen as their raw bits. */
export type TypedView =
  | Float32Array<ArrayBufferLike>
  | Uint16Array<ArrayBufferLike>
  | Uint8Array<ArrayBufferLike>
  | Int8Array<ArrayBufferLike>
  | Int32Array<ArrayBufferLike>
  | Uint32Array<ArrayBufferLike>;

const VIEWS = {
  f32: Float32Array,
  bf16: Uint16Array,
  f16: Uint16Array,
  f8e4m3: Uint8Array,
  f8e5m2: Uint8Array,
  i8: Int8Array,
  i32: Int32Array,
  u32: Uint32Array,
  u8: Uint8Array,
  bool: Uint8Array,
} as const;

/** Every dtype, widest float first. */
export const DTYPES: readonly DType[] = Object.keys(VIEWS) as DType[];

/** Bytes of one element. */
export function dtypeBytes(dtype: DType): number {
  return VIEWS[dtype].BYTES_PER_ELEMENT;
}

/** True for f32, bf16, f16 and both f8 formats. */
export function isFloat(dtype: DType): boolean {
  return dtype === "f32" || dtype in MINIFLOATS;
}

/**
 * A binary floating-point format narrower than f32: one sign bit, then exponent, then mantissa.
 * The magnitude of a code (the bits without the sign) grows with the code, so rounding up into the
 * next binade, or from the subnormals into the normals, is plain integer arithmetic.
 */
interface Minifloat {
  readonly bits: 8 | 16;
  readonly mantissa: number;
  readonly bias: number;
  /** Code of the largest finite value. */
  readonly max: number;
  /** Code of infinity, where the format has one. */
  readonly infinity?: number;
  /** Code that values beyond `max` are given: infinity (IEEE), or `max` itself (saturation). */
  readonly overflow: number;
  /** The one NaN that we write. */
  readonly nan: number;
}

/**
 * - bf16 and f16 overflow to infinity (IEEE 754).
 * - f8e4m3 is OCP E4M3FN: no infinity, NaN 0x7f and 0xff, largest 448.
 * - f8e5m2 is OCP E5M2: has infinity and NaN when read, largest finite 57344.
 *
 * Both f8 formats saturate when written, infinities included, as NVIDIA's `cvt.satfinite` does and
 * as FP8 training wants; PyTorch's `.to(torch.float8_e4m3fn)` gives NaN, and e5m2 infinity, there.
 * (OCP 8-bit Floating Point Specification 1.0, section 5.)
 */
const MINIFLOATS = {
  bf16: {
    bits: 16,
    mantissa: 7,
    bias: 127,
    max: 0x7f7f,
    nan: 0x7fc0,
    infinity: 0x7f80,
    overflow: 0x7f80,
  },
  f16: {
    bits: 16,
    mantissa: 10,
    bias: 15,
    max: 0x7bff,
    nan: 0x7e00,
    infinity: 0x7c00,
    overflow: 0x7c00,
  },
  f8e4m3: { bits: 8, mantissa: 3, bias: 7, max: 0x7e, overflow: 0x7e, nan: 0x7f },
  f8e5m2: { bits: 8, mantissa: 2, bias: 15, max: 0x7b, infinity: 0x7c, overflow: 0x7b, nan: 0x7f },
} satisfies Partial<Record<DType, Minifloat>>;

const TWO_52 = 2 ** 52;

/** Narrows each f32 to the nearest code of `format`. */
function encode(f32: Float32Array, codes: Uint16Array | Uint8Array, format: Minifloat): void {
  const { bits, mantissa, bias, max, overflow, nan } = format;
  const shift = 23 - mantissa;
  const belowHalf = (1 << (shift - 1)) - 1;
  const rebias = (127 - bias) << mantissa;
  const smallestNormal = (128 - bias) << 23; // as f32 bits
  const subnormalsPerUnit = 2 ** (bias - 1 + mantissa);
  const f32Bits = new Int32Array(f32.buffer, f32.byteOffset, f32.length); // int32 stays unboxed
  for (let i = 0; i < f32Bits.length; i++) {
    const u = f32Bits[i] as number;
    const sign = (u >>> 31) << (bits - 1);
    const magnitude = u & 0x7fffffff;
    if (magnitude > 0x7f800000) {
      codes[i] = nan;
    } else if (magnitude >= smallestNormal) {
      const code = ((magnitude + belowHalf + ((magnitude >> shift) & 1)) >> shift) - rebias;
      codes[i] = sign | (code > max ? overflow : code);
    } else {
      // Counted in units of the smallest subnormal; adding 2^52 leaves no room for a fraction, so
      // float64 addition itself rounds to the nearest integer, ties to even.
      codes[i] = sign | (Math.abs(f32[i] as number) * subnormalsPerUnit + TWO_52 - TWO_52);
    }
  }
}

/** The value of one code, from the format's definition. */
function decode(code: number, format: Minifloat): number {
  const { bits, mantissa, bias, max, infinity } = format;
  const magnitude = code & ((1 << (bits - 1)) - 1);
  const sign = code >>> (bits - 1) ? -1 : 1;
  if (magnitude === infinity) return sign * Infinity;
  if (magnitude > max) return Number.NaN;
  const exponent = magnitude >>> mantissa;
  const fraction = (magnitude & ((1 << mantissa) - 1)) / (1 << mantissa);
  return exponent === 0
    ? sign * fraction * 2 ** (1 - bias)
    : sign * (1 + fraction) * 2 ** (exponent - bias);
}

const decodeTables = new Map<Minifloat, Float32Array>();

/** Values of all codes; 1 KiB for 8 bits, 256 KiB for 16, made at first use. */
function decodeTable(format: Minifloat): Float32Array {
  let table = decodeTables.get(format);
  if (!table) {
    table = Float32Array.from({ length: 1 << format.bits }, (_, code) => decode(code, format));
    decodeTables.set(format, table);
  }
  return table;
}

/**
 * Sees `bytes` as elements of `dtype`, sharing memory: f32, i8, i32, u32, u8 and bool (0 or 1) by
 * value, bf16 and f16 as Uint16Array and f8 as Uint8Array of raw bits.
 * @throws RangeError when the length is no multiple of the element, or the memory is not aligned to
 *   it (the copy `new Uint8Array(bytes)` is).
 */
export function typedView(bytes: Uint8Array, dtype: "f32"): Float32Array;
export function typedView(bytes: Uint8Array, dtype: "bf16" | "f16"): Uint16Array;
export function typedView(bytes: Uint8Array, dtype: "i8"): Int8Array;
export function typedView(bytes: Uint8Array, dtype: "i32"): Int32Array;
export function typedView(bytes: Uint8Array, dtype: "u32"): Uint32Array;
export function typedView(
  bytes: Uint8Array,
  dtype: "f8e4m3" | "f8e5m2" | "u8" | "bool",
): Uint8Array;
export function typedView(bytes: Uint8Array, dtype: DType): TypedView;
export function typedView(bytes: Uint8Array, dtype: DType): TypedView {
  const View = VIEWS[dtype];
  const size = View.BYTES_PER_ELEMENT;
  if (bytes.byteLength % size !== 0) {
    throw new RangeError(
      `${bytes.byteLength} bytes are no whole number of ${dtype} elements of ${size} bytes`,
    );
  }
  if (bytes.byteOffset % size !== 0) {
    throw new RangeError(
      `a view of ${dtype} needs memory aligned to ${size} bytes, but the bytes start at offset ` +
        `${bytes.byteOffset} of their buffer; pass new Uint8Array(bytes)`,
    );
  }
  return new View(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength / size);
}

/**
 * Decodes elements of any dtype to f32, into fresh memory. Every float is exact (f32 and bf16 keep
 * NaN payloads); 32-bit integers beyond 2^24 round to the nearest f32; bool gives 0 or 1.
 * @param bytes any alignment
 * @throws RangeError when the length is no multiple of the element
 */
export function toF32(bytes: Uint8Array, dtype: DType): Float32Array {
  const aligned = bytes.byteOffset % dtypeBytes(dtype) === 0 ? bytes : new Uint8Array(bytes);
  const view = typedView(aligned, dtype);
  const out = new Float32Array(view.length);
  if (dtype === "bf16") {
    const bits = new Uint32Array(out.buffer);
    for (let i = 0; i < view.length; i++) bits[i] = (view[i] as number) << 16;
  } else if (dtype === "f16" || dtype === "f8e4m3" || dtype === "f8e5m2") {
    const table = decodeTable(MINIFLOATS[dtype]);
    for (let i = 0; i < view.length; i++) out[i] = table[view[i] as number] as number;
  } else if (dtype === "f32") {
    new Uint8Array(out.buffer).set(aligned); // as bytes: NaN payloads survive
  } else if (dtype === "bool") {
    for (let i = 0; i < view.length; i++) out[i] = view[i] === 0 ? 0 : 1;
  } else {
    out.set(view);
  }
  return out;
}

const INTEGER_RANGE = {
  i8: [-128, 127],
  u8: [0, 255],
  i32: [-(2 ** 31), 2 ** 31 - 1],
  u32: [0, 2 ** 32 - 1],
} as const;

/** Nearest integer, ties to even; exact for |x| < 2^51, identity beyond 2^53. */
function roundHalfEven(x: number): number {
  return Math.abs(x) < 2 ** 51 ? x + 1.5 * TWO_52 - 1.5 * TWO_52 : x;
}

/**
 * Encodes numbers as elements of `dtype`.
 *
 * Floats: numbers are first rounded to f32 (a no-op for a Float32Array), then to `dtype`, each time
 * to nearest, ties to even. Beyond the largest finite value bf16 and f16 give infinity, both f8
 * formats their largest value (from infinities too). NaN stays NaN, as one canonical bit pattern
 * (f32: the given one, when `values` is a Float32Array).
 *
 * Integers: round to nearest, ties to even, then clamp; NaN gives 0. bool: 1 unless the value is 0.
 */
export function fromF32(values: ArrayLike<number>, dtype: DType): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(values.length * dtypeBytes(dtype));
  const view = typedView(bytes, dtype);
  if (dtype === "bool") {
    for (let i = 0; i < view.length; i++) view[i] = values[i] === 0 ? 0 : 1;
  } else if (dtype in INTEGER_RANGE) {
    const [low, high] = INTEGER_RANGE[dtype as keyof typeof INTEGER_RANGE];
    for (let i = 0; i < view.length; i++) {
      // Stores of NaN into integer arrays give 0.
      view[i] = Math.min(high, Math.max(low, roundHalfEven(values[i] as number)));
    }
  } else {
    const f32 = values instanceof Float32Array ? values : Float32Array.from(values);
    if (dtype === "f32") bytes.set(new Uint8Array(f32.buffer, f32.byteOffset, f32.byteLength));
    else
      encode(f32, view as Uint16Array | Uint8Array, MINIFLOATS[dtype as keyof typeof MINIFLOATS]);
  }
  return bytes;
}

/** The number that `value` becomes when stored as `dtype`: {@link fromF32}, then {@link toF32}. */
export function roundTo(value: number, dtype: DType): number {
  return toF32(fromF32([value], dtype), dtype)[0] as number;
}
