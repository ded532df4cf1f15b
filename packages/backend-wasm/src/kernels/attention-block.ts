/**
 * A block of keys for a panel of 8 queries, which stand in the lanes of vectors: scoresᵀ = K qᵀ, then
 * weights, a running maximum and sum in each lane, and outputsᵀ += Vᵀ weightsᵀ. Nothing is ever summed
 * across lanes, and every sum goes along its keys or columns in order: what a query gets depends
 * neither on its lane nor on its neighbours.
 */
import type { AttentionKernel } from "@dsv3/tensor";
import { type Func, f32x4, i32, type Local, v128 } from "../asm.ts";
import type { PhaseArguments, Target } from "../kernel.ts";
import type { BlockRows } from "./attention-keys.ts";
import { exp2 } from "./attention-math.ts";
import { OUTPUTS_AT, SUM_AT } from "./attention-plan.ts";
import { LANES, leastSeen, sees } from "./attention-view.ts";
import { multiplyAdd, TILE_ROWS, tile, zeroSums } from "./matmul-tile.ts";

/** Bytes of a vector for every lane of a panel. */
const PANEL_ROW = 4 * LANES;
/** Rows of the tiles that go through what is left of a last block. */
const LESS_ROWS = 4;
/**
 * Rows of the largest tile: the sums that fit registers. Pairs of vectors that are one of 256 bits take
 * half as many, and as many of them hide each other's latency.
 */
const mostRows = (target: Target): number => (target.wideVectors ? 2 * TILE_ROWS : TILE_ROWS);

interface Block {
  /** Keys of a whole block. */
  readonly block: number;
  /** Sums of a tile. */
  readonly sums: readonly Local<"v128">[];
  /** Scores and then weights [keys][8]; what the outputs shrink by stands behind them. */
  readonly scores: Local<"i32">;
  /** Keys of the block that some lane of the panel sees: 1 or more. */
  readonly seen: Local<"i32">;
}

export const tileSums = (f: Func, target: Target): Local<"v128">[] =>
  Array.from({ length: 2 * mostRows(target) }, () => f.local("v128"));

/** scores[key][lane] = scale · log₂e · k · q, −∞ where the lane does not see the key. */
export function scoreBlock(
  f: Func,
  args: PhaseArguments,
  kernel: AttentionKernel,
  target: Target,
  { block, sums, scores, seen }: Block,
  panel: {
    batch: Local<"i32">;
    /** First key of the block. */
    key: Local<"i32">;
    keys: BlockRows;
    queries: Local<"i32">;
    sight: Local<"i32">;
  },
): void {
  const [x, y] = [f.local("i32"), f.local("i32")];
  const row = f.local("i32", panel.keys.first);
  const to = f.local("i32", scores);
  const left = f.local("i32", seen);
  const { stride } = panel.keys;
  const scale = f32x4.const(kernel.scale * Math.LOG2E);
  const tileOf = (rows: number) => {
    const own = sums.slice(0, 2 * rows);
    f.set(x, row);
    f.set(y, panel.queries);
    zeroSums(f, own);
    tile(f, {
      rows,
      vectors: 2,
      count: kernel.qkWidth,
      a: { pointers: [x], row: stride, k: 4 },
      b: { pointer: y, k: PANEL_ROW },
      sums: own,
      multiplyAdd: multiplyAdd(target),
    });
    for (const [n, sum] of own.entries()) f.do(v128.store(to, f32x4.mul(sum, scale), 16 * n));
    f.inc(to, rows * PANEL_ROW);
    f.inc(row, rows * stride);
    f.inc(left, -rows);
  };
  f.if(
    i32.eq(left, block),
    () => {
      const n = f.local("i32");
      for (const { rows, count } of tileRows(block, target)) {
        f.for(n, 0, count, 1, () => tileOf(rows));
      }
    },
    () => {
      f.while(i32.geS(left, LESS_ROWS), () => tileOf(LESS_ROWS));
      f.while(left, () => tileOf(1));
    },
  );
  const last = f.keep(i32.sub(i32.add(panel.key, seen), 1));
  if (kernel.segments === undefined) f.if(i32.gtS(last, leastSeen(panel.sight)), mask);
  else mask();

  function mask() {
    const key = f.local("i32", panel.key);
    f.set(to, scores);
    f.while(i32.leS(key, last), () => {
      for (const j of [0, 1]) {
        const visible = sees(args, kernel, { batch: panel.batch, sight: panel.sight, key }, j);
        const score = v128.load(to, 16 * j);
        const least = f32x4.const(Number.NEGATIVE_INFINITY);
        f.do(v128.store(to, v128.bitselect(score, least, visible), 16 * j));
      }
      f.inc(to, PANEL_ROW);
      f.inc(key, 1);
    });
  }
}

