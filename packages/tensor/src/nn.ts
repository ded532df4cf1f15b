/** The few neural operations that every layer shares. */
import { isFloat } from "./dtype.ts";
import { fp8GroupedLinear, fp8Linear, inFp8, isInFp8, joinsInTiles } from "./fp8.ts";
import { full } from "./ops/create.ts";
import { takeAlong } from "./ops/indexed.ts";
import { groupedMatmul, matmul } from "./ops/matrix.ts";
import {
  add,
  cast,
  cos,
  ge,
  lt,
  mul,
  rsqrt,
  silu,
  sin,
  square,
  sub,
  where,
} from "./ops/pointwise.ts";
import { logSumExp, mean } from "./ops/reduce.ts";
import { concat, expandDims, flip, reshape, split, stack } from "./ops/shape.ts";
import { uniform } from "./random.ts";
import { describe } from "./spec.ts";
import type { Tensor } from "./tensor.ts";

/**
 * x [..., K] · wᵀ with w [M, K] (stored as on disk: output by input), plus bias [M]. In FP8 if w is
 * marked by `inFp8`.
 */
export function linear(x: Tensor, w: Tensor, bias?: Tensor): Tensor {
  if (isInFp8(w)) {
    const [M, K] = w.shape as [number, number];
    const rows = fp8Linear(reshape(x, [-1, K]), w);
    const y = reshape(rows, [...x.shape.slice(0, -1), M]);
    return bias ? add(y, bias) : y;
  }
  const y = matmul(x.rank === 1 ? expandDims(x, 0) : x, w, { transposeB: true, dtype: x.dtype });
  const out = x.rank === 1 ? reshape(y, [w.shape[0] as number]) : y;
  return bias ? add(out, bias) : out;
}

/**
 * {@link linear} with a matrix of w [G, M, K] for each run of rows of x [N, K], which starts at
 * offsets i32 [G + 1]: [N, M] in x's dtype; rows in no run give 0.
 */
export function groupedLinear(x: Tensor, w: Tensor, offsets: Tensor): Tensor {
  if (isInFp8(w)) return fp8GroupedLinear(x, w, offsets);
  return groupedMatmul(x, w, offsets, { transposeB: true, dtype: x.dtype });
}

/**
 * {@link linear} with each of several matrices: as one product with all their rows, which reads x once
 * and gives its gradient in one sum, where they lie one below the other or the program writes them anyway.
 */
export function linears(x: Tensor, ws: readonly Tensor[]): Tensor[] {
  return together(ws, (w) => linear(x, w));
}

/** {@link groupedLinear} with each of several matrices, as {@link linears}. */
export function groupedLinears(x: Tensor, ws: readonly Tensor[], offsets: Tensor): Tensor[] {
  return together(ws, (w) => groupedLinear(x, w, offsets));
}

function together(ws: readonly Tensor[], product: (w: Tensor) => Tensor): Tensor[] {
  const joined = splitFrom(ws) ?? (writtenAnew(ws) ? concat(ws, -2) : undefined);
  if (joined === undefined) return ws.map(product);
  const y = product(ws.every(isInFp8) ? inFp8(joined) : joined);
  return split(
    y,
    ws.map((w) => w.shape.at(-2) as number),
    -1,
  );
}

/** The matrix that was split into just these rows, if there is one. */
function splitFrom(ws: readonly Tensor[]): Tensor | undefined {
  const node = ws[0]?.node;
  if (node?.op !== "split" || node.attrs.axis !== (ws[0] as Tensor).rank - 2) return undefined;
  const all = ws.length === node.outputs.length && ws.every((w, i) => w === node.outputs[i]);
  return all ? node.inputs[0] : undefined;
}

/**
 * Whether the program writes these matrices, and so may as well write them one below the other: weights
 * rounded to another dtype, or to FP8 in tiles that end where they do. Stored weights would have to be
 * copied.
 */
function writtenAnew(ws: readonly Tensor[]): boolean {
  return ws.every(isInFp8) ? joinsInTiles(ws) : ws.every((w) => w.node?.op === "cast");
}

