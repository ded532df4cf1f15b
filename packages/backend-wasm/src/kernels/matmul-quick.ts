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
 * - i8: a row becomes pairs of integers, x = 2^(e − 13) (high + 2^−15 low) with |high|, |low| ≤ 2^14
 *   and e the exponent of the largest number: 29 bits, more than sums in f32 keep. Products are
 *   summed in i32 exactly.
 * - i8 with scales, which is rounded to 8 bits of each run's largest: a row becomes single integers,
 *   x = 2^(e − 14) q with |q| < 2^15 and e the exponent of the largest of the numbers that meet one
 *   scale. That rounds by at most 2^−15 of this largest, and halves the work.
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
import { pick, transpose4 } from "./matmul-pack.ts";

type V = Value<"v128">;
type Sum = Local<"v128">;

/**
 * A row of `steps` elements as it is prepared: whether sums must be taken another way (i32), a factor
 * (f32) for the sums of each span of elements, then the numbers. Places and sizes in bytes.
 */
export interface PreparedRow {
  readonly reader: QuickReader;
  readonly steps: number;
  readonly span: number;
  readonly numbers: number;
  readonly bytes: number;
}
export const UNUSABLE = 0;
export const FACTORS = 4;

export function preparedRow(reader: QuickReader, steps: number, span: number): PreparedRow {
  const numbers = Math.ceil((FACTORS + 4 * Math.ceil(steps / span)) / 16) * 16;
  const bytes = Math.ceil((numbers + reader.width * steps) / 64) * 64;
  return { reader, steps, span, numbers, bytes };
}

export interface QuickReader {
  /** Elements in a chunk. */
  readonly chunk: number;
  /** Bytes of a row's element. */
  readonly width: 2 | 4;
  /** Partial sums for each sum. */
  readonly parts: number;
  /** Most elements between calls of `total`. */
  readonly span: number;
  /** The exponent that rows make up for; none: numbers are taken as they are. */
  readonly exponent?: number;
  /** Bits of the integers that numbers become, without the sign. */
  readonly bits?: number;
  /**
   * Vectors of weights of the chunk at an address and offset, one after another: code is written as they
   * are asked for. `largest` keeps the largest code.
   */
  weights(f: Func, address: Value<"i32">, offset: number, largest: Sum): Generator<V>;
  /** Adds products with vectors of a row to partial sums. Default: one sum, in f32. */
  add?(f: Func, weights: V, row: readonly V[], sums: readonly Sum[]): void;
  /** The sum of partial sums. */
  total(parts: readonly V[]): V;
  /** Whether the largest code is not finite. */
  unusable?(largest: V): V;
  /** Lays out a chunk of a row, given as vectors of numbers. */
  layOut(f: Func, numbers: readonly V[]): V[];
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
  chunk: 8,
  width: 4,
  parts: 1,
  span: Number.POSITIVE_INFINITY,
  *weights(f, address, offset) {
    const codes = f.keep(v128.load(address, offset));
    yield i32x4.shl(codes, 16);
    yield v128.and(codes, HIGH_HALF);
  },
  total: first,
  layOut: pairs,
};

