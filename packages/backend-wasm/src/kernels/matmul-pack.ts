/**
 * Packing: copies a panel of a matrix (a few rows of A, or a few columns of B, over a range of k) into
 * the order in which tiles read it, [k][width] in f32. It makes all strides and dtypes alike,
 * multiplies block scales in, and spares tiles the cache misses of long strides.
 */

import type { DType, MatrixView } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import {
  type Func,
  f32x4,
  i8x16,
  i32,
  i32x4,
  type Local,
  select,
  type Value,
  v128,
} from "../asm.ts";
import { decode, loadCode, loadCodes } from "../convert.ts";

type V = Value<"v128">;

/** A matrix seen from its panels: `across` them (rows of A, columns of B) and `along` k. */
export interface PanelView {
  readonly dtype: DType;
  readonly across: number;
  readonly along: number;
  readonly scale?: {
    readonly acrossBlock: number;
    readonly alongBlock: number;
    readonly across: number;
    readonly along: number;
  };
}

/** The rows of a matrix as panels. */
export function rowPanels(view: MatrixView): PanelView {
  const { dtype, row, col, scale: s } = view;
  if (!s) return { dtype, across: row, along: col };
  const [acrossBlock, alongBlock] = s.block;
  return {
    dtype,
    across: row,
    along: col,
    scale: { acrossBlock, alongBlock, across: s.row, along: s.col },
  };
}

/** The columns of a matrix as panels. */
export function columnPanels(view: MatrixView): PanelView {
  const s = view.scale;
  return rowPanels({
    ...view,
    row: view.col,
    col: view.row,
    ...(s && { scale: { ...s, block: [s.block[1], s.block[0]], row: s.col, col: s.row } }),
  });
}

/** One panel to pack. */
export interface PanelJob {
  /**
   * Elements side by side in the panel, and how many of them, 1 or more, the matrix has. The rest of the
   * panel holds finite numbers or copies of the matrix's: whatever, since nobody stores its sums.
   */
  readonly width: number;
  readonly valid: Local<"i32">;
  /** Steps of k. */
  readonly count: number | Local<"i32">;
  /** Address of the first element; where the panel goes (both are left alone). */
  readonly from: Local<"i32">;
  readonly to: Local<"i32">;
  /** With scales: the address of the matrix's scales, and the place of the first element. */
  readonly scales?: {
    readonly base: Local<"i32">;
    readonly first: Local<"i32">;
    readonly k: Local<"i32">;
  };
}

export function packPanel(f: Func, view: PanelView, job: PanelJob): void {
  const from = f.local("i32", job.from);
  const to = f.local("i32", job.to);
  const left = f.local("i32", job.count);
  const { scale } = view;
  const { scales, width } = job;
  if (!scale || !scales) {
    packRun(f, view, job, from, to, left);
    return;
  }
  // Over runs of k with one scale for each element of the panel.
  const k = f.local("i32", scales.k);
  const run = f.local("i32");
  const block = f.local("i32");
  const lanes = Array.from({ length: width }, () => f.local("v128"));
  f.while(left, () => {
    f.set(block, i32.divU(k, scale.alongBlock));
    f.set(run, i32.sub(i32.mul(i32.add(block, 1), scale.alongBlock), k));
    f.if(i32.gtU(run, left), () => f.set(run, left));
    const base = f.keep(i32.add(scales.base, i32.mul(block, 4 * scale.along)));
    lanes.forEach((lane, i) => {
      // Beyond the matrix: any scale of it.
      const place = i32.add(scales.first, i32.const(i));
      const row = scale.acrossBlock === 1 ? place : i32.divU(place, scale.acrossBlock);
      const inside = i32.ltU(i32.const(i), job.valid);
      f.if(inside, () =>
        f.set(lane, v128.load32Splat(i32.add(base, i32.mul(row, 4 * scale.across)))),
      );
    });
    packRun(f, view, job, from, to, run, lanes);
    f.inc(k, run);
    f.set(left, i32.sub(left, run));
  });
}

