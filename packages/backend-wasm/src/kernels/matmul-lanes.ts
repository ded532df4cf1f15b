/**
 * Products in which rows of A are the lanes of vectors, and numbers of B are spread, one at a time. So
 * columns of B that are contiguous (weights stored [out, in]) are read as they lie, once for all the rows
 * of a panel, and only rows are packed: what a few dozen rows past much larger weights want.
 *
 * Results have the bits of all other tiles' (matmul-tile.ts): each is summed in order of k.
 */
import type { DType, MatmulKernel, MatrixView } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, i32, i32x4, type Local, type Value, v128 } from "../asm.ts";
import type { KernelCode, Phase, Target } from "../kernel.ts";
import { packPanel, rowPanels, transpose4 } from "./matmul-pack.ts";
import { sidedBySide, storeTile, type TileStore, vectorPlaces } from "./matmul-store.ts";
import { multiplyAdd, type Spread, tile, zeroSums } from "./matmul-tile.ts";
import { isShared, matrixAddress } from "./matmul-view.ts";

/** Columns of B in a tile of all lanes, and in a panel, where B is packed. */
export const COLUMNS = 6;
/** Columns that tasks are cut at: the ends of all kinds of tiles. */
export const CUT = 24;

/** Rows of a panel. The last panel of a run of rows is half as wide where that is enough. */
export const lanesOf = (target: Target): number => (target.wideVectors ? 16 : 8);
/** Columns of B in a tile of half the lanes: of 256 bits as many as hide each other's latency. */
const columnsOfHalf = (target: Target): number => (target.wideVectors ? 12 : 8);
/** Room to spill a tile. */
export const spillBytes = (target: Target): number => 4 * COLUMNS * lanesOf(target);
/** With fewer rows dot products are faster, with more of them all packed. */
const LEAST_ROWS = 5;
const MOST_ROWS = 128;
/** Enough tasks for all threads to end at about the same time. */
const WANTED_TASKS = 24;
const MOST_CUTS = 4;

export const laneBytes = (k: number, target: Target): number => 4 * lanesOf(target) * k;

/** How numbers of B are read and spread over a vector of f32, in one or two instructions. */
const SPREADS: Partial<Record<DType, Spread>> = {
  f32: v128.load32Splat,
  bf16: (address, offset) => i32x4.shl(v128.load16Splat(address, offset), 16),
};

/** Columns of B that are read as they lie. */
export interface LyingColumns {
  readonly spread: Spread;
  /** Bytes of a number, and from a column to the next. */
  readonly size: number;
  readonly apart: number;
}

/** The columns of B, where they can be read as they lie. */
export function lyingColumns(
  { dtype, row, col, scale }: MatrixView,
  n: number,
  target: Target,
): LyingColumns | undefined {
  const spread = SPREADS[dtype];
  const size = dtypeBytes(dtype);
  if (!spread || row !== 1 || scale || n < columnsOfHalf(target)) return undefined;
  return { spread, size, apart: size * col };
}

/** Emits code for the panel that starts with row `first` of those before `last`, by its lanes. */
export function panelOf(
  f: Func,
  target: Target,
  first: Value<"i32">,
  last: Value<"i32">,
  emit: (lanes: number) => void,
): void {
  const lanes = lanesOf(target);
  f.if(
    i32.leS(i32.sub(last, first), lanes / 2),
    () => emit(lanes / 2),
    () => emit(lanes),
  );
}

/** Products of the rows of a run with some columns. */
export interface LaneProduct {
  readonly k: number;
  /** Columns in all. */
  readonly n: number;
  /** Rows [first, last) in panels, one after another. */
  readonly first: Value<"i32">;
  readonly last: Value<"i32">;
  readonly panels: Local<"i32">;
  /** Columns [from, to): `from` and, unless it is n, `to` are multiples of {@link CUT}. */
  readonly from: Local<"i32">;
  readonly to: Local<"i32">;
  /** Address of column `from`, and how columns lie; not told: packed in panels of {@link COLUMNS}. */
  readonly columns: Local<"i32">;
  readonly lying?: LyingColumns | undefined;
  /** The matrices from their first elements on. */
  readonly out: TileStore["out"];
  readonly add?: TileStore["add"];
  readonly spill: Value<"i32">;
}

