import { describe, expect, it } from "vitest";
import {
  DTYPES,
  type DType,
  dtypeBytes,
  fromF32,
  isFloat,
  roundTo,
  toF32,
  typedView,
} from "./dtype.ts";

// The formats again, written down independently of the source, from IEEE 754 and the OCP 8-bit
// Floating Point Specification 1.0, table 1. `infinity` and `nan` are what a magnitude means.
interface Format {
  dtype: DType;
  bits: 8 | 16;
  exponentBits: number;
  bias: number;
  infinity?: number;
  isNaN: (magnitude: number) => boolean;
  canonicalNaN: number;
  max: number;
  smallest: number;
  saturates: boolean;
}

const FORMATS: Format[] = [
  {
    dtype: "bf16",
    bits: 16,
    exponentBits: 8,
    bias: 127,
    infinity: 0x7f80,
    isNaN: (m) => m > 0x7f80,
    canonicalNaN: 0x7fc0,
    max: (2 - 2 ** -7) * 2 ** 127,
    smallest: 2 ** -133,
    saturates: false,
  },
  {
    dtype: "f16",
    bits: 16,
    exponentBits: 5,
    bias: 15,
    infinity: 0x7c00,
    isNaN: (m) => m > 0x7c00,
    canonicalNaN: 0x7e00,
    max: 65504,
    smallest: 2 ** -24,
    saturates: false,
  },
  {
    dtype: "f8e4m3",
    bits: 8,
    exponentBits: 4,
    bias: 7,
    isNaN: (m) => m === 0x7f,
    canonicalNaN: 0x7f,
    max: 448,
    smallest: 2 ** -9,
    saturates: true,
  },
  {
    dtype: "f8e5m2",
    bits: 8,
    exponentBits: 5,
    bias: 15,
    infinity: 0x7c,
    isNaN: (m) => m > 0x7c,
    canonicalNaN: 0x7f,
    max: 57344,
    smallest: 2 ** -16,
    saturates: true,
  },
];

function define(code: number, f: Format): number {
  const mantissaBits = f.bits - 1 - f.exponentBits;
  const sign = code >= 2 ** (f.bits - 1) ? -1 : 1;
  const magnitude = code % 2 ** (f.bits - 1);
  if (f.isNaN(magnitude)) return Number.NaN;
  if (magnitude === f.infinity) return sign * Infinity;
  const exponent = Math.floor(magnitude / 2 ** mantissaBits);
  const mantissa = magnitude % 2 ** mantissaBits;
  if (exponent === 0) return sign * mantissa * 2 ** (1 - f.bias - mantissaBits);
  return sign * (2 ** mantissaBits + mantissa) * 2 ** (exponent - f.bias - mantissaBits);
}

const codesToBytes = (codes: number[], f: Format): Uint8Array =>
  new Uint8Array((f.bits === 8 ? Uint8Array.from(codes) : Uint16Array.from(codes)).buffer);

const encode = (values: ArrayLike<number>, f: Format): number[] =>
  Array.from(typedView(fromF32(values, f.dtype), f.dtype));

/** The f32 next to `x` > 0, `step` places up or down. */
function neighbour(x: number, step: number): number {
  const bits = new Int32Array(Float32Array.of(x).buffer);
  bits[0] = (bits[0] as number) + step;
  return new Float32Array(bits.buffer)[0] as number;
}

/** The first difference, so that 65,536 comparisons fail with one line and not with a megabyte. */
function firstDifference(got: ArrayLike<number>, want: ArrayLike<number>): string | undefined {
  if (got.length !== want.length) return `${got.length} values instead of ${want.length}`;
  for (let i = 0; i < got.length; i++) {
    if (!Object.is(got[i], want[i])) return `[${i}]: got ${got[i]}, want ${want[i]}`;
  }
  return undefined;
}