/** Sign, and 15 bits of magnitude that are moved right by 3. */
const F16_MASK = i32x4.const(0x8fffe000 | 0);
const f16: QuickReader = {
  chunk: 8,
  width: 4,
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

/** Rows of integers of 15 bits, or of 14 and a second part with what these leave. */
function i8(parts: 1 | 2): QuickReader {
  const bits = parts === 1 ? 15 : 14;
  const split = (f: Func, x: V): V[] => {
    const high = f.keep(f32x4.nearest(x));
    const integers = [f.keep(i32x4.truncSatF32x4S(high))];
    if (parts === 1) return integers;
    const low = f32x4.nearest(f32x4.mul(f32x4.sub(x, high), f32x4.const(2 ** 15)));
    return [...integers, f.keep(i32x4.truncSatF32x4S(low))];
  };
  return {
    chunk: 16,
    width: parts === 1 ? 2 : 4,
    parts,
    bits,
    // Each adds at most 2^7 · 2^15 to a quarter of the lanes: far from 2^31.
    span: 1024,
    *weights(_, address, offset) {
      yield v128.load8x8S(address, offset);
      yield v128.load8x8S(address, offset + 8);
    },
    add(f, weights, row, sums) {
      for (const [part, sum] of sums.entries()) {
        f.set(sum, i32x4.add(sum, i32x4.dotI16x8S(weights, row[part] as V)));
      }
    },
    total: ([high, low]) => {
      const sum = f32x4.convertI32x4S(high as V);
      if (!low) return sum;
      return f32x4.add(sum, f32x4.mul(f32x4.convertI32x4S(low), f32x4.const(2 ** -15)));
    },
    layOut(f, numbers) {
      const integers = numbers.map((x) => split(f, x));
      return [0, 2].flatMap((v) =>
        Array.from({ length: parts }, (_, part) =>
          i16x8.narrowI32x4S(integers[v]?.[part] as V, integers[v + 1]?.[part] as V),
        ),
      );
    },
  };
}

const READERS: Partial<Record<DType, QuickReader>> = {
  bf16,
  f16,
  f8e4m3: f8(3, 7, 0x7f),
  f8e5m2: f8(2, 15, 0x7c),
  i8: i8(2),
};
const SCALED_I8 = i8(1);

/** The reader of weights of a format, where it has one. */
export function quickReader(dtype: DType, scaled: boolean): QuickReader | undefined {
  return dtype === "i8" && scaled ? SCALED_I8 : READERS[dtype];
}

/** Writes the row of f32 at `from`. */
export function prepareRow(
  f: Func,
  { reader, steps, span, numbers }: PreparedRow,
  from: Local<"i32">,
  to: Local<"i32">,
): void {
  const source = f.keep(from);
  const target = f.keep(i32.add(to, numbers));
  const factors = f.keep(to);
  const unusable = f.local("i32", 0);
  const end = f.keep(from);
  const last = f.keep(i32.add(from, i32.const(4 * steps)));
  const scale = f.local("f32", f32.const(1));
  const factor = f.local("f32", f32.const(1));
  const most = f.local("v128");
  f.while(i32.ne(source, last), () => {
    const start = f.keep(source);
    f.inc(end, 4 * span);
    if (steps % span) f.if(i32.gtU(end, last), () => f.set(end, last));
    if (reader.exponent !== undefined || reader.bits !== undefined) {
      f.set(most, f32x4.const(0));
      f.while(i32.ne(source, end), () => {
        f.set(most, f32x4.max(most, f32x4.abs(v128.load(source))));
        f.inc(source, 16);
      });
      f.set(source, start);
      const half = f.keep(f32x4.max(most, pick(most, most, 2, 3, 0, 1)));
      const code = i32x4.extractLane(f32x4.max(half, pick(half, half, 1, 0, 3, 2)), 0);
      // Powers of two, by their exponents. Where rows are not finite, all of this is NaN or infinite.
      const exponent = f.keep(i32.sub(i32.shrU(code, 23), 127));
      const power = (x: Value<"i32">) => f32.reinterpretI32(i32.shl(i32.add(x, 127), 23));
      if (reader.bits !== undefined) {
        f.if(i32.gtS(exponent, 112), () => {
          f.set(unusable, 1);
          f.set(exponent, 0);
        });
        f.if(i32.ltS(exponent, -112), () => f.set(exponent, -112));
        f.set(scale, power(i32.sub(reader.bits - 1, exponent)));
        f.set(factor, power(i32.sub(exponent, reader.bits - 1)));
      } else {
        f.if(i32.ltS(exponent, LEAST), () => f.set(exponent, LEAST));
        f.if(i32.gtS(exponent, 100), () => f.set(exponent, 100));
        f.set(scale, power(i32.sub((reader.exponent as number) + LEAST, exponent)));
        f.set(factor, power(i32.sub(exponent, LEAST)));
      }
    }
    f.do(f32.store(factors, factor, FACTORS));
    f.inc(factors, 4);
    const scales = f.keep(f32x4.splat(scale));
    f.while(i32.ne(source, end), () => {
      const scaled = Array.from({ length: reader.chunk / 4 }, (_, n) =>
        f.keep(f32x4.mul(v128.load(source, 16 * n), scales)),
      );
      for (const [n, x] of reader.layOut(f, scaled).entries()) {
        f.do(v128.store(target, x, 16 * n));
      }
      f.inc(source, 4 * reader.chunk);
      f.inc(target, reader.width * reader.chunk);
    });
  });
  f.do(i32.store(to, unusable, UNUSABLE));
}
