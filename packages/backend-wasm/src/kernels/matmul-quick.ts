/**
 * Dot products with 8- and 16-bit weights at the speed at which these are read.
 *
 * Converting such weights to f32 one vector at a time costs more than reading them. Here the work is
 * moved to the other operand, whose few rows are prepared once (`prepareRows`) and then meet many
 * columns of weights:
 *
 * - bf16: the two halves of a word become numbers by one instruction each, so a row is laid out as
 *   its even and its odd elements.
 * - f16 and f8: bits are shifted to where f32 has them. The exponents are then too small by the
 *   difference of the biases, which the row makes up for. What is not finite would be read as a
 *   number, so the largest code is tracked, and the caller falls back to exact conversion.
 * - i8: see matmul-quick-i8.ts.
 */
import type { DType } from "@dsv3/tensor";
import {
  type Func,
  f32,
  f32x4,
  i8x16,
  i16x8,
  i32,
  i32x4,
  type Local,
  type Value,
  v128,
} from "../asm.ts";
import type { Target } from "../kernel.ts";
import { pick, transpose4 } from "./matmul-pack.ts";
import { quickI8 } from "./matmul-quick-i8.ts";

type V = Value<"v128">;
type Sum = Local<"v128">;

/**
 * A row of `steps` elements as it is prepared: whether sums must be taken another way (i32); a factor for
 * the sums of each span of elements (f32), and what is added to these (i32), both for as many spans as
 * fill vectors, with zeros at the end; then the numbers. Places and sizes in bytes.
 */
export interface PreparedRow {
  readonly reader: QuickReader;
  readonly steps: number;
  readonly span: number;
  readonly starts: number;
  readonly numbers: number;
  readonly bytes: number;
}
export const UNUSABLE = 0;
export const FACTORS = 16;

export function preparedRow(reader: QuickReader, steps: number, span: number): PreparedRow {
  const starts = FACTORS + 16 * Math.ceil(steps / span / 4);
  const aligned = (bytes: number) => Math.ceil(bytes / 64) * 64;
  const numbers = aligned(2 * starts - FACTORS);
  return { reader, steps, span, starts, numbers, bytes: aligned(numbers + reader.width * steps) };
}

export interface QuickReader {
  /** Elements in a chunk. */
  readonly chunk: number;
  /** Bytes of a row's element, vectors of a row that meet a vector of weights, and partial sums of each sum. */
  readonly width: number;
  readonly vectors: number;
  readonly parts: number;
  /** Most elements between calls of `total`. */
  readonly span: number;
  /** The exponent that rows make up for; none: numbers are taken as they are. */
  readonly exponent?: number;
  /** Numbers become integers (of some fraction) up to this one. */
  readonly peak?: number;
  /** Whether partial sums are integers that stay so until they are added across lanes. */
  readonly integers?: boolean;
  /**
   * Vectors of weights of the chunk at an address and offset, one after another: code is written as they
   * are asked for. `largest` keeps the largest code.
   */
  weights(f: Func, address: Value<"i32">, offset: number, largest: Sum): Generator<V>;
  /** Adds products with vectors of a row to partial sums. Default: one sum, in f32. */
  add?(f: Func, weights: V, row: readonly V[], sums: readonly Sum[]): void;
  /** The sum of partial sums: f32, or i32 where `integers`. */
  total(parts: readonly V[]): V;
  /** Whether the largest code is not finite. */
  unusable?(largest: V): V;
  /**
   * Lays out a chunk of a row, given as vectors of numbers: first what all vectors of weights meet first,
   * side by side, then what they meet next. Adds to `start` what is to be added to the span's sum.
   */
  layOut(f: Func, numbers: readonly V[], start: Sum): V[];
}

/** Rows are scaled to about 2^(exponent + this): far from both ends of what f32 can hold. */
const LEAST = -20;
const HIGH_HALF = i32x4.const(-65536);
const first = (parts: readonly V[]) => parts[0] as V;
const pairs = (_: Func, [a, b]: readonly V[]) => [
  pick(a as V, b as V, 0, 2, 4, 6),
  pick(a as V, b as V, 1, 3, 5, 7),
];

const bf16: QuickReader = {
  chunk: 16,
  width: 4,
  vectors: 1,
  parts: 1,
  span: Number.POSITIVE_INFINITY,
  *weights(f, address, offset) {
    const codes = [0, 16].map((at) => f.keep(v128.load(address, offset + at)));
    for (const words of codes) yield i32x4.shl(words, 16);
    for (const words of codes) yield v128.and(words, HIGH_HALF);
  },
  total: first,
  layOut(f, numbers) {
    const [a, b] = [numbers.slice(0, 2), numbers.slice(2)].map((half) => pairs(f, half));
    return [0, 1].flatMap((i) => [a?.[i] as V, b?.[i] as V]);
  },
};

/** Sign, and 15 bits of magnitude that are moved right by 3. */
const F16_MASK = i32x4.const(0x8fffe000 | 0);
const f16: QuickReader = {
  chunk: 8,
  width: 4,
  vectors: 1,
  parts: 1,
  span: Number.POSITIVE_INFINITY,
  exponent: 127 - 15,
  *weights(f, address, offset, largest) {
    const codes = f.keep(v128.load(address, offset));
    f.set(largest, i16x8.maxU(largest, i16x8.add(codes, codes)));
    yield v128.and(i32x4.shrS(i32x4.shl(codes, 16), 3), F16_MASK);
    yield v128.and(i32x4.shrS(codes, 3), F16_MASK);
  },
  total: first,
  unusable: (largest) => i16x8.geU(largest, i16x8.splat(i32.const(0xf800))),
  layOut: pairs,
};