describe.each(FORMATS)("$dtype", (f) => {
  const half = 2 ** (f.bits - 1);
  const codes = Array.from({ length: 2 * half }, (_, code) => code);
  const values = codes.map((code) => define(code, f));
  const finite = codes.filter((code) => code < half && Number.isFinite(values[code]));

  it("has the limits of its specification", () => {
    expect(Math.max(...finite.map((code) => define(code, f)))).toBe(f.max);
    expect(define(1, f)).toBe(f.smallest);
  });

  it("decodes every code to its defined value", () => {
    expect(firstDifference(toF32(codesToBytes(codes, f), f.dtype), values)).toBeUndefined();
  });

  it("encodes every value back to its code; NaN to one code; a read infinity by the rule", () => {
    const want = codes.map((code) => {
      const value = values[code] as number;
      if (Number.isNaN(value)) return f.canonicalNaN;
      if (Math.abs(value) === Infinity && f.saturates) return code - 1;
      return code;
    });
    expect(firstDifference(encode(values, f), want)).toBeUndefined();
  });

  it("rounds between every two neighbours: ties to even, anything else to the nearest", () => {
    const inputs: number[] = [];
    const want: number[] = [];
    for (const low of finite.slice(0, -1)) {
      const middle = (define(low, f) + define(low + 1, f)) / 2;
      expect(Math.fround(middle)).toBe(middle);
      inputs.push(middle, neighbour(middle, -1), neighbour(middle, 1));
      want.push(low % 2 === 0 ? low : low + 1, low, low + 1);
    }
    expect(firstDifference(encode(inputs, f), want)).toBeUndefined();
    expect(
      firstDifference(
        encode(
          inputs.map((x) => -x),
          f,
        ),
        want.map((code) => code + half),
      ),
    ).toBeUndefined();
  });

  it("overflows from half a step beyond the largest value", () => {
    const largest = finite.length - 1;
    const step = f.max - define(largest - 1, f);
    const edge = f.max + step / 2; // a tie: the code after the largest is the even one
    const over = f.saturates ? largest : (f.infinity as number);
    expect(encode([neighbour(edge, -1), edge, 3e38, Infinity], f)).toEqual([
      largest,
      over,
      f.dtype === "bf16" ? encode([3e38], f)[0] : over,
      over,
    ]);
    expect(encode([-edge, -Infinity], f)).toEqual([over + half, over + half]);
  });

  it("keeps NaN of either sign and any payload, and both zeros", () => {
    const nans = new Float32Array(
      Uint32Array.of(0x7fc00000, 0x7f800001, 0xffc00000, 0xff800001, 0x7fffffff).buffer,
    );
    expect(encode(nans, f)).toEqual(Array(5).fill(f.canonicalNaN));
    expect(encode([0, -0], f)).toEqual([0, half]);
  });

  it("agrees with a nearest-value search on random f32 bit patterns", () => {
    let state = 0x9e3779b9;
    const random = () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state;
    };
    const table = finite.map((code) => define(code, f));
    const exponentSpread = 2 ** f.exponentBits + 12;
    const inputs = Float32Array.from({ length: 40_000 }, (_, i) => {
      const bits = (random() ^ (random() >>> 16)) >>> 0;
      if (i % 4 === 0) return new Float32Array(Uint32Array.of(bits).buffer)[0] as number;
      const exponent = (random() % exponentSpread) - exponentSpread / 2;
      return (bits / 2 ** 31 - 1) * 2 ** Math.max(-149, Math.min(127, exponent));
    });
    const want = Array.from(inputs, (x) => {
      if (Number.isNaN(x)) return f.canonicalNaN;
      const a = Math.abs(x);
      let low = 0; // the largest code whose value is at most a
      for (let bit = half / 2; bit >= 1; bit /= 2) {
        if (low + bit < table.length && (table[low + bit] as number) <= a) low += bit;
      }
      // Past the largest value, the next one would be a step further, were there an exponent for it.
      const last = low === table.length - 1;
      const below = table[low] as number;
      const above = last ? 2 * below - (table[low - 1] as number) : (table[low + 1] as number);
      const toUpper = a - below > above - a || (a - below === above - a && low % 2 === 1);
      let code = toUpper ? low + 1 : low;
      if (last && toUpper) code = f.saturates ? low : (f.infinity as number);
      // The sign of -0 counts too.
      return x < 0 || Object.is(x, -0) ? code + half : code;
    });
    expect(firstDifference(encode(inputs, f), want)).toBeUndefined();
  });
});

