/** The end of a tile: sums, plus what is to be added, converted and written where the matrix has room. */
import type { DType } from "@dsv3/tensor";
import { dtypeBytes, isFloat } from "@dsv3/tensor/dtype";
import { type Func, f32x4, i32, i32x4, type Local, type Value, v128 } from "../asm.ts";
import { decode, encode, loadCode, loadCodes, storeCode, storeCodes } from "../convert.ts";

type V = Value<"v128">;

export interface TileStore {
  readonly rows: number;
  readonly vectors: number;
  /** Row by row; f32, or i32 for integer products. */
  readonly sums: readonly Local<"v128">[];
  readonly sumType: "f32" | "i32";
  readonly out: { readonly dtype: DType; readonly row: number; readonly address: Local<"i32"> };
  readonly add?: {
    readonly dtype: DType;
    readonly row: number;
    readonly col: number;
    readonly address: Local<"i32">;
  };
  /** Rows and columns from here to the end of the matrix; none: the tile always fits. */
  readonly rowsLeft?: Local<"i32">;
  readonly columnsLeft?: Local<"i32">;
  /** Room for the tile in f32. */
  readonly spill: Value<"i32">;
}

export function storeTile(f: Func, t: TileStore): void {
  const { rowsLeft, columnsLeft } = t;
  // Vectors of what is added must lie side by side, or be one number.
  const vectors = !t.add || t.add.col === 1 || t.add.col === 0;
  if (!vectors) {
    storeSpilled(f, t);
  } else if (!rowsLeft && !columnsLeft) {
    storeWhole(f, t);
  } else {
    const rowsFit = rowsLeft ? i32.geS(rowsLeft, t.rows) : i32.const(1);
    const columnsFit = columnsLeft ? i32.geS(columnsLeft, 4 * t.vectors) : i32.const(1);
    f.if(
      i32.and(rowsFit, columnsFit),
      () => storeWhole(f, t),
      () => storeSpilled(f, t),
    );
  }
}

/** All of the tile, by vectors. */
function storeWhole(f: Func, t: TileStore): void {
  const { out, add } = t;
  const size = dtypeBytes(out.dtype);
  for (let i = 0; i < t.rows; i++) {
    const to = i32.add(out.address, i32.const(i * out.row * size));
    for (let j = 0; j < t.vectors; j++) {
      let added: V | undefined;
      if (add) {
        const addSize = dtypeBytes(add.dtype);
        const address = i32.add(add.address, i32.const((i * add.row + 4 * j * add.col) * addSize));
        added =
          add.col === 1
            ? decode(f, add.dtype, loadCodes(add.dtype, address))
            : decode(f, add.dtype, i32x4.splat(loadCode(add.dtype, address)));
      }
      const sum = t.sums[i * t.vectors + j] as V;
      f.do(storeCodes(out.dtype, to, finish(f, t, sum, added), 4 * j * size));
    }
  }
}

/** What fits of the tile, number by number. */
function storeSpilled(f: Func, t: TileStore): void {
  const { out, add, spill } = t;
  const width = 4 * t.vectors;
  for (const [i, sum] of t.sums.entries()) f.do(v128.store(spill, sum, 16 * i));
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
    f.for(j, 0, columns, 1, () => {
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
