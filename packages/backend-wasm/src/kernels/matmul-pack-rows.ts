/** Packing of matrices whose rows are looked up: panels come out as from the rows, put in order. */
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, i32, type Local, select, type Value } from "../asm.ts";
import { copyStep, oneStep, type PanelJob, type PanelView, transposeSteps } from "./matmul-pack.ts";

/** The address of the index of a panel's first row, and how many rows the matrix has. */
export interface LookedUpRows {
  readonly indices: Local<"i32">;
  readonly extent: number;
}

/** The row that an index at an address stands for, times `stride`. */
function placeOf(f: Func, index: Value<"i32">, extent: number, stride: number): Value<"i32"> {
  const row = f.keep(i32.load(index));
  f.if(i32.geS(row, extent), () => f.set(row, extent - 1));
  f.if(i32.ltS(row, 0), () => f.set(row, 0));
  return i32.mul(row, stride);
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
    const index = i32.add(rows.indices, i32.shl(inside, 2));
    return f.keep(i32.add(from, placeOf(f, index, rows.extent, across * size)));
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
  const each = (step: () => void) => {
    f.while(left, () => {
      f.set(from, i32.add(job.from, placeOf(f, index, rows.extent, along * size)));
      step();
      f.inc(index, 4);
      f.inc(to, 4 * width);
      f.inc(left, -1);
    });
  };
  if (across === 1) f.if(i32.eq(valid, width), () => each(() => copyStep(f, panel)));
  each(() => oneStep(f, panel, valid));
}