describe("f32", () => {
  it("keeps every bit, NaN payloads and subnormals included", () => {
    const bits = Uint32Array.of(1, 0x80000000, 0x7f800001, 0xffc12345, 0x7f7fffff, 0x007fffff);
    const bytes = fromF32(new Float32Array(bits.buffer), "f32");
    expect(new Uint32Array(bytes.buffer)).toEqual(bits);
    expect(new Uint32Array(toF32(bytes, "f32").buffer)).toEqual(bits);
  });

  it("rounds float64 input once", () => {
    expect(roundTo(1 + 2 ** -24, "f32")).toBe(1);
    expect(roundTo(1 + 3 * 2 ** -24, "f32")).toBe(1 + 2 ** -22);
    expect(roundTo(1e39, "f32")).toBe(Infinity);
  });

  it("is copied, never shared", () => {
    const values = Float32Array.of(1, 2);
    const bytes = fromF32(values, "f32");
    const back = toF32(bytes, "f32");
    values[0] = 9;
    bytes.fill(0);
    expect([...back]).toEqual([1, 2]);
  });
});

describe("integers and bool", () => {
  it("round half to even, clamp, and take NaN for 0", () => {
    const cases = [0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, 300, -300, Infinity, -Infinity, NaN];
    expect([...typedView(fromF32(cases, "i8"), "i8")]).toEqual([
      0, 2, 2, 0, -2, 126, 127, 127, -128, 127, -128, 0,
    ]);
    expect([...typedView(fromF32([254.5, 255.5, -1, 1e9, NaN], "u8"), "u8")]).toEqual([
      254, 255, 0, 255, 0,
    ]);
    expect([...typedView(fromF32([2 ** 31, -(2 ** 40), 2147483646.5, NaN], "i32"), "i32")]).toEqual(
      [2147483647, -2147483648, 2147483646, 0],
    );
    expect([...typedView(fromF32([2 ** 32, -1, 4294967294.5, Infinity], "u32"), "u32")]).toEqual([
      4294967295, 0, 4294967294, 4294967295,
    ]);
  });

  it("keep every 8-bit value", () => {
    const signed = Array.from({ length: 256 }, (_, i) => i - 128);
    const unsigned = Array.from({ length: 256 }, (_, i) => i);
    expect([...toF32(fromF32(signed, "i8"), "i8")]).toEqual(signed);
    expect([...toF32(fromF32(unsigned, "u8"), "u8")]).toEqual(unsigned);
  });

  it("round large integers to the nearest f32 when decoded", () => {
    const bytes = new Uint8Array(Int32Array.of(16777217, 2147483647, -16777219).buffer);
    expect([...toF32(bytes, "i32")]).toEqual([16777216, 2147483648, -16777220]);
  });

  it("read any non-zero byte as true, and NaN too", () => {
    expect([...toF32(Uint8Array.of(0, 1, 2, 255), "bool")]).toEqual([0, 1, 1, 1]);
    expect([...fromF32([0, -0, 0.1, NaN], "bool")]).toEqual([0, 0, 1, 1]);
  });
});

describe("every dtype", () => {
  it("knows its size and kind", () => {
    expect(Object.fromEntries(DTYPES.map((d) => [d, dtypeBytes(d)]))).toEqual({
      f32: 4,
      bf16: 2,
      f16: 2,
      f8e4m3: 1,
      f8e5m2: 1,
      i8: 1,
      i32: 4,
      u32: 4,
      u8: 1,
      bool: 1,
    });
    expect(DTYPES.filter(isFloat)).toEqual(["f32", "bf16", "f16", "f8e4m3", "f8e5m2"]);
  });

  it.each(DTYPES)("%s: empty, unaligned and ragged bytes", (dtype) => {
    expect(fromF32([], dtype).length).toBe(0);
    expect(toF32(new Uint8Array(0), dtype).length).toBe(0);

    const aligned = fromF32([0, 1, 1, 0, 1], dtype);
    const shifted = new Uint8Array(aligned.length + 1);
    shifted.set(aligned, 1);
    expect([...toF32(shifted.subarray(1), dtype)]).toEqual([0, 1, 1, 0, 1]);
    // A Buffer's own slice() shares memory, so it cannot be what aligns.
    expect([...toF32(Buffer.from(shifted.buffer, 1), dtype)]).toEqual([0, 1, 1, 0, 1]);
    if (dtypeBytes(dtype) > 1) {
      expect(() => typedView(shifted.subarray(1), dtype)).toThrow(/aligned to \d bytes.*offset 1/);
      expect(() => toF32(aligned.subarray(1), dtype)).toThrow(/no whole number of/);
    }
  });

  it("is viewed without a copy", () => {
    const bytes = new Uint8Array(8);
    typedView(bytes, "f32")[1] = 1;
    expect([...bytes]).toEqual([0, 0, 0, 0, 0, 0, 0x80, 0x3f]);
  });
});
