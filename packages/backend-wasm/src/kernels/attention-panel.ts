/**
 * A panel: 8 queries in the lanes of vectors, with what they see; and its state, which is the maximum
 * of their scores so far, the sum of their weights and their outputs [vWidth][8], both relative to the
 * maximum.
 */
import type { AttentionKernel } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, f32x4, i32, type Local, memoryFill, type Value, v128 } from "../asm.ts";
import { encode, storeCode, storeCodes } from "../convert.ts";
import type { PhaseArguments, Target } from "../kernel.ts";
import { exp2, ln } from "./attention-math.ts";
import { OUTPUTS_AT, type Plan, rowStride, SUM_AT } from "./attention-plan.ts";
import { headAddress, LANES, packMatrix, writeSight } from "./attention-view.ts";
import { transpose4 } from "./matmul-pack.ts";
import { multiplyAdd } from "./matmul-tile.ts";

/** Maximum of no scores: finite, so that differences stay numbers. */
const LOWEST = -3e38;

/** Rows of a sequence that go through its keys together. */
export interface Rows {
  readonly batch: Local<"i32">;
  readonly length: Local<"i32">;
  readonly keyHead: Local<"i32">;
  /** Head and query of the first row of all. */
  readonly head: Local<"i32">;
  readonly time: Local<"i32">;
}

/** Rows `row` … `row + valid − 1` of them, 8 at most. */
export interface Panel {
  readonly row: Local<"i32">;
  readonly valid: Local<"i32">;
}

const quotient = (row: Value<"i32">, group: number) => (group === 1 ? row : i32.divU(row, group));
const remainder = (row: Value<"i32">, group: number) =>
  group === 1 ? i32.const(0) : i32.remU(row, group);

const placeOf = (plan: Plan, { batch, head, time }: Rows, row: Local<"i32">) => ({
  batch,
  head: i32.add(head, remainder(row, plan.group)),
  time: i32.add(time, quotient(row, plan.group)),
});

/** Writes a panel's queries as [qkWidth][8]. */
export function packQueries(
  f: Func,
  args: PhaseArguments,
  kernel: AttentionKernel,
  plan: Plan,
  rows: Rows,
  { row, valid }: Panel,
  to: Local<"i32">,
): void {
  packMatrix(f, kernel.q, {
    by: "rows",
    width: LANES,
    from: f.keep(headAddress(args, kernel.q, placeOf(plan, rows, row))),
    to,
    stride: rowStride(plan, kernel.q),
    rows: valid,
    cols: kernel.qkWidth,
    panelBytes: plan.sightAt,
  });
}

/** Writes what a panel's queries see. */
export function seePanel(
  f: Func,
  args: PhaseArguments,
  kernel: AttentionKernel,
  { group }: Plan,
  { batch, length, time }: Rows,
  { row, valid }: Panel,
  sight: Local<"i32">,
): void {
  const first = f.keep(i32.add(i32.mul(time, group), row));
  const seen = { batch, length, first, valid, group, beyond: "last" } as const;
  writeSight(f, args, kernel, seen, sight);
}

/** A state that has seen nothing. */
export function startState(f: Func, { stateBytes }: Plan, state: Local<"i32">): void {
  f.do(v128.store(state, f32x4.const(LOWEST)), v128.store(state, f32x4.const(LOWEST), 16));
  f.do(memoryFill(i32.add(state, SUM_AT), 0, i32.const(stateBytes - SUM_AT)));
}