/** Codes are first made bf16 in lanes of 16 bits, the even and the odd bytes, and then taken as there. */
function f8(mantissa: number, bias: number, notFinite: number): QuickReader {
  const shift = mantissa + 1;
  const mask = 0x8000 | (0x7f00 >> shift);
  const masks = i32x4.const((mask << 16) | mask);
  return {
    chunk: 16,
    width: 4,
    vectors: 1,
    parts: 1,
    span: Number.POSITIVE_INFINITY,
    exponent: 127 - bias,
    *weights(f, address, offset, largest) {
      const codes = f.keep(v128.load(address, offset));
      f.set(largest, i8x16.maxU(largest, i8x16.add(codes, codes)));
      for (const bytes of [i16x8.shl(codes, 8), codes]) {
        const halves = f.keep(v128.and(i16x8.shrS(bytes, shift), masks));
        yield i32x4.shl(halves, 16);
        yield v128.and(halves, HIGH_HALF);
      }
    },
    total: first,
    unusable: (largest) => i8x16.geU(largest, i8x16.splat(i32.const(2 * notFinite))),
    layOut(f, numbers) {
      const [a, b, c, d] = transpose4(f, numbers) as [V, V, V, V];
      return [a, c, b, d];
    },
  };
}

const READERS: Partial<Record<DType, QuickReader>> = {
  bf16,
  f16,
  f8e4m3: f8(3, 7, 0x7f),
  f8e5m2: f8(2, 15, 0x7c),
};

/** The reader of weights of a format that meet so many rows, where it has one. */
export function quickReader(
  dtype: DType,
  scaled: boolean,
  rows: number,
  target: Target,
): QuickReader | undefined {
  return dtype === "i8" ? quickI8(scaled, rows, target) : READERS[dtype];
}

/** Writes the row of f32 at `from`. */
export function prepareRow(
  f: Func,
  { reader, steps, span, starts, numbers }: PreparedRow,
  from: Local<"i32">,
  to: Local<"i32">,
): void {
  const source = f.keep(from);
  const target = f.keep(i32.add(to, numbers));
  const spans = f.keep(to);
  for (const last of [starts - 16, 2 * starts - FACTORS - 16]) {
    f.do(v128.store(spans, i32x4.const(0), last));
  }
  const unusable = f.local("i32", 0);
  const end = f.keep(from);
  const last = f.keep(i32.add(from, i32.const(4 * steps)));
  const scale = f.local("f32", f32.const(1));
  const factor = f.local("f32", f32.const(1));
  const most = f.local("v128");
  const started = f.local("v128");
  f.while(i32.ne(source, last), () => {
    const start = f.keep(source);
    f.inc(end, 4 * span);
    if (steps % span) f.if(i32.gtU(end, last), () => f.set(end, last));
    if (reader.exponent !== undefined || reader.peak !== undefined) {
      // Codes without the sign grow with the number, up to infinity and NaN.
      f.set(most, i32x4.const(0));
      f.while(i32.ne(source, end), () => {
        f.set(most, i32x4.maxU(most, f32x4.abs(v128.load(source))));
        f.inc(source, 16);
      });
      f.set(source, start);
      const half = f.keep(i32x4.maxU(most, pick(most, most, 2, 3, 0, 1)));
      const largest = f.keep(f32x4.extractLane(i32x4.maxU(half, pick(half, half, 1, 0, 3, 2)), 0));
      if (reader.peak !== undefined) {
        // Not so for NaN either.
        f.if(i32.eqz(f32.lt(largest, f32.const(2 ** 112))), () => {
          f.set(unusable, 1);
          f.set(largest, f32.const(1));
        });
        f.set(largest, f32.max(largest, f32.const(2 ** -112)));
        f.set(scale, f32.div(f32.const(reader.peak), largest));
        f.set(factor, f32.div(largest, f32.const(reader.peak)));
      } else {
        // Powers of two, by their exponents. Where rows are not finite, all of this is NaN or infinite.
        const exponent = f.keep(i32.sub(i32.shrU(i32.reinterpretF32(largest), 23), 127));
        const power = (x: Value<"i32">) => f32.reinterpretI32(i32.shl(i32.add(x, 127), 23));
        f.if(i32.ltS(exponent, LEAST), () => f.set(exponent, LEAST));
        f.if(i32.gtS(exponent, 100), () => f.set(exponent, 100));
        f.set(scale, power(i32.sub((reader.exponent as number) + LEAST, exponent)));
        f.set(factor, power(i32.sub(exponent, LEAST)));
      }
    }
    f.set(started, i32x4.const(0));
    const scales = f.keep(f32x4.splat(scale));
    f.while(i32.ne(source, end), () => {
      const scaled = Array.from({ length: reader.chunk / 4 }, (_, n) =>
        f.keep(f32x4.mul(v128.load(source, 16 * n), scales)),
      );
      for (const [n, x] of reader.layOut(f, scaled, started).entries()) {
        f.do(v128.store(target, x, 16 * n));
      }
      f.inc(source, 4 * reader.chunk);
      f.inc(target, reader.width * reader.chunk);
    });
    const half = f.keep(i32x4.add(started, pick(started, started, 2, 3, 0, 1)));
    const sum = i32x4.extractLane(i32x4.add(half, pick(half, half, 1, 0, 3, 2)), 0);
    f.do(f32.store(spans, factor, FACTORS), i32.store(spans, sum, starts));
    f.inc(spans, 4);
  });
  f.do(i32.store(to, unusable, UNUSABLE));
}