/** x / √(mean(x²) + eps) · weight over the last axis, in f32, returned in the dtype of x. */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number): Tensor {
  const x32 = cast(x, "f32");
  const scale = rsqrt(add(mean(square(x32), -1, { keepDims: true }), eps));
  return cast(mul(mul(x32, scale), cast(weight, "f32")), x.dtype);
}

/** silu(gate) · up, the activation of gated feed-forward layers; computed in f32. */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  return cast(mul(silu(cast(gate, "f32")), cast(up, "f32")), gate.dtype);
}

/** Each value is left out with probability `rate`, in [0, 1); which ones, `key` (u32 [2]) says. */
export interface Dropout {
  readonly rate: number;
  readonly key: Tensor;
}

/** x with some values 0 and the others scaled by 1 / (1 − rate), so that the expectation stays; x itself at rate 0. */
export function dropout(x: Tensor, { rate, key }: Dropout): Tensor {
  if (rate === 0) return x;
  const kept = ge(uniform(key, x.shape), rate);
  return mul(x, cast(mul(cast(kept, "f32"), 1 / (1 - rate)), x.dtype));
}

/** cos and sin of position · frequency. */
export interface RotaryTables {
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/**
 * @param positions i32 [T] or [B, T]
 * @param frequencies f32 [d / 2], radians per position
 * @returns f32 [T, d / 2] or [B, T, d / 2]
 */
export function rotaryTables(positions: Tensor, frequencies: Tensor): RotaryTables {
  const angles = mul(expandDims(cast(positions, "f32"), -1), frequencies);
  return { cos: cos(angles), sin: sin(angles) };
}

/**
 * Rotates the interleaved pairs (x[2i], x[2i + 1]) of x [B, T, H, d] by the angle of its position,
 * in f32. Tables are [T, d / 2] or [B, T, d / 2].
 */
export function rotary(x: Tensor, tables: RotaryTables): Tensor {
  const [, t, , d] = x.shape as [number, number, number, number];
  if (
    x.rank !== 4 ||
    d % 2 !== 0 ||
    tables.cos.shape.at(-1) !== d / 2 ||
    tables.cos.shape.at(-2) !== t
  ) {
    throw new Error(`rotary: ${describe(x)} does not fit tables ${describe(tables.cos)}`);
  }
  const pairs = reshape(cast(x, "f32"), [...x.shape.slice(0, 3), d / 2, 2]); // [B, T, H, d/2, 2]
  const perHead = (table: Tensor) => expandDims(table, -2); // [(B,) T, 1, d/2]
  // (a, b) → (a cos − b sin, b cos + a sin) = (a, b) cos + (b, a) (−sin, sin)
  const sines = stack([mul(perHead(tables.sin), -1), perHead(tables.sin)], -1);
  const cosines = expandDims(perHead(tables.cos), -1);
  return cast(reshape(add(mul(pairs, cosines), mul(flip(pairs, [4]), sines)), x.shape), x.dtype);
}

/**
 * −log softmax(logits)[target] for each row, in f32 and without materialising f32 logits.
 * @param logits [N, V]
 * @param targets i32 [N]; a negative target is ignored: its loss is 0 and has no gradient
 * @returns f32 [N]
 */
export function crossEntropy(logits: Tensor, targets: Tensor): Tensor {
  if (
    logits.rank !== 2 ||
    !isFloat(logits.dtype) ||
    targets.rank !== 1 ||
    targets.shape[0] !== logits.shape[0]
  ) {
    throw new Error(
      `crossEntropy: logits ${describe(logits)} and targets ${describe(targets)} should be [N, V] and i32[N]`,
    );
  }
  const x = cast(logits, "f32");
  const target = reshape(takeAlong(x, expandDims(targets, 1)), [targets.shape[0] as number]);
  const loss = sub(logSumExp(x, -1), target);
  return where(lt(targets, 0), full(loss.shape, 0), loss);
}
