/**
 * Elementary functions on four f32 lanes. Polynomial coefficients were fitted for least maximal
 * error (iteratively reweighted least squares on 400 Chebyshev nodes in 40-digit arithmetic);
 * largest errors, over a million floats across the whole range against float64, in units in the last
 * place, are asserted in math.test.ts.
 */
import { type Func, f32x4, f64x2, i8x16, i32x4, type Local, type Value, v128 } from "../asm.ts";
import type { Target } from "../kernel.ts";

type V = Value<"v128">;
const c = (x: number) => f32x4.const(x);
const bits = (x: number) => i32x4.const(x);

/** a·b + c. */
function madd(target: Target, a: V, b: V, sum: V): V {
  return target.relaxedSimd ? f32x4.relaxedMadd(a, b, sum) : f32x4.add(f32x4.mul(a, b), sum);
}

/** Σ coefficients[i]·xⁱ. */
function polynomial(target: Target, x: V, coefficients: readonly number[]): V {
  return coefficients
    .slice(0, -1)
    .reduceRight((sum, a) => madd(target, sum, x, c(a)), c(coefficients.at(-1) as number));
}

// ln 2 in two parts; the first has 15 bits, so that products with an exponent are exact.
const LN2_HIGH = 0.693145751953125;
const LN2_LOW = 1.4286068203094173e-6;

/** eˣ = 2ⁿ·eʳ with |r| ≤ ln 2 / 2, and eʳ = 1 + r + r²·p(r). */
export function exp(f: Func, target: Target, x: V): V {
  // Beyond these the result is 0 or infinity. pmin and pmax keep a NaN that comes second.
  const clamped = f.keep(f32x4.pmax(f32x4.pmin(x, c(89)), c(-105)));
  // Adding 1.5·2²³ rounds to an integer, and leaves it in the low bits.
  const magic = 12582912;
  const shifted = f.keep(madd(target, clamped, c(Math.LOG2E), c(magic)));
  const n = f.keep(f32x4.sub(shifted, c(magic)));
  const r = f.keep(madd(target, n, c(-LN2_LOW), f.keep(madd(target, n, c(-LN2_HIGH), clamped))));
  const p = polynomial(
    target,
    r,
    [0.500000009568, 0.166665182975, 0.04166620425, 0.008368954305, 0.001395059421],
  );
  const er = f32x4.add(madd(target, f32x4.mul(r, r), p, r), c(1));
  // 2ⁿ in two factors: n may exceed the exponents of normal numbers.
  const integer = f.keep(i32x4.sub(shifted, bits(0x4b400000)));
  const half = f.keep(i32x4.shrS(integer, 1));
  const power = (k: V) => i32x4.shl(i32x4.add(k, bits(127)), 23);
  return f32x4.mul(f32x4.mul(er, power(half)), power(i32x4.sub(integer, half)));
}

/** ln x = e·ln 2 + 2·atanh(s), s = (m − 1)/(m + 1), x = m·2ᵉ with m from √½ to √2. */
export function log(f: Func, target: Target, x: V): V {
  const given = f.keep(x);
  const tiny = f.keep(f32x4.lt(given, c(2 ** -126)));
  const normal = v128.bitselect(f32x4.mul(given, c(2 ** 23)), given, tiny);
  // Counted from √½, so that the exponent's carry puts m in its range.
  const rebased = f.keep(i32x4.sub(normal, bits(0x3f3504f3)));
  const exponent = i32x4.sub(i32x4.shrS(rebased, 23), v128.and(tiny, bits(23)));
  const e = f.keep(f32x4.convertI32x4S(exponent));
  const m = i32x4.add(v128.and(rebased, bits(0x7fffff)), bits(0x3f3504f3));
  const a = f.keep(f32x4.sub(m, c(1)));
  const s = f.keep(f32x4.div(a, f32x4.add(a, c(2))));
  const z = f.keep(f32x4.mul(s, s));
  const r = f32x4.mul(
    z,
    polynomial(target, z, [0.666666656032, 0.400003455841, 0.285366022871, 0.235963427695]),
  );
  // 2·atanh(s) = a − (a²/2 − s·(a²/2 + r)), which keeps the rounding errors small beside a.
  const h = f.keep(f32x4.mul(f32x4.mul(a, a), c(0.5)));
  const tail = madd(target, s, f32x4.add(h, r), f32x4.mul(e, c(LN2_LOW)));
  const sum = f32x4.add(f32x4.sub(tail, h), a);
  const finite = madd(target, e, c(LN2_HIGH), sum);
  const keepNonFinite = v128.bitselect(finite, given, f32x4.lt(given, c(Infinity)));
  const negative = v128.bitselect(c(Number.NaN), keepNonFinite, f32x4.lt(given, c(0)));
  return v128.bitselect(c(-Infinity), negative, f32x4.eq(given, c(0)));
}