/** Packs `count` > 0 steps (or none) and moves the pointers past them. */
function packRun(
  f: Func,
  view: PanelView,
  { width, valid }: PanelJob,
  from: Local<"i32">,
  to: Local<"i32">,
  count: Local<"i32">,
  lanes?: readonly Local<"v128">[],
): void {
  const { dtype, across, along } = view;
  const size = dtypeBytes(dtype);
  const panel: Run = { dtype, size, across, along, width, from, to, lanes };
  const steps = f.local("i32", count);
  const one = () => {
    oneStep(f, panel, valid);
    f.inc(from, along * size);
    f.inc(to, 4 * width);
  };
  const each = (unroll: number, body: () => void) => {
    f.while(i32.geU(steps, unroll), () => {
      body();
      f.inc(from, unroll * along * size);
      f.inc(to, 4 * width * unroll);
      f.inc(steps, -unroll);
    });
  };
  if (along === 1) {
    const last = f.keep(i32.sub(valid, 1));
    const lines = Array.from({ length: width }, (_, i) => {
      // Beyond the matrix: the last element once more.
      const inside = select(i32.const(i), last, i32.gtS(last, i));
      return f.keep(i32.add(from, i32.mul(inside, across * size)));
    });
    each(4, () => transposeSteps(f, panel, lines));
  } else if (across === 1) {
    f.if(i32.eq(valid, width), () => each(1, () => copyStep(f, panel)));
  }
  f.while(steps, () => {
    one();
    f.inc(steps, -1);
  });
}

/** A stretch of a panel, from its next elements on. */
export interface Run {
  readonly dtype: DType;
  readonly size: number;
  readonly across: number;
  readonly along: number;
  readonly width: number;
  readonly from: Local<"i32">;
  readonly to: Local<"i32">;
  readonly lanes: readonly Local<"v128">[] | undefined;
}

/** One step of k, element by element; zero where the matrix ends. Elements may have addresses of their own. */
export function oneStep(
  f: Func,
  p: Run,
  valid: Local<"i32">,
  addresses: readonly Local<"i32">[] = [],
): void {
  const x = f.local("v128");
  for (let i = 0; i < p.width; i++) {
    f.set(x, f32x4.const(0));
    f.if(i32.gtU(valid, i), () => {
      // Strides may be large: not a constant offset, which is limited.
      const address = addresses[i] ?? i32.add(p.from, i32.const(i * p.across * p.size));
      const value = decode(f, p.dtype, i32x4.splat(loadCode(p.dtype, address)));
      f.set(x, scaledBy(asF32(p.dtype, value), p.lanes?.[i]));
    });
    f.do(v128.store32Lane(p.to, x, 0, 4 * i));
  }
}

/** One step of k whose elements lie side by side. */
export function copyStep(f: Func, p: Run): void {
  // The last vector overlaps the one before where the width is no multiple of 4.
  for (let i = 0; i < p.width; i += 4) {
    const at = Math.min(i, p.width - 4);
    const lanes = p.lanes && combine(p.lanes.slice(at, at + 4));
    f.do(v128.store(p.to, scaledBy(load4(f, p.dtype, p.from, at * p.size), lanes), 4 * at));
  }
}