/** Takes the state of further keys into `total`. */
export function mergeState(
  f: Func,
  target: Target,
  { vWidth }: AttentionKernel,
  total: Local<"i32">,
  part: Local<"i32">,
): void {
  const fma = multiplyAdd(target);
  const factors = [0, 16].map((lane) => {
    const [old, other] = [f.keep(v128.load(total, lane)), f.keep(v128.load(part, lane))];
    const top = f.keep(f32x4.pmax(old, other));
    f.do(v128.store(total, top, lane));
    return {
      lane,
      old: f.keep(exp2(f, target, f32x4.sub(old, top))),
      other: f.keep(exp2(f, target, f32x4.sub(other, top))),
    };
  });
  const [x, y] = [f.local("i32", total), f.local("i32", part)];
  const take = (offset: number) => {
    for (const { lane, old, other } of factors) {
      const at = offset + lane;
      const before = f32x4.mul(v128.load(x, at), old);
      f.do(v128.store(x, fma(v128.load(y, at), other, before), at));
    }
  };
  take(SUM_AT);
  const n = f.local("i32");
  f.for(n, 0, i32.const(vWidth), 1, () => {
    take(OUTPUTS_AT);
    f.inc(x, 4 * LANES);
    f.inc(y, 4 * LANES);
  });
}

/** Writes a panel's outputs and log-sum-exps; its state is used up. */
export function finishPanel(
  f: Func,
  args: PhaseArguments,
  kernel: AttentionKernel,
  plan: Plan,
  rows: Rows,
  { row, valid }: Panel,
  state: Local<"i32">,
): void {
  const { out, vWidth, heads, queries } = kernel;
  const size = dtypeBytes(out.dtype);
  const inverses = [0, 16].map((lane) => {
    const sum = f.keep(v128.load(state, SUM_AT + lane));
    const none = f.keep(f32x4.eq(sum, f32x4.const(0)));
    const lse = f32x4.add(f32x4.mul(v128.load(state, lane), f32x4.const(Math.LN2)), ln(f, sum));
    const least = f32x4.const(Number.NEGATIVE_INFINITY);
    f.do(v128.store(state, v128.bitselect(least, lse, none), lane));
    return f.keep(v128.andnot(f32x4.div(f32x4.const(1), sum), none));
  });
  const place = placeOf(plan, rows, row);
  const [lane, head, time] = [f.local("i32"), f.local("i32"), f.local("i32", place.time)];
  f.set(head, place.head);
  const endHead = f.keep(i32.add(rows.head, plan.group));
  const lse = f.keep(args.slot(kernel.lse));
  f.for(lane, 0, valid, 1, () => {
    const lseRow = i32.add(i32.mul(rows.batch, heads), head);
    const to = i32.add(lse, i32.shl(i32.add(i32.mul(lseRow, queries), time), 2));
    f.do(i32.store(to, i32.load(i32.add(state, i32.shl(lane, 2)))));
    f.inc(head, 1);
    f.if(i32.eq(head, endHead), () => {
      f.set(head, rows.head);
      f.inc(time, 1);
    });
  });
  // Four columns at a time, four lanes: columns become rows.
  const first = f.keep(headAddress(args, out, place));
  const to = Array.from({ length: LANES }, (_, i) =>
    f.keep(i32.add(first, i * size * rowStride(plan, out))),
  );
  const from = f.local("i32", i32.add(state, OUTPUTS_AT));
  const n = f.local("i32");
  const columns = (count: number) => {
    for (const [j, inverse] of inverses.entries()) {
      const vectors = [0, 1, 2, 3].map((c) =>
        f.keep(f32x4.mul(v128.load(from, 4 * LANES * c + 16 * j), inverse)),
      );
      for (const [i, values] of transpose4(f, vectors).entries()) {
        const own = to[4 * j + i] as Local<"i32">;
        f.if(i32.gtS(valid, 4 * j + i), () => {
          const codes = f.keep(encode(f, out.dtype, values));
          if (count === 4) f.do(storeCodes(out.dtype, own, codes));
          for (let c = 0; c < count % 4; c++) f.do(storeCode(out.dtype, own, codes, c, c * size));
        });
        f.inc(own, 4 * size);
      }
    }
    f.inc(from, 16 * LANES);
  };
  f.for(n, 0, Math.floor(vWidth / 4), 1, () => columns(4));
  if (vWidth % 4 > 0) columns(vWidth % 4);
}