/** x + x³·p(x²) near 0, and 1 − 2/(e^2|x| + 1) with the sign of x elsewhere. */
export function tanh(f: Func, target: Target, x: V): V {
  const given = f.keep(x);
  const size = f.keep(f32x4.abs(given));
  const z = f.keep(f32x4.mul(given, given));
  const p = polynomial(
    target,
    z,
    [-0.333332839184, 0.133314911313, -0.053743486712, 0.020650553946, -0.00571701096],
  );
  const near = madd(target, f32x4.mul(given, z), p, given);
  const e = f.keep(exp(f, target, f32x4.add(size, size)));
  const far = f32x4.sub(c(1), f32x4.div(c(2), f32x4.add(e, c(1))));
  const signed = v128.or(far, v128.and(given, bits(0x80000000)));
  return v128.bitselect(near, signed, f32x4.lt(size, c(0.625)));
}

export function sin(f: Func, x: V): V {
  return circular(f, x, 0);
}

export function cos(f: Func, x: V): V {
  return circular(f, x, 1);
}

// π/2 in parts of at most 24 bits (and a rest), so that products with n < 2²⁹ are exact in float64.
const HALF_PI = [
  1.570796012878418, 3.1391647326017846e-7, 5.39030083589187e-15, 2.0222662487959506e-21,
];

/**
 * sin(x + quarters·π/2), in float64, two lanes at a time: x = n·π/2 + r. Exact to the last bit or two for
 * |x| < 2²⁹; beyond that, where neighbouring floats are 32 radians and more apart, r loses its digits.
 */
function circular(f: Func, x: V, quarters: number): V {
  const given = f.keep(x);
  const high = i8x16.shuffle(
    given,
    given,
    [8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15],
  );
  const low = f.keep(circularHalf(f, f64x2.promoteLowF32x4(given), quarters));
  const upper = f.keep(circularHalf(f, f64x2.promoteLowF32x4(high), quarters));
  return i8x16.shuffle(low, upper, [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23]);
}

function circularHalf(f: Func, x: V, quarters: number): V {
  const d = f64x2.const;
  const given = f.keep(x);
  const n = f.keep(f64x2.nearest(f64x2.mul(given, d(2 / Math.PI))));
  const r: Local<"v128"> = f.keep(given);
  for (const part of HALF_PI) f.set(r, f64x2.sub(r, f64x2.mul(n, d(part))));
  const z = f.keep(f64x2.mul(r, r));
  const poly = (coefficients: readonly number[]) =>
    coefficients
      .slice(0, -1)
      .reduceRight(
        (sum, a) => f64x2.add(f64x2.mul(sum, z), d(a)),
        d(coefficients.at(-1) as number),
      );
  const sine = poly([
    1, -1.666666664061e-1, 8.333329266559e-3, -1.983929608787e-4, 2.717939560591e-6,
  ]);
  const cosine = poly([
    1, -0.5, 4.166666662105e-2, -1.388888359794e-3, 2.479947855041e-5, -2.720678270175e-7,
  ]);
  // Quarter of the circle as two bits: the low one swaps sine and cosine, the high one the sign.
  const four = f64x2.mul(f64x2.floor(f64x2.mul(f64x2.add(n, d(quarters)), d(0.25))), d(4));
  const quarter = f.keep(f64x2.sub(f64x2.add(n, d(quarters)), four));
  const isCosine = v128.or(f64x2.eq(quarter, d(1)), f64x2.eq(quarter, d(3)));
  const picked = v128.bitselect(cosine, f64x2.mul(sine, r), isCosine);
  const sign = v128.and(f64x2.ge(quarter, d(2)), d(-0));
  return f32x4.demoteF64x2Zero(v128.xor(picked, sign));
}
