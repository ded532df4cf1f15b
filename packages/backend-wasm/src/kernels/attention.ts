/**
 * Attention in one pass over the keys (online softmax), with queries in the lanes of vectors: a panel
 * of 8 queries computes scores^T = K q^T for a block of keys, keeps a running maximum and sum in each
 * lane, and adds V^T weights^T to its outputs. Nothing is ever summed across lanes.
 */
import type { AttentionKernel } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, f32x4, i32, type Local, type Value, v128 } from "../asm.ts";
import { encode, storeCode } from "../convert.ts";
import type { KernelCode, PhaseArguments, Target } from "../kernel.ts";
import { exp2, ln } from "./attention-math.ts";
import {
  headAddress,
  keyAddress,
  keyBlock,
  LANES,
  leastSeen,
  lengthOf,
  mostSeen,
  packMatrix,
  SIGHT_BYTES,
  sees,
  writeSight,
} from "./attention-view.ts";
import { multiplyAdd, TILE_BYTES, TILE_ROWS, tile, zeroSums } from "./matmul-tile.ts";

/** Panels that go through the keys together, and share their packing. */
const TASK_PANELS = 12;
/** Maximum of no scores: finite, so that differences stay numbers. */
const LOWEST = -3e38;
const ceilDiv = (a: number, b: number) => Math.ceil(a / b);

