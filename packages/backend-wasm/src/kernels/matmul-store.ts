/** The end of a tile: sums, plus what is to be added, converted and written where the matrix has room. */
import type { DType } from "@dsv3/tensor";
import { dtypeBytes, isFloat } from "@dsv3/tensor/dtype";
import { type Func, f32x4, i32, i32x4, type Local, type Value, v128 } from "../asm.ts";
import { decode, encode, loadCode, loadCodes, storeCode, storeCodes } from "../convert.ts";
import type { Target } from "../kernel.ts";

type V = Value<"v128">;

interface MatrixPlace {
  readonly dtype: DType;
  readonly row: number;
  readonly col: number;
  readonly address: Local<"i32">;
}

export interface TileStore {
  readonly rows: number;
  readonly columns: number;
  /** Row by row; f32, or i32 for integer products. A row's last vector ends with the tile. */
  readonly sums: readonly Local<"v128">[];
  readonly sumType: "f32" | "i32";
  readonly out: { readonly dtype: DType; readonly row: number; readonly address: Local<"i32"> };
  readonly add?: MatrixPlace;
  /** Rows and columns from here to the end of the matrix; none: the tile always fits. */
  readonly rowsLeft?: Local<"i32">;
  readonly columnsLeft?: Local<"i32">;
  /** Columns of the tile that come before those to store. */
  readonly skip?: Local<"i32">;
  /** Room for the tile in f32. */
  readonly spill: Value<"i32">;
}

export function storeTile(f: Func, t: TileStore): void {
  const { columnsLeft, skip } = t;
  // Vectors of what is added must lie side by side, or be one number.
  const vectors = !t.add || t.add.col === 1 || t.add.col === 0;
  if (!vectors) {
    storeSpilled(f, t);
  } else if (!columnsLeft && !skip) {
    storeRows(f, t);
  } else {
    const allLeft = columnsLeft ? i32.geS(columnsLeft, t.columns) : i32.const(1);
    f.if(
      skip ? i32.and(allLeft, i32.eqz(skip)) : allLeft,
      () => storeRows(f, t),
      () => storeSpilled(f, t),
    );
  }
}

/** First columns of the vectors of a row: the last one may overlap the one before. */
export const vectorPlaces = (columns: number): number[] =>
  Array.from({ length: Math.ceil(columns / 4) }, (_, j) => Math.min(4 * j, columns - 4));

/**
 * Sums that go through memory, side by side, where an engine is to make wide vectors of pairs of them: it
 * starts from neighbouring stores, and finds none among those to the rows of a matrix.
 */
export function sidedBySide(
  f: Func,
  target: Target,
  sums: readonly Local<"v128">[],
  room: Value<"i32">,
): void {
  if (!target.wideVectors) return;
  for (const [i, sum] of sums.entries()) f.do(v128.store(room, sum, 16 * i));
  for (const [i, sum] of sums.entries()) f.set(sum, v128.load(room, 16 * i));
}

/** The rows that the matrix has, by vectors. */
function storeRows(f: Func, t: TileStore): void {
  const { out, add, rowsLeft } = t;
  const size = dtypeBytes(out.dtype);
  const vectors = vectorPlaces(t.columns);
  const addedAt = (
    { dtype, address, row: stride, col }: MatrixPlace,
    row: number,
    column: number,
  ) => {
    const at = i32.add(address, i32.const((row * stride + column * col) * dtypeBytes(dtype)));
    return decode(f, dtype, col === 1 ? loadCodes(dtype, at) : i32x4.splat(loadCode(dtype, at)));
  };
  const storeRow = (row: number) => {
    const to = i32.add(out.address, i32.const(row * out.row * size));
    // A row is read before it is written: the result may lie where what is added lies.
    const results = vectors.map((column, j) => {
      const sum = t.sums[row * vectors.length + j] as V;
      return f.keep(finish(f, t, sum, add && addedAt(add, row, column)));
    });
    for (const [j, column] of vectors.entries()) {
      f.do(storeCodes(out.dtype, to, results[j] as V, column * size));
    }
  };
  for (let row = 0; row < t.rows; row++) {
    if (rowsLeft && row > 0) f.if(i32.gtS(rowsLeft, row), () => storeRow(row));
    else storeRow(row);
  }
}

/** What fits of the tile, number by number. */
function storeSpilled(f: Func, t: TileStore): void {
  const { out, add, spill, columns: width } = t;
  const vectors = vectorPlaces(t.columns);
  for (const [i, sum] of t.sums.entries()) {
    const row = Math.floor(i / vectors.length);
    f.do(v128.store(spill, sum, 4 * (row * width + (vectors[i % vectors.length] as number))));
  }
  const limit = (left: Local<"i32"> | undefined, most: number) => {
    const n = f.local("i32", most);
    if (left) f.if(i32.ltS(left, most), () => f.set(n, left));
    return n;
  };
  const rows = limit(t.rowsLeft, t.rows);
  const columns = limit(t.columnsLeft, width);
  const i = f.local("i32");
  const j = f.local("i32");
  f.for(i, 0, rows, 1, () =>
    f.for(j, t.skip ?? 0, columns, 1, () => {
      const at = (dtype: DType, base: Value<"i32">, row: number, col: number) =>
        i32.add(base, i32.mul(i32.add(i32.mul(i, row), i32.mul(j, col)), dtypeBytes(dtype)));
      const sum = v128.load32Zero(at("f32", spill, width, 1));
      const added =
        add &&
        decode(
          f,
          add.dtype,
          i32x4.splat(loadCode(add.dtype, at(add.dtype, add.address, add.row, add.col))),
        );
      const codes = finish(f, t, sum, added);
      f.do(storeCode(out.dtype, at(out.dtype, out.address, out.row, 1), codes, 0));
    }),
  );
}

/** Adds and converts. */
function finish(f: Func, { out, add, sumType }: TileStore, sum: V, added: V | undefined): V {
  const integers = sumType === "i32" && !isFloat(out.dtype);
  let x = sumType === "i32" && !integers ? f32x4.convertI32x4S(sum) : sum;
  if (added && add) {
    if (integers) x = i32x4.add(x, added);
    else x = f32x4.add(x, isFloat(add.dtype) ? added : f32x4.convertI32x4S(added));
  }
  return encode(f, out.dtype, x);
}