/** Scores become weights; the panel's maximum, sum and outputs at `state` take them in. */
export function weightBlock(
  f: Func,
  kernel: AttentionKernel,
  target: Target,
  { sums, scores, seen }: Block,
  panel: { values: BlockRows; state: Local<"i32"> },
): void {
  const { state, values } = panel;
  const at = f.local("i32");
  const end = f.keep(i32.add(scores, i32.mul(seen, PANEL_ROW)));
  const each = (body: () => void) => {
    f.set(at, scores);
    f.while(i32.ltU(at, end), () => {
      body();
      f.inc(at, PANEL_ROW);
    });
  };
  const lanes = [0, 1].map((j) => {
    const old = f.keep(v128.load(state, 16 * j));
    return { j, old, top: f.local("v128", old), sum: f.local("v128", f32x4.const(0)) };
  });
  each(() => {
    // A NaN is passed over here, and comes through with the weights.
    for (const { j, top } of lanes) f.set(top, f32x4.pmax(top, v128.load(at, 16 * j)));
  });
  each(() => {
    for (const { j, top, sum } of lanes) {
      const weight = f.keep(exp2(f, target, f32x4.sub(v128.load(at, 16 * j), top)));
      f.do(v128.store(at, weight, 16 * j));
      f.set(sum, f32x4.add(sum, weight));
    }
  });
  for (const { j, old, top, sum } of lanes) {
    const factor = f.keep(exp2(f, target, f32x4.sub(old, top)));
    const before = f32x4.mul(v128.load(state, SUM_AT + 16 * j), factor);
    f.do(v128.store(state, top, 16 * j));
    f.do(v128.store(state, f32x4.add(before, sum), SUM_AT + 16 * j));
    f.do(v128.store(end, factor, 16 * j));
  }
  const to = f.local("i32", i32.add(state, OUTPUTS_AT));
  const column = f.local("i32", values.first);
  const [x, y, n] = [f.local("i32"), f.local("i32"), f.local("i32")];
  for (const { rows, count } of tileRows(kernel.vWidth, target)) {
    const own = sums.slice(0, 2 * rows);
    f.for(n, 0, count, 1, () => {
      for (const [i, sum] of own.entries()) {
        f.set(sum, f32x4.mul(v128.load(to, 16 * i), v128.load(end, 16 * (i & 1))));
      }
      f.set(x, column);
      f.set(y, scores);
      tile(f, {
        rows,
        vectors: 2,
        count: seen,
        a: { pointers: [x], row: 4, k: values.stride },
        b: { pointer: y, k: PANEL_ROW },
        sums: own,
        multiplyAdd: multiplyAdd(target),
      });
      for (const [i, sum] of own.entries()) f.do(v128.store(to, sum, 16 * i));
      f.inc(to, rows * PANEL_ROW);
      f.inc(column, 4 * rows);
    });
  }
}

/** Rows of the tiles that go through `n`, as many and as even as can be: at most two sizes. */
function tileRows(n: number, target: Target): { rows: number; count: number }[] {
  const tiles = Math.ceil(n / mostRows(target));
  const rows = Math.floor(n / Math.max(1, tiles));
  const larger = n - rows * tiles;
  const runs = [
    { rows: rows + 1, count: larger },
    { rows, count: tiles - larger },
  ];
  return runs.filter(({ count }) => count > 0);
}
