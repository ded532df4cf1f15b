/** Packing of matrices whose rows are looked up: panels come out as from the rows, put in order. */
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, i32, i32x4, type Local, select, type Value, v128 } from "../asm.ts";
import { copyStep, oneStep, type PanelJob, type PanelView, transposeSteps } from "./matmul-pack.ts";

/** The address of the index of a panel's first row, and how many rows the matrix has. */
export interface LookedUpRows {
  readonly indices: Local<"i32">;
  readonly extent: number;
}

/** Where rows of four indices start: index by index kept inside the matrix, times `stride`. */
function placesOf(f: Func, index: Value<"v128">, extent: number, stride: number): Local<"v128"> {
  const below = i32x4.minS(index, i32x4.splat(extent - 1));
  return f.keep(i32x4.mul(i32x4.maxS(below, i32x4.splat(0)), i32x4.splat(stride)));
}

/** Packs rows side by side (of A, say); `job.from` is the address of row 0 at the first step of k. */
export function packRowsAcross(f: Func, view: PanelView, job: PanelJob, rows: LookedUpRows): void {
  const { dtype, across, along } = view;
  const { width, valid, from } = job;
  const size = dtypeBytes(dtype);
  const to = f.local("i32", job.to);
  const left = f.local("i32", job.count);
  const last = f.keep(i32.sub(valid, 1));
  const lines = Array.from({ length: width }, (_, i) => {
    // Beyond the matrix: the last row once more.
    const inside = select(i32.const(i), last, i32.gtS(last, i));
    const index = v128.load32Splat(i32.add(rows.indices, i32.shl(inside, 2)));
    const place = placesOf(f, index, rows.extent, across * size);
    return f.keep(i32.add(from, i32x4.extractLane(place, 0)));
  });
  const panel = { dtype, size, across, along, width, from, to, lanes: undefined };
  if (along === 1) {
    f.while(i32.geU(left, 4), () => {
      transposeSteps(f, panel, lines);
      f.inc(to, 16 * width);
      f.inc(left, -4);
    });
  }
  f.while(left, () => {
    oneStep(f, panel, valid, lines);
    for (const line of lines) f.inc(line, along * size);
    f.inc(to, 4 * width);
    f.inc(left, -1);
  });
}

/** Packs columns, with rows as the steps of k; `job.from` is the address of the first column in row 0. */
export function packRowsAlong(f: Func, view: PanelView, job: PanelJob, rows: LookedUpRows): void {
  const { dtype, across, along } = view;
  const { width, valid } = job;
  const size = dtypeBytes(dtype);
  const from = f.local("i32");
  const to = f.local("i32", job.to);
  const left = f.local("i32", job.count);
  const index = f.local("i32", rows.indices);
  const panel = { dtype, size, across, along, width, from, to, lanes: undefined };
  /** The indices of so many steps are read at once. */
  const each = (unroll: number, read: () => Value<"v128">, step: () => void) => {
    f.while(i32.geU(left, unroll), () => {
      const places = placesOf(f, read(), rows.extent, along * size);
      for (let i = 0; i < unroll; i++) {
        f.set(from, i32.add(job.from, i32x4.extractLane(places, i)));
        step();
        f.inc(to, 4 * width);
      }
      f.inc(index, 4 * unroll);
      f.inc(left, -unroll);
    });
  };
  const copy = () => copyStep(f, panel);
  if (across === 1) f.if(i32.eq(valid, width), () => each(4, () => v128.load(index), copy));
  each(
    1,
    () => v128.load32Splat(index),
    () => oneStep(f, panel, valid),
  );
}