/** Four steps of k, which lie side by side: 4 × 4 transposes. Moves the pointers to them. */
export function transposeSteps(f: Func, p: Run, lines: readonly Local<"i32">[]): void {
  const row = (i: number) =>
    f.keep(scaledBy(load4(f, p.dtype, lines[i] as Local<"i32">, 0), p.lanes?.[i]));
  for (let i = 0; i < p.width; i += 4) {
    const rows = Array.from({ length: Math.min(4, p.width - i) }, (_, r) => row(i + r));
    if (rows.length === 4) {
      for (const [k, column] of transpose4(f, rows).entries()) {
        f.do(v128.store(p.to, column, 4 * (k * p.width + i)));
      }
    } else if (rows.length === 2) {
      const [a, b] = rows as readonly V[] as [V, V];
      const low = f.keep(pick(a, b, 0, 4, 1, 5));
      const high = f.keep(pick(a, b, 2, 6, 3, 7));
      for (const [k, pair] of [low, low, high, high].entries()) {
        f.do(v128.store64Lane(p.to, pair, k % 2, 4 * (k * p.width + i)));
      }
    } else {
      for (const [r, x] of rows.entries()) {
        for (let k = 0; k < 4; k++) f.do(v128.store32Lane(p.to, x, k, 4 * (k * p.width + i + r)));
      }
    }
  }
  for (const line of lines) f.inc(line, 4 * p.size);
}

/** Four elements side by side, as f32. */
export function load4(f: Func, dtype: DType, address: Value<"i32">, offset: number): V {
  return asF32(dtype, decode(f, dtype, loadCodes(dtype, address, offset)));
}

/** Values of any dtype as f32. */
export function asF32(dtype: DType, x: V): V {
  if (dtype === "i8" || dtype === "i32") return f32x4.convertI32x4S(x);
  if (dtype === "u8" || dtype === "u32") return f32x4.convertI32x4U(x);
  return dtype === "bool" ? v128.and(x, f32x4.const(1)) : x;
}

const scaledBy = (x: V, scale: V | undefined) => (scale ? f32x4.mul(x, scale) : x);

/** Words of a (0–3) and b (4–7). */
export function pick(a: V, b: V, ...words: readonly [number, number, number, number]): V {
  return i8x16.shuffle(
    a,
    b,
    words.flatMap((w) => [4 * w, 4 * w + 1, 4 * w + 2, 4 * w + 3]),
  );
}

/** The first lanes of four vectors. */
function combine(lanes: readonly V[]): V {
  const [a, b, c, d] = lanes as [V, V, V, V];
  return pick(pick(a, b, 0, 4, 0, 4), pick(c, d, 0, 4, 0, 4), 0, 1, 4, 5);
}

/** Rows become columns. */
export function transpose4(f: Func, rows: readonly V[]): V[] {
  const [a, b, c, d] = rows as [V, V, V, V];
  const ab = f.keep(pick(a, b, 0, 4, 1, 5));
  const cd = f.keep(pick(c, d, 0, 4, 1, 5));
  const ab2 = f.keep(pick(a, b, 2, 6, 3, 7));
  const cd2 = f.keep(pick(c, d, 2, 6, 3, 7));
  return [
    pick(ab, cd, 0, 1, 4, 5),
    pick(ab, cd, 2, 3, 6, 7),
    pick(ab2, cd2, 0, 1, 4, 5),
    pick(ab2, cd2, 2, 3, 6, 7),
  ];
}

/**
 * The same for i8 in products summed in i32: [k / 2][width] pairs of i16, the last one filled up with 0.
 */
export function packPairs(f: Func, view: PanelView, job: PanelJob): void {
  const from = f.local("i32", job.from);
  const to = f.local("i32", job.to);
  const left = f.local("i32", job.count);
  const pair = f.local("i32");
  f.while(i32.gtS(left, 0), () => {
    for (let i = 0; i < job.width; i++) {
      f.set(pair, 0);
      f.if(i32.gtU(job.valid, i), () => {
        const element = (k: number) =>
          i32.load8S(i32.add(from, i32.const(i * view.across + k * view.along)));
        f.set(pair, i32.and(element(0), 0xffff));
        f.if(i32.gtS(left, 1), () => f.set(pair, i32.or(pair, i32.shl(element(1), 16))));
      });
      f.do(i32.store(to, pair, 4 * i));
    }
    f.inc(from, 2 * view.along);
    f.inc(to, 4 * job.width);
    f.inc(left, -2);
  });
}
