/** Powers and logarithms of two for the softmax. */
import { type Func, f32x4, i32x4, type Value, v128 } from "../asm.ts";
import type { Target } from "../kernel.ts";
import { multiplyAdd } from "./matmul-tile.ts";

type V = Value<"v128">;

/** 2^x for x ≤ 0, to an ulp or two; exactly 0 below 2^−126, NaN for NaN. */
export function exp2(f: Func, target: Target, x: V): V {
  const fma = multiplyAdd(target);
  const kept = f.keep(x);
  const whole = f.keep(f32x4.nearest(kept));
  const rest = f.keep(f32x4.sub(kept, whole));
  // Taylor series of 2^rest, |rest| ≤ 1/2: the first term left out is 7·10⁻⁹.
  let term = 1;
  const coefficients = Array.from({ length: 8 }, (_, n) => {
    if (n > 0) term *= Math.LN2 / n;
    return term;
  });
  let series: V = f32x4.const(coefficients[7] as number);
  for (let n = 6; n >= 0; n--) series = fma(series, rest, f32x4.const(coefficients[n] as number));
  const exponent = i32x4.shl(i32x4.truncSatF32x4S(whole), 23);
  return v128.andnot(i32x4.add(series, exponent), f32x4.lt(kept, f32x4.const(-126)));
}

/** ln x for normal x > 0. */
export function ln(f: Func, x: V): V {
  // x = 2^e · m with m within √2 of 1; ln m = 2 artanh s, s = (m − 1) / (m + 1).
  const bits = f.keep(x);
  const sqrtHalf = i32x4.const(0x3f3504f3);
  const e = f.keep(i32x4.shrS(i32x4.sub(bits, sqrtHalf), 23));
  const m = f.keep(i32x4.sub(bits, i32x4.shl(e, 23)));
  const one = f32x4.const(1);
  const s = f.keep(f32x4.div(f32x4.sub(m, one), f32x4.add(m, one)));
  const square = f.keep(f32x4.mul(s, s));
  let series: V = f32x4.const(2 / 9);
  for (const n of [7, 5, 3, 1]) series = f32x4.add(f32x4.mul(series, square), f32x4.const(2 / n));
  const log = f32x4.add(
    f32x4.mul(f32x4.convertI32x4S(e), f32x4.const(Math.LN2)),
    f32x4.mul(series, s),
  );
  // Infinity and NaN stay what they are.
  return v128.bitselect(log, bits, f32x4.lt(bits, f32x4.const(Number.POSITIVE_INFINITY)));
}