export function multiplyLanes(f: Func, target: Target, p: LaneProduct): void {
  const { k, n, from, to, columns, lying, out, add } = p;
  const all = Array.from({ length: (COLUMNS * lanesOf(target)) / 4 }, () => f.local("v128"));
  const row = f.local("i32", p.first);
  const panel = f.local("i32", p.panels);
  const column = f.local("i32");
  const start = f.local("i32");
  const x = f.local("i32");
  const y = f.local("i32");
  const multiplied = (lanes: number) => {
    const vectors = lanes / 4;
    const width = lying && lanes < lanesOf(target) ? columnsOfHalf(target) : COLUMNS;
    const sums = all.slice(0, width * vectors);
    f.for(column, from, to, width, () => {
      f.set(start, column);
      // The last tile begins early, to be within the matrix; it stores its own columns only.
      const early = lying !== undefined && n % width > 0;
      if (early) f.if(i32.gtS(start, n - width), () => f.set(start, n - width));
      f.set(y, i32.add(columns, i32.mul(i32.sub(start, from), lying?.apart ?? 4 * k)));
      f.set(x, panel);
      zeroSums(f, sums);
      tile(f, {
        rows: width,
        vectors,
        count: k,
        a: lying
          ? { pointers: [y], row: lying.apart, k: lying.size, spread: lying.spread }
          : { pointers: [y], row: 4, k: 4 * COLUMNS },
        b: { pointer: x, k: 4 * lanes },
        sums,
        multiplyAdd: multiplyAdd(target),
      });
      sidedBySide(f, target, sums, p.spill);
      const place = ({ dtype, address, row: stride, col }: NonNullable<TileStore["add"]>) =>
        f.keep(
          i32.add(
            address,
            i32.mul(i32.add(i32.mul(row, stride), i32.mul(start, col)), dtypeBytes(dtype)),
          ),
        );
      storeTile(f, {
        rows: lanes,
        columns: width,
        sums: rowsOf(f, sums, width, vectors),
        sumType: "f32",
        out: { ...out, address: place({ ...out, col: 1 }) },
        ...(add && { add: { ...add, address: place(add) } }),
        rowsLeft: f.keep(i32.sub(p.last, row)),
        ...(early && { skip: f.keep(i32.sub(column, start)) }),
        ...(!lying && n % width && { columnsLeft: f.keep(i32.sub(n, column)) }),
        spill: p.spill,
      });
    });
  };
  f.while(i32.ltS(row, p.last), () => {
    panelOf(f, target, row, p.last, multiplied);
    f.inc(row, lanesOf(target));
    f.inc(panel, laneBytes(k, target));
  });
}

/** Sums of columns by rows: a row's last vector ends with the tile. */
function rowsOf(
  f: Func,
  sums: readonly Local<"v128">[],
  width: number,
  vectors: number,
): Local<"v128">[] {
  return Array.from({ length: vectors }, (_, v) => {
    const blocks = vectorPlaces(width).map((at) => {
      const four = [0, 1, 2, 3].map((c) => sums[(at + c) * vectors + v] as Local<"v128">);
      return transpose4(f, four).map((x) => f.keep(x));
    });
    return [0, 1, 2, 3].flatMap((i) => blocks.map((block) => block[i] as Local<"v128">));
  }).flat();
}

/** Whether {@link laneRows} takes a kernel. */
export function asLaneRows({ m, n, a, b, out }: MatmulKernel, target: Target): boolean {
  return (
    m >= LEAST_ROWS &&
    m <= MOST_ROWS &&
    !a.scale &&
    lyingColumns(b, n, target) !== undefined &&
    out.col === 1
  );
}

/** A few dozen rows past a matrix that is read as it lies. */
export function laneRows(kernel: MatmulKernel, target: Target): KernelCode {
  const { m, n, k, a, b, out, add, batch } = kernel;
  const lying = lyingColumns(b, n, target) as LyingColumns;
  const matrices = batch.reduce((x, y) => x * y, 1);
  const packedMatrices = isShared(a, batch) ? Math.min(1, matrices) : matrices;
  const lanes = lanesOf(target);
  const panels = Math.ceil(m / lanes);
  const cuts = Math.ceil(n / CUT);
  const perTask = Math.max(1, Math.min(MOST_CUTS, Math.floor((cuts * matrices) / WANTED_TASKS)));
  const taskCuts = Math.ceil(cuts / perTask);
  const pack: Phase = {
    tasks: packedMatrices * panels,
    nanoseconds: 0.4 * packedMatrices * m * k,
    emit(f, args) {
      const task = f.local("i32");
      f.for(task, args.begin, args.end, 1, () => {
        const from = matrixAddress(f, args, a, batch, f.keep(i32.divU(task, panels)));
        const first = f.keep(i32.mul(i32.remU(task, panels), lanes));
        f.inc(from, i32.mul(first, a.row * dtypeBytes(a.dtype)));
        const to = f.keep(i32.add(args.sharedScratch(), i32.mul(task, laneBytes(k, target))));
        panelOf(f, target, first, i32.const(m), (width) => {
          const valid = f.keep(i32.sub(m, first));
          f.if(i32.gtS(valid, width), () => f.set(valid, width));
          packPanel(f, rowPanels(a), { width, valid, count: k, from, to });
        });
      });
    },
  };
  const multiply: Phase = {
    tasks: matrices * taskCuts,
    nanoseconds:
      matrices * n * k * Math.max(0.3, (panels * lanes) / (target.relaxedSimd ? 30 : 15)),
    emit(f, args) {
      const task = f.local("i32");
      f.for(task, args.begin, args.end, 1, () => {
        const matrix = f.keep(i32.divU(task, taskCuts));
        const from = f.keep(i32.mul(i32.remU(task, taskCuts), CUT * perTask));
        const to = f.keep(i32.add(from, CUT * perTask));
        f.if(i32.gtS(to, n), () => f.set(to, n));
        const columns = matrixAddress(f, args, b, batch, matrix);
        f.inc(columns, i32.mul(from, lying.apart));
        const packed = f.keep(args.sharedScratch());
        if (packedMatrices > 1) f.inc(packed, i32.mul(matrix, panels * laneBytes(k, target)));
        multiplyLanes(f, target, {
          k,
          n,
          first: i32.const(0),
          last: i32.const(m),
          panels: packed,
          from,
          to,
          columns,
          lying,
          out: { ...out, address: matrixAddress(f, args, out, batch, matrix) },
          ...(add && { add: { ...add, address: matrixAddress(f, args, add, batch, matrix) } }),
          spill: args.threadScratch,
        });
      });
    },
  };
  if (matrices === 0) return { phases: [] };
  return {
    phases: [pack, multiply],
    threadScratch: spillBytes(target),
    sharedScratch: packedMatrices * panels * laneBytes(k, target),
  };
}
