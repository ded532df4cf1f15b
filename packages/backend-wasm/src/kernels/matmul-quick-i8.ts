/**
 * Dot products with weights of 8 bits, in integers. Products of a row's integers are summed in i32,
 * exactly, and multiplied with one factor for all that meet one scale: x ≈ q · largest / peak.
 *
 * - Without scales a row becomes pairs of integers, high + 2^−15 low with |high|, |low| ≤ 2^14: 29
 *   bits, more than sums in f32 keep.
 * - Weights with scales are rounded to 8 bits themselves, so single integers |q| < 2^14 are enough:
 *   that rounds by at most 2^−15 of the largest number, and halves the work.
 *
 * Where engines have an instruction that adds four products of 8 bits to a sum (`quickDots`), single
 * integers meet 16 weights by two of them. It wants one side in 7 bits without a sign (with the eighth
 * bit engines differ), so q is cut into its sign and two digits, |q| = 128 high + low; and for q < 0 all
 * bits of the weight are turned around, which makes it −w − 1:
 *
 *     Σ w q = Σ_{q ≥ 0} w |q| + Σ_{q < 0} (−w − 1) |q| + Σ_{q < 0} |q|
 *
 * The last sum is the row's alone, and added at the end. Both ways the sums are the same integers, and stay
 * integers until all lanes are added, so that results have the same bits on every machine.
 */
import { type Func, f32x4, i8x16, i16x8, i32x4, type Value, v128 } from "../asm.ts";
import type { Target } from "../kernel.ts";
import type { QuickReader } from "./matmul-quick.ts";

type V = Value<"v128">;

/** The reader of weights of 8 bits, with or without scales, that meet so many rows. */
export function quickI8(scaled: boolean, rows: number, target: Target): QuickReader {
  if (!scaled) return PAIRS;
  // Bits are turned around for each row anew: with more than one it is quicker to convert weights.
  return target.quickDots && rows === 1 ? DIGITS : SINGLES;
}

/** Numbers below 2^22 rounded to integers: added to this one, they are its last bits. */
const SHIFT = 1.5 * 2 ** 23;
const integers = (f: Func, x: V): V =>
  f.keep(i32x4.sub(f32x4.add(x, f32x4.const(SHIFT)), f32x4.const(SHIFT)));

/** Two vectors of integers in one. */
const narrow = (a: V | undefined, b: V | undefined): V => i16x8.narrowI32x4S(a as V, b as V);

/** What readers by products of 16 bits have in common: eight weights meet a vector of each part. */
const byWords = (chunk: number) => ({
  chunk,
  *weights(_: Func, address: Value<"i32">, offset: number) {
    for (let at = 0; at < chunk; at += 8) yield v128.load8x8S(address, offset + at);
  },
  add: ((f, weights, row, sums) => {
    for (const [part, sum] of sums.entries()) {
      f.set(sum, i32x4.add(sum, i32x4.dotI16x8S(weights, row[part] as V)));
    }
  }) satisfies QuickReader["add"],
});

const PAIRS: QuickReader = {
  ...byWords(16),
  width: 4,
  vectors: 2,
  parts: 2,
  // Each adds at most 2^7 · 2^14 to one of the four lanes: far from 2^31.
  span: 1024,
  peak: 2 ** 14,
  total: ([high, low]) =>
    f32x4.add(
      f32x4.convertI32x4S(high as V),
      f32x4.mul(f32x4.convertI32x4S(low as V), f32x4.const(2 ** -15)),
    ),
  layOut(f, numbers) {
    const high = numbers.map((x) => f.keep(f32x4.nearest(x)));
    const low = numbers.map((x, i) =>
      integers(f, f32x4.mul(f32x4.sub(x, high[i] as V), f32x4.const(2 ** 15))),
    );
    const whole = high.map((x) => integers(f, x));
    return [whole, low].flatMap((part) => [narrow(part[0], part[1]), narrow(part[2], part[3])]);
  },
};

const PEAK = 2 ** 14 - 1;
/** Adds at most 2^7 · 2^14 for each element. */
const SPAN = 512;

/** Of both ways with single integers: two vectors of 8 bits. */
const CHUNK = 32;

const SINGLES: QuickReader = {
  ...byWords(CHUNK),
  width: 2,
  vectors: 1,
  parts: 1,
  span: SPAN,
  peak: PEAK,
  integers: true,
  total: ([sum]) => sum as V,
  layOut(f, numbers) {
    const q = numbers.map((x) => integers(f, x));
    return [0, 2, 4, 6].map((i) => narrow(q[i], q[i + 1]));
  },
};

const DIGITS: QuickReader = {
  chunk: CHUNK,
  width: 3,
  vectors: 3,
  parts: 2,
  span: SPAN,
  peak: PEAK,
  *weights(_, address, offset) {
    yield v128.load(address, offset);
    yield v128.load(address, offset + 16);
  },
  add(f, weights, [sign, ...digits], sums) {
    const turned = f.keep(v128.xor(weights, sign as V));
    for (const [i, digit] of digits.entries()) {
      const sum = sums[i] as (typeof sums)[number];
      f.set(sum, i32x4.relaxedDotI8x16I7x16AddS(turned, digit, sum));
    }
  },
  integers: true,
  total: ([high, low]) => i32x4.add(i32x4.shl(high as V, 7), low as V),
  layOut(f, numbers, start) {
    const q = numbers.map((x) => integers(f, x));
    const signs = q.map((x) => f.keep(i32x4.shrS(x, 31)));
    const sizes = q.map((x) => f.keep(i32x4.abs(x)));
    for (const [i, size] of sizes.entries()) {
      f.set(start, i32x4.add(start, v128.and(size, signs[i] as V)));
    }
    const high = sizes.map((x) => i32x4.shrU(x, 7));
    const low = sizes.map((x) => v128.and(x, i32x4.const(127)));
    return [signs, high, low].flatMap((part) =>
      [0, 4].map((i) =>
        i8x16.narrowI16x8S(narrow(part[i], part[i + 1]), narrow(part[i + 2], part[i + 3])),
      ),
    );
  },
};
