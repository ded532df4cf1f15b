/**
 * The inner loop of every matrix product: a tile of `rows` × 4·`vectors` sums held in registers.
 *
 * For each k it loads `vectors` vectors of B and multiplies them with `rows` numbers of A, each
 * spread over a vector. 6 × 8 keeps 12 sums, 2 vectors of B and 1 number of A in the 15 registers that
 * engines leave on x86, and its 8 loads hide behind 12 multiply-adds.
 */
import { type Func, f32x4, i32, i32x4, type Local, type Value, v128 } from "../asm.ts";
import type { Target } from "../kernel.ts";

type V = Value<"v128">;

/** Sum + a · b, for four lanes. */
export type MultiplyAdd = (a: V, b: V, sum: V) => V;

/** In f32: fused where the machine has it. */
export function multiplyAdd(target: Target): MultiplyAdd {
  return target.relaxedSimd
    ? (a, b, sum) => f32x4.relaxedMadd(a, b, sum)
    : (a, b, sum) => f32x4.add(f32x4.mul(a, b), sum);
}

/** Lanes are pairs of i16, sums are i32: two steps of k at once. */
export const multiplyAddPairs: MultiplyAdd = (a, b, sum) => i32x4.add(i32x4.dotI16x8S(a, b), sum);

/** Rows and columns of the tile that general products use. */
export const TILE_ROWS = 6;
export const TILE_COLUMNS = 8;
export const TILE_BYTES: number = TILE_ROWS * TILE_COLUMNS * 4;

/** Columns of it where pairs of vectors become one of 256 bits: as many registers as before. */
export const tileColumns = (target: Target): number =>
  target.wideVectors ? 2 * TILE_COLUMNS : TILE_COLUMNS;

/** Where a tile finds its numbers of A. The pointers are advanced. */
export interface TileA {
  /** One pointer for each row, or one for all. */
  readonly pointers: readonly Local<"i32">[];
  /** Bytes from a row to the next (with one pointer for all), and from k to k + 1. */
  readonly row: number;
  readonly k: number;
  /** A number spread over a vector; of f32 unless told. */
  readonly spread?: Spread;
}

export type Spread = (address: Value<"i32">, offset: number) => V;

/** Where it finds its vectors of B, which lie side by side. The pointer is advanced. */
export interface TileB {
  readonly pointer: Local<"i32">;
  readonly k: number;
}

export interface Tile {
  readonly rows: number;
  readonly vectors: number;
  /** Steps of k: a constant, or a variable that is left alone. */
  readonly count: number | Local<"i32">;
  readonly a: TileA;
  readonly b: TileB;
  /** Sums, row by row; set them first. */
  readonly sums: readonly Local<"v128">[];
  readonly multiplyAdd: MultiplyAdd;
}

/** Steps of k written out in the loop. */
const UNROLL = 4;

/** sums[i][j] += Σ_k a[i, k] · b[k, j] */
export function tile(f: Func, t: Tile): void {
  const end = f.local("i32");
  const steps = (count: number | Value<"i32">, unroll: number) => {
    f.set(end, i32.add(t.b.pointer, bytes(count, t.b.k)));
    f.while(i32.ne(t.b.pointer, end), () => step(f, t, unroll));
  };
  if (typeof t.count === "number") {
    const whole = t.count - (t.count % UNROLL);
    if (whole > 0) steps(whole, UNROLL);
    if (t.count > whole) step(f, t, t.count - whole);
  } else {
    steps(i32.and(t.count, -UNROLL), UNROLL);
    steps(i32.and(t.count, UNROLL - 1), 1);
  }
}

const bytes = (count: number | Value<"i32">, each: number) =>
  typeof count === "number" ? i32.const(count * each) : i32.mul(count, each);

/** `unroll` steps of k, and the pointers moved past them. */
function step(f: Func, t: Tile, unroll: number): void {
  const { rows, vectors, a, b, sums } = t;
  const spread = a.spread ?? v128.load32Splat;
  for (let u = 0; u < unroll; u++) {
    const columns = Array.from({ length: vectors }, (_, j) =>
      f.keep(v128.load(b.pointer, u * b.k + 16 * j)),
    );
    for (let i = 0; i < rows; i++) {
      const x = f.keep(
        a.pointers.length === 1
          ? spread(a.pointers[0] as Local<"i32">, u * a.k + i * a.row)
          : spread(a.pointers[i] as Local<"i32">, u * a.k),
      );
      columns.forEach((column, j) => {
        const sum = sums[i * vectors + j] as Local<"v128">;
        f.set(sum, t.multiplyAdd(x, column, sum));
      });
    }
  }
  for (const pointer of a.pointers) f.inc(pointer, unroll * a.k);
  f.inc(b.pointer, unroll * b.k);
}

/** Fresh sums for a tile: zero. */
export function zeroSums(f: Func, sums: readonly Local<"v128">[]): void {
  for (const sum of sums) f.set(sum, f32x4.const(0));
}
