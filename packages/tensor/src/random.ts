/**
 * Counter-based random numbers (Threefry-2x32, 20 rounds; Salmon et al., "Parallel random numbers:
 * as easy as 1, 2, 3", SC 2011). The same key gives the same bits on every backend.
 */

import { iota } from "./ops/create.ts";
import {
  add,
  bitcast,
  cast,
  cos,
  log,
  mul,
  or,
  shl,
  shr,
  sqrt,
  sub,
  xor,
} from "./ops/pointwise.ts";
import { concat, reshape, sliceAxis, stack } from "./ops/shape.ts";
import { sizeOf } from "./spec.ts";
import { type Tensor, tensor } from "./tensor.ts";

const ROTATIONS = [
  [13, 15, 26, 6],
  [17, 29, 16, 24],
] as const;
const PARITY = 0x1bd11bda;

/** A random key, u32 [2], from a seed: an integer below 2⁵³. */
export function key(seed: number): Tensor {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new Error(`a seed is an integer from 0 to 2^53 − 1, got ${seed}`);
  }
  return tensor([Math.floor(seed / 2 ** 32), seed >>> 0], { dtype: "u32" });
}

/** Encrypts the counters (x0, x1), u32 of one shape, with a key u32 [2]. */
function threefry(k: Tensor, x0: Tensor, x1: Tensor): [Tensor, Tensor] {
  const k0 = reshape(sliceAxis(k, 0, 0, 1), []);
  const k1 = reshape(sliceAxis(k, 0, 1, 2), []);
  const schedule = [k0, k1, xor(xor(k0, k1), PARITY)] as const;
  let a = add(x0, k0);
  let b = add(x1, k1);
  for (let round = 0; round < 5; round++) {
    for (const r of ROTATIONS[(round % 2) as 0 | 1]) {
      a = add(a, b);
      b = xor(or(shl(b, r), shr(b, 32 - r)), a);
    }
    a = add(a, schedule[((round + 1) % 3) as 0 | 1 | 2]);
    b = add(add(b, schedule[((round + 2) % 3) as 0 | 1 | 2]), round + 1);
  }
  return [a, b];
}

/** n independent keys, u32 [n, 2]; take one with `reshape(sliceAxis(keys, 0, i, i + 1), [2])`. */
export function splitKey(k: Tensor, n: number): Tensor {
  const counter = iota(n, { dtype: "u32" });
  const [a, b] = threefry(k, counter, mul(counter, 0));
  return stack([a, b], 1);
}

/** A key that depends on `data`, a number or an i32 scalar tensor: a step, a layer. */
export function foldIn(k: Tensor, data: number | Tensor): Tensor {
  const value = typeof data === "number" ? iotaAt(data) : reshape(bitcastTo(data), [1]);
  const [a, b] = threefry(k, value, add(mul(value, 0), 1));
  return concat([a, b], 0);
}

const iotaAt = (n: number): Tensor => add(iota(1, { dtype: "u32" }), n >>> 0);
const bitcastTo = (t: Tensor): Tensor => (t.dtype === "i32" ? bitcast(t, "u32") : t);

/** Uniform bits, u32. */
export function randomBits(k: Tensor, shape: readonly number[]): Tensor {
  const n = sizeOf(shape);
  const half = Math.ceil(n / 2);
  const counter = iota(half, { dtype: "u32" });
  // Both words of a block are used: block i gives elements i and half + i.
  const [a, b] = threefry(k, counter, add(mul(counter, 0), 2));
  return reshape(sliceAxis(concat([a, b], 0), 0, 0, n), shape);
}

/** Uniform in [0, 1), f32, in steps of 2⁻²⁴. */
export function uniform(k: Tensor, shape: readonly number[]): Tensor {
  return mul(cast(shr(randomBits(k, shape), 8), "f32"), 2 ** -24);
}

/** Standard normal, f32 (Box and Muller's method). */
export function normal(k: Tensor, shape: readonly number[]): Tensor {
  const both = uniform(k, [2, ...shape]);
  const radius = sqrt(mul(log(sub(1, sliceAxis(both, 0, 0, 1))), -2));
  const angle = mul(sliceAxis(both, 0, 1, 2), 2 * Math.PI);
  return reshape(mul(radius, cos(angle)), shape);
}