export function attention(kernel: AttentionKernel, target: Target): KernelCode {
  const { batch, queries, keys, heads, keyHeads, qkWidth, vWidth } = kernel;
  // Lanes are queries of one head; or, for few queries, heads that share a key head.
  const byHeads = queries < LANES && heads % keyHeads === 0 && heads / keyHeads > queries;
  const rows = byHeads ? heads / keyHeads : queries;
  const outer = byHeads ? keyHeads * queries : heads;
  const panels = ceilDiv(rows, LANES);
  const taskPanels = Math.min(panels, TASK_PANELS);
  const tasksPerOuter = ceilDiv(panels, taskPanels);
  const block = keyBlock(kernel);
  const keyPanels = ceilDiv(block, TILE_ROWS);
  const valuePanels = ceilDiv(vWidth, TILE_ROWS);
  const axis = byHeads ? 2 : 1;

  // Thread scratch: packed keys and values, scores of a panel, then for each panel its queries, what
  // it sees, maximum, sum and outputs.
  const keyPanelBytes = qkWidth * TILE_ROWS * 4;
  const valuePanelBytes = block * TILE_ROWS * 4;
  const queryBytes = qkWidth * LANES * 4;
  const valuesAt = keyPanels * keyPanelBytes;
  const scoresAt = valuesAt + valuePanels * valuePanelBytes;
  const panelsAt = scoresAt + keyPanels * TILE_BYTES;
  const sightAt = queryBytes;
  const stateAt = sightAt + SIGHT_BYTES;
  const outputsAt = stateAt + 64;
  const panelBytes = outputsAt + valuePanels * TILE_BYTES;

  const emit = (f: Func, args: PhaseArguments) => {
    const task = f.local("i32");
    const panel = f.local("i32");
    const key = f.local("i32");
    const sums = Array.from({ length: TILE_BYTES / 16 }, () => f.local("v128"));
    const at = (offset: number) => f.keep(i32.add(args.threadScratch, offset));
    const [keysAt, packedValues, scores, firstPanelAt] = [0, valuesAt, scoresAt, panelsAt].map(
      at,
    ) as [Local<"i32">, Local<"i32">, Local<"i32">, Local<"i32">];
    f.for(task, args.begin, args.end, 1, () => {
      const b = f.keep(i32.divU(task, outer * tasksPerOuter));
      const which = f.keep(i32.remU(i32.divU(task, tasksPerOuter), outer));
      const firstRow = f.keep(i32.mul(i32.remU(task, tasksPerOuter), taskPanels * LANES));
      const headFirst = f.local("i32");
      const time = f.local("i32");
      const keyHead = f.local("i32");
      if (byHeads) {
        f.set(keyHead, i32.divU(which, queries));
        f.set(headFirst, i32.mul(keyHead, rows));
        f.set(time, i32.remU(which, queries));
      } else {
        f.set(headFirst, which);
        f.set(keyHead, i32.divU(i32.mul(which, keyHeads), heads));
      }
      const length = lengthOf(f, args, kernel, b);
      const panelAt = f.local("i32");
      const valid = f.local("i32");
      const row = f.local("i32");
      const forPanels = (body: () => void) => {
        f.set(panelAt, firstPanelAt);
        f.set(row, firstRow);
        f.for(panel, 0, taskPanels, 1, () => {
          f.set(valid, i32.sub(rows, row));
          f.if(i32.gtS(valid, LANES), () => f.set(valid, LANES));
          f.if(i32.gtS(valid, 0), body);
          f.inc(panelAt, panelBytes);
          f.inc(row, LANES);
        });
      };
      /** Head and time of the first query of a panel. */
      const place = () => ({
        batch: b,
        head: byHeads ? i32.add(headFirst, row) : headFirst,
        time: byHeads ? time : row,
      });
      const most = f.local("i32", -1);
      forPanels(() => {
        packMatrix(f, kernel.q, {
          by: "rows",
          width: LANES,
          from: f.keep(headAddress(args, kernel.q, place())),
          to: panelAt,
          stride: kernel.q.strides[axis],
          rows: valid,
          cols: qkWidth,
          panelBytes: queryBytes,
        });
        const sight = f.keep(i32.add(panelAt, sightAt));
        const first = byHeads ? time : row;
        writeSight(
          f,
          args,
          kernel,
          { batch: b, length, first, valid, step: byHeads ? 0 : 1 },
          sight,
        );
        f.if(i32.gtS(mostSeen(sight), most), () => f.set(most, mostSeen(sight)));
        for (let j = 0; j < 2; j++) {
          f.do(v128.store(panelAt, f32x4.const(LOWEST), stateAt + 16 * j));
          f.do(v128.store(panelAt, f32x4.const(0), stateAt + 32 + 16 * j));
        }
        const to = f.local("i32", i32.add(panelAt, outputsAt));
        const end = f.keep(i32.add(panelAt, panelBytes));
        f.while(i32.ltU(to, end), () => {
          f.do(v128.store(to, f32x4.const(0)));
          f.inc(to, 16);
        });
      });
      f.set(key, 0);
      f.while(i32.leS(key, most), () => {
        const count = f.keep(i32.sub(length, key));
        f.if(i32.gtS(count, block), () => f.set(count, block));
        const from = (view: AttentionKernel["k"]) =>
          keyAddress(f, args, kernel, view, { batch: b, key, head: keyHead });
        packMatrix(f, kernel.k, {
          by: "rows",
          width: TILE_ROWS,
          from: from(kernel.k),
          to: keysAt,
          stride: kernel.k.strides[1],
          rows: count,
          cols: qkWidth,
          panelBytes: keyPanelBytes,
        });
        packMatrix(f, kernel.v, {
          by: "columns",
          width: TILE_ROWS,
          from: from(kernel.v),
          to: packedValues,
          stride: kernel.v.strides[1],
          rows: count,
          cols: vWidth,
          panelBytes: valuePanelBytes,
        });
        forPanels(() => {
          const sight = f.keep(i32.add(panelAt, sightAt));
          const seen = f.keep(i32.sub(i32.add(mostSeen(sight), 1), key));
          f.if(i32.gtS(seen, count), () => f.set(seen, count));
          f.if(i32.gtS(seen, 0), () => {
            scoreBlock(f, args, { sums, scores, sight, seen, b, key, panelAt, keysAt });
            weightBlock(f, { sums, scores, seen, panelAt, packedValues });
          });
        });
        f.inc(key, block);
      });
      forPanels(() => finish(f, args, { panelAt, valid, place: place() }));
    });
  };

  interface Block {
    readonly sums: readonly Local<"v128">[];
    readonly scores: Local<"i32">;
    /** Keys of the block that some lane of the panel sees. */
    readonly seen: Local<"i32">;
    readonly panelAt: Local<"i32">;
  }

  /** scores[key][lane] = scale · log₂e · k · q, −∞ where the lane does not see the key. */
  const scoreBlock = (
    f: Func,
    args: PhaseArguments,
    {
      sums,
      scores,
      sight,
      seen,
      b,
      key,
      panelAt,
      keysAt,
    }: Block & {
      sight: Local<"i32">;
      b: Local<"i32">;
      key: Local<"i32">;
      keysAt: Local<"i32">;
    },
  ) => {
    const x = f.local("i32");
    const y = f.local("i32");
    const to = f.local("i32", scores);
    const first = f.local("i32");
    const keyTile = f.local("i32", keysAt);
    const scale = f32x4.const(kernel.scale * Math.LOG2E);
    f.for(first, 0, seen, TILE_ROWS, () => {
      f.set(x, keyTile);
      f.set(y, panelAt);
      zeroSums(f, sums);
      tile(f, {
        rows: TILE_ROWS,
        vectors: 2,
        count: qkWidth,
        a: { pointers: [x], row: 4, k: 4 * TILE_ROWS },
        b: { pointer: y, k: 4 * LANES },
        sums,
        multiplyAdd: multiplyAdd(target),
      });
      const tileKey = f.keep(i32.add(key, first));
      const whole = i32.leS(i32.add(tileKey, TILE_ROWS - 1), leastSeen(sight));
      for (const sum of sums) f.set(sum, f32x4.mul(sum, scale));
      const mask = () => {
        for (const [n, sum] of sums.entries()) {
          const own = f.keep(i32.add(tileKey, n >> 1));
          // Rows of a tile beyond the last key are not of this sequence.
          const visible = sees(args, kernel, { batch: b, sight, key: own }, n & 1);
          f.set(sum, v128.bitselect(sum, f32x4.const(Number.NEGATIVE_INFINITY), visible));
        }
      };
      if (kernel.segments === undefined) f.if(i32.eqz(whole), mask);
      else mask();
      for (const [n, sum] of sums.entries()) f.do(v128.store(to, sum, 16 * n));
      f.inc(to, TILE_BYTES);
      f.inc(keyTile, keyPanelBytes);
    });
  };

  /** Scores become weights; the panel's maximum, sum and outputs take them in. */
  const weightBlock = (
    f: Func,
    { sums, scores, seen, panelAt, packedValues }: Block & { packedValues: Local<"i32"> },
  ) => {
    const at = f.local("i32");
    const end = f.keep(i32.add(scores, i32.mul(seen, 4 * LANES)));
    const each = (body: () => void) => {
      f.set(at, scores);
      f.while(i32.ltU(at, end), () => {
        body();
        f.inc(at, 4 * LANES);
      });
    };
    const lanes = [0, 1].map((j) => {
      const old = f.keep(v128.load(panelAt, stateAt + 16 * j));
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
    const shrink = lanes.map(({ j, old, top, sum }) => {
      const factor = f.keep(exp2(f, target, f32x4.sub(old, top)));
      const before = f32x4.mul(v128.load(panelAt, stateAt + 32 + 16 * j), factor);
      f.do(v128.store(panelAt, top, stateAt + 16 * j));
      f.do(v128.store(panelAt, f32x4.add(before, sum), stateAt + 32 + 16 * j));
      return factor;
    });
    const to = f.local("i32", i32.add(panelAt, outputsAt));
    const values = f.local("i32", packedValues);
    const x = f.local("i32");
    const y = f.local("i32");
    const v = f.local("i32");
    f.for(v, 0, valuePanels, 1, () => {
      for (const [n, sum] of sums.entries()) {
        f.set(sum, f32x4.mul(v128.load(to, 16 * n), shrink[n & 1] as Value<"v128">));
      }
      f.set(x, values);
      f.set(y, scores);
      tile(f, {
        rows: TILE_ROWS,
        vectors: 2,
        count: seen,
        a: { pointers: [x], row: 4, k: 4 * TILE_ROWS },
        b: { pointer: y, k: 4 * LANES },
        sums,
        multiplyAdd: multiplyAdd(target),
      });
      for (const [n, sum] of sums.entries()) f.do(v128.store(to, sum, 16 * n));
      f.inc(to, TILE_BYTES);
      f.inc(values, valuePanelBytes);
    });
  };

  /** Writes a panel's outputs and log-sum-exps. */
  const finish = (
    f: Func,
    args: PhaseArguments,
    p: {
      panelAt: Local<"i32">;
      valid: Local<"i32">;
      place: { batch: Value<"i32">; head: Value<"i32">; time: Value<"i32"> };
    },
  ) => {
    const { out } = kernel;
    const size = dtypeBytes(out.dtype);
    for (let j = 0; j < 2; j++) {
      const top = v128.load(p.panelAt, stateAt + 16 * j);
      const sum = f.keep(v128.load(p.panelAt, stateAt + 32 + 16 * j));
      const none = f.keep(f32x4.eq(sum, f32x4.const(0)));
      const lse = f32x4.add(f32x4.mul(top, f32x4.const(Math.LN2)), ln(f, sum));
      const inverse = f32x4.div(f32x4.const(1), sum);
      f.do(
        v128.store(
          p.panelAt,
          v128.bitselect(f32x4.const(Number.NEGATIVE_INFINITY), lse, none),
          stateAt + 16 * j,
        ),
        v128.store(p.panelAt, v128.andnot(inverse, none), stateAt + 32 + 16 * j),
      );
    }
    const lane = f.local("i32");
    const column = f.local("i32");
    const to = f.local("i32", headAddress(args, out, p.place));
    const lseRow = i32.add(i32.mul(p.place.batch, heads), p.place.head);
    const lseTo = f.local(
      "i32",
      i32.add(args.slot(kernel.lse), i32.shl(i32.add(i32.mul(lseRow, queries), p.place.time), 2)),
    );
    f.for(lane, 0, p.valid, 1, () => {
      const state = f.keep(i32.add(i32.add(p.panelAt, stateAt), i32.shl(lane, 2)));
      f.do(i32.store(lseTo, i32.load(state)));
      const inverse = f.keep(v128.load32Splat(state, 32));
      const from = f.local("i32", i32.add(i32.add(p.panelAt, outputsAt), i32.shl(lane, 2)));
      const element = f.local("i32", to);
      f.for(column, 0, vWidth, 1, () => {
        const value = f32x4.mul(v128.load32Zero(from), inverse);
        f.do(storeCode(out.dtype, element, encode(f, out.dtype, value), 0));
        f.inc(from, 4 * LANES);
        f.inc(element, size * out.strides[3]);
      });
      f.inc(to, size * out.strides[axis]);
      f.inc(lseTo, 4 * (byHeads ? queries : 1));
    });
  };

  if (batch === 0 || queries === 0 || heads === 0) return { phases: [] };
  const work = batch * heads * queries * keys * (qkWidth + vWidth + 8);
  return {
    phases: [
      {
        tasks: batch * outer * tasksPerOuter,
        nanoseconds: work / (target.relaxedSimd ? 20 : 10) / (kernel.causal && queries > 1 ? 2 : 1),
        emit,
      },
    ],
    threadScratch: panelsAt + taskPanels * panelBytes,
  };
}
