/**
 * The derivative of attention. A task owns a key head of a sequence, and with it all sums of its keys,
 * values and queries, so that they are added up in one order however many threads there are. Weights
 * are computed again, block by block, from the log-sum-exps of the forward pass:
 *
 *     P = exp(scale · q kᵀ − lse)    dV = Pᵀ dO    dS = scale · P ∘ (dO vᵀ − rowsum(dO ∘ O))
 *     dQ = dS k                      dK = dSᵀ q
 *
 * (FlashAttention-2, algorithm 2.) P and dS are kept transposed: a row for each key, queries in lanes.
 */
import type { AttentionGradKernel, HeadsView } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, f32x4, i32, type Local, memoryFill, type Value, v128 } from "../asm.ts";
import type { KernelCode, PhaseArguments, Target } from "../kernel.ts";
import { exp2 } from "./attention-math.ts";
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
import { storeTile } from "./matmul-store.ts";
import {
  multiplyAdd,
  TILE_BYTES,
  TILE_COLUMNS,
  TILE_ROWS,
  type TileA,
  tile,
  zeroSums,
} from "./matmul-tile.ts";

/** Queries of a block: whole panels of 8 lanes, and whole tiles of 6 rows. */
const QUERY_BLOCK = 48;
const QUERY_PANELS = QUERY_BLOCK / LANES;
const QUERY_TILES = QUERY_BLOCK / TILE_ROWS;
const ROW_BYTES = 4 * QUERY_BLOCK;
const ceilDiv = (a: number, b: number) => Math.ceil(a / b);

type Address = Local<"i32">;

export function attentionGrad(kernel: AttentionGradKernel, target: Target): KernelCode {
  const { batch, queries, keys, heads, keyHeads, qkWidth, vWidth } = kernel;
  const block = keyBlock(kernel);
  const blocks = ceilDiv(keys, block);
  const tilesPerBlock = ceilDiv(block, TILE_ROWS);
  const keyTiles = blocks * tilesPerBlock;
  const [qkPanels, vPanels] = [ceilDiv(qkWidth, TILE_COLUMNS), ceilDiv(vWidth, TILE_COLUMNS)];

  // Thread scratch: a list of regions.
  let top = TILE_BYTES;
  const region = (bytes: number) => {
    const at = top;
    top = Math.ceil((top + bytes) / 64) * 64;
    return at;
  };
  /** For the whole key head: k and v as rows of A, k as columns of B, and the sums. */
  const keyRowBytes = qkWidth * TILE_ROWS * 4;
  const valueRowBytes = vWidth * TILE_ROWS * 4;
  const keyColumnBytes = block * TILE_COLUMNS * 4;
  const keyRowsAt = region(keyTiles * keyRowBytes);
  const valueRowsAt = region(keyTiles * valueRowBytes);
  const keyColumnsAt = region(blocks * qkPanels * keyColumnBytes);
  const sumsAt = region(keyTiles * (qkPanels + vPanels) * TILE_BYTES);
  const sumsBytes = keyTiles * (qkPanels + vPanels) * TILE_BYTES;
  const dvAt = sumsAt + keyTiles * qkPanels * TILE_BYTES;
  /** For a block of queries: q and dO by lanes and as columns of B, what each panel sees, dQ. */
  const queryLaneBytes = qkWidth * LANES * 4;
  const outLaneBytes = vWidth * LANES * 4;
  const columnBytes = QUERY_BLOCK * TILE_COLUMNS * 4;
  const queryLanesAt = region(QUERY_PANELS * queryLaneBytes);
  const doutLanesAt = region(QUERY_PANELS * outLaneBytes);
  const outLanesAt = region(outLaneBytes);
  const queryColumnsAt = region(qkPanels * columnBytes);
  const doutColumnsAt = region(vPanels * columnBytes);
  const sightAt = region(QUERY_PANELS * SIGHT_BYTES);
  /** Of each panel: log₂ of the sum of its exponentials, and rowsum(dO ∘ O). */
  const rowsAt = region(QUERY_PANELS * 64);
  const dqAt = region(QUERY_TILES * qkPanels * TILE_BYTES);
  const weightsAt = region(tilesPerBlock * TILE_ROWS * ROW_BYTES);
  const slopesAt = region(tilesPerBlock * TILE_ROWS * ROW_BYTES);

  const emit = (f: Func, args: PhaseArguments) => {
    const sums = Array.from({ length: TILE_BYTES / 16 }, () => f.local("v128"));
    const [x, y] = [f.local("i32"), f.local("i32")];
    const at = (offset: number, index: Value<"i32"> = i32.const(0), bytes = 0) =>
      i32.add(i32.add(args.threadScratch, offset), i32.mul(index, bytes));

    /** sums += Σ_k a · b over `count` steps. */
    const multiply = (
      a: Value<"i32">,
      strides: Pick<TileA, "row" | "k">,
      b: Value<"i32">,
      count: number | Address,
    ) => {
      f.set(x, a);
      f.set(y, b);
      tile(f, {
        rows: TILE_ROWS,
        vectors: 2,
        count,
        a: { pointers: [x], ...strides },
        b: { pointer: y, k: 4 * TILE_COLUMNS },
        sums,
        multiplyAdd: multiplyAdd(target),
      });
    };
    const packed = { row: 4, k: 4 * TILE_ROWS };
    /** The same onto sums in memory. */
    const accumulate = (
      into: Address,
      a: Value<"i32">,
      strides: Pick<TileA, "row" | "k">,
      b: Value<"i32">,
      count: Address,
    ) => {
      for (const [n, sum] of sums.entries()) f.set(sum, v128.load(into, 16 * n));
      multiply(a, strides, b, count);
      for (const [n, sum] of sums.entries()) f.do(v128.store(into, sum, 16 * n));
    };
    /** Writes rows of tiles [tiles][panels] to a gradient, from `time` on, `rowsLeft` of them. */
    const store = (
      view: HeadsView,
      where: { batch: Value<"i32">; time: Value<"i32">; head: Value<"i32"> },
      from: Address,
      width: number,
      rowsLeft: Address,
    ) => {
      const column = f.local("i32");
      const tileAt = f.local("i32", from);
      const address = f.local("i32", headAddress(args, view, where));
      f.for(column, 0, i32.const(width), TILE_COLUMNS, () => {
        for (const [n, sum] of sums.entries()) f.set(sum, v128.load(tileAt, 16 * n));
        storeTile(f, {
          rows: TILE_ROWS,
          columns: TILE_COLUMNS,
          sums,
          sumType: "f32",
          out: { dtype: view.dtype, row: view.strides[1], address },
          rowsLeft,
          ...(width % TILE_COLUMNS && { columnsLeft: f.keep(i32.sub(width, column)) }),
          spill: args.threadScratch,
        });
        f.inc(tileAt, TILE_BYTES);
        f.inc(address, TILE_COLUMNS * dtypeBytes(view.dtype));
      });
    };

    const task = f.local("i32");
    const b = f.local("i32");
    const keyHead = f.local("i32");
    const head = f.local("i32");
    const query = f.local("i32");
    const key = f.local("i32");
    const blockIndex = f.local("i32");
    const keyTile = f.local("i32");
    const panel = f.local("i32");
    const column = f.local("i32");

    const packKeys = (length: Address) => {
      const count = f.local("i32");
      const pack = (
        view: HeadsView,
        by: "rows" | "columns",
        width: number,
        cols: number,
        to: Value<"i32">,
        panelBytes: number,
      ) =>
        packMatrix(f, view, {
          by,
          width,
          from: keyAddress(f, args, kernel, view, { batch: b, key, head: keyHead }),
          to: f.keep(to),
          stride: view.strides[1],
          rows: count,
          cols,
          panelBytes,
        });
      f.set(blockIndex, 0);
      f.for(key, 0, length, block, () => {
        f.set(count, i32.sub(length, key));
        f.if(i32.gtS(count, block), () => f.set(count, block));
        const first = i32.mul(blockIndex, tilesPerBlock);
        pack(kernel.k, "rows", TILE_ROWS, qkWidth, at(keyRowsAt, first, keyRowBytes), keyRowBytes);
        pack(
          kernel.v,
          "rows",
          TILE_ROWS,
          vWidth,
          at(valueRowsAt, first, valueRowBytes),
          valueRowBytes,
        );
        const columns = at(keyColumnsAt, blockIndex, qkPanels * keyColumnBytes);
        pack(kernel.k, "columns", TILE_COLUMNS, qkWidth, columns, keyColumnBytes);
        f.inc(blockIndex, 1);
      });
    };

    /** Packs a block of `rows` queries; gives the last key that any of them sees. */
    const packQueries = (length: Address, rows: Address): Address => {
      const address = (view: HeadsView, time: Value<"i32">) =>
        f.keep(headAddress(args, view, { batch: b, time, head }));
      for (const [view, cols, lanesAt, laneBytes, columnsAt] of [
        [kernel.q, qkWidth, queryLanesAt, queryLaneBytes, queryColumnsAt],
        [kernel.dout, vWidth, doutLanesAt, outLaneBytes, doutColumnsAt],
      ] as const) {
        const common = { from: address(view, query), stride: view.strides[1], rows, cols };
        const lanes = f.keep(at(lanesAt));
        const columns = f.keep(at(columnsAt));
        packMatrix(f, view, {
          ...common,
          by: "rows",
          width: LANES,
          to: lanes,
          panelBytes: laneBytes,
        });
        packMatrix(f, view, {
          ...common,
          by: "columns",
          width: TILE_COLUMNS,
          to: columns,
          panelBytes: columnBytes,
        });
      }
      const most = f.local("i32", -1);
      const valid = f.local("i32");
      const first = f.local("i32", query);
      f.for(panel, 0, QUERY_PANELS, 1, () => {
        f.set(valid, i32.sub(rows, i32.mul(panel, LANES)));
        f.if(i32.gtS(valid, LANES), () => f.set(valid, LANES));
        f.if(i32.ltS(valid, 0), () => f.set(valid, 0));
        const sight = f.keep(at(sightAt, panel, SIGHT_BYTES));
        writeSight(
          f,
          args,
          kernel,
          { batch: b, length, first, valid, group: 1, beyond: "nothing" },
          sight,
        );
        f.if(i32.gtS(mostSeen(sight), most), () => f.set(most, mostSeen(sight)));
        f.if(valid, () => {
          const out = f.keep(at(outLanesAt));
          packMatrix(f, kernel.out, {
            by: "rows",
            width: LANES,
            from: address(kernel.out, first),
            to: out,
            stride: kernel.out.strides[1],
            rows: valid,
            cols: vWidth,
            panelBytes: outLaneBytes,
          });
          const row = f.keep(at(rowsAt, panel, 64));
          const lane = f.local("i32");
          const lse = i32.add(i32.mul(i32.add(i32.mul(b, heads), head), queries), first);
          const lseAt = f.keep(i32.add(args.slot(kernel.lse), i32.shl(lse, 2)));
          f.for(lane, 0, valid, 1, () => {
            const offset = f.keep(i32.shl(lane, 2));
            f.do(i32.store(i32.add(row, offset), i32.load(i32.add(lseAt, offset))));
          });
          const dout = f.keep(at(doutLanesAt, panel, outLaneBytes));
          const end = f.keep(i32.add(out, outLaneBytes));
          const rowSums = [0, 1].map(() => f.local("v128", f32x4.const(0)));
          f.while(i32.ne(out, end), () => {
            for (const [j, sum] of rowSums.entries()) {
              const product = f32x4.mul(v128.load(out, 16 * j), v128.load(dout, 16 * j));
              f.set(sum, f32x4.add(sum, product));
            }
            f.inc(out, 4 * LANES);
            f.inc(dout, 4 * LANES);
          });
          for (const [j, sum] of rowSums.entries()) {
            const log2 = f32x4.mul(v128.load(row, 16 * j), f32x4.const(Math.LOG2E));
            f.do(v128.store(row, log2, 16 * j), v128.store(row, sum, 32 + 16 * j));
          }
        });
        f.inc(first, LANES);
      });
      return most;
    };

    /** P and dS of a block of keys for all panels; zero where a query does not see a key. */
    const weights = (count: Address) => {
      const first = f.local("i32");
      f.for(panel, 0, QUERY_PANELS, 1, () => {
        const sight = f.keep(at(sightAt, panel, SIGHT_BYTES));
        const row = f.keep(at(rowsAt, panel, 64));
        const seen = f.keep(i32.sub(i32.add(mostSeen(sight), 1), key));
        const to = f.local("i32", at(weightsAt, panel, 4 * LANES));
        const slopes = slopesAt - weightsAt;
        const tileIndex = f.local("i32", i32.mul(blockIndex, tilesPerBlock));
        const places = sums.map((_, n) => (n >> 1) * ROW_BYTES + 16 * (n & 1));
        f.for(first, 0, count, TILE_ROWS, () => {
          f.if(
            i32.ltS(first, seen),
            () => {
              zeroSums(f, sums);
              multiply(
                at(keyRowsAt, tileIndex, keyRowBytes),
                packed,
                at(queryLanesAt, panel, queryLaneBytes),
                qkWidth,
              );
              for (const [n, sum] of sums.entries()) {
                const log2 = f32x4.mul(sum, f32x4.const(kernel.scale * Math.LOG2E));
                f.set(sum, exp2(f, target, f32x4.sub(log2, v128.load(row, 16 * (n & 1)))));
              }
              const tileKey = f.keep(i32.add(key, first));
              const mask = () => {
                for (const [n, sum] of sums.entries()) {
                  const own = f.keep(i32.add(tileKey, n >> 1));
                  f.set(
                    sum,
                    v128.and(sum, sees(args, kernel, { batch: b, sight, key: own }, n & 1)),
                  );
                }
              };
              const last = i32.add(tileKey, TILE_ROWS - 1);
              if (kernel.segments === undefined) f.if(i32.gtS(last, leastSeen(sight)), mask);
              else mask();
              for (const [n, sum] of sums.entries()) f.do(v128.store(to, sum, places[n]));
              zeroSums(f, sums);
              multiply(
                at(valueRowsAt, tileIndex, valueRowBytes),
                packed,
                at(doutLanesAt, panel, outLaneBytes),
                vWidth,
              );
              for (const [n, sum] of sums.entries()) {
                const rest = f32x4.sub(sum, v128.load(row, 32 + 16 * (n & 1)));
                const weight = f32x4.mul(v128.load(to, places[n]), f32x4.const(kernel.scale));
                f.do(v128.store(to, f32x4.mul(weight, rest), slopes + (places[n] as number)));
              }
            },
            () => {
              for (const place of places) {
                f.do(
                  v128.store(to, f32x4.const(0), place),
                  v128.store(to, f32x4.const(0), slopes + place),
                );
              }
            },
          );
          f.inc(to, TILE_ROWS * ROW_BYTES);
          f.inc(tileIndex, 1);
        });
      });
    };

    /** Adds a block of keys to dV, dK and dQ. */
    const gradients = (count: Address, rows: Address) => {
      const byKey = { row: ROW_BYTES, k: 4 };
      const byQuery = { row: 4, k: ROW_BYTES };
      const tiles = f.keep(i32.divU(i32.add(count, TILE_ROWS - 1), TILE_ROWS));
      const into = f.local("i32");
      f.for(keyTile, 0, tiles, 1, () => {
        const index = f.keep(i32.add(i32.mul(blockIndex, tilesPerBlock), keyTile));
        for (const [sumsFrom, panels, columnsAt, from] of [
          [dvAt, vPanels, doutColumnsAt, weightsAt],
          [sumsAt, qkPanels, queryColumnsAt, slopesAt],
        ] as const) {
          f.set(into, at(sumsFrom, index, panels * TILE_BYTES));
          f.for(column, 0, i32.const(panels), 1, () => {
            accumulate(
              into,
              at(from, keyTile, TILE_ROWS * ROW_BYTES),
              byKey,
              at(columnsAt, column, columnBytes),
              rows,
            );
            f.inc(into, TILE_BYTES);
          });
        }
      });
      const queryTiles = f.keep(i32.divU(i32.add(rows, TILE_ROWS - 1), TILE_ROWS));
      const queryTile = f.local("i32");
      f.set(into, at(dqAt));
      f.for(queryTile, 0, queryTiles, 1, () =>
        f.for(column, 0, i32.const(qkPanels), 1, () => {
          const columns = at(
            keyColumnsAt,
            i32.add(i32.mul(blockIndex, qkPanels), column),
            keyColumnBytes,
          );
          accumulate(into, at(slopesAt, queryTile, 4 * TILE_ROWS), byQuery, columns, count);
          f.inc(into, TILE_BYTES);
        }),
      );
    };

    f.for(task, args.begin, args.end, 1, () => {
      f.set(b, i32.divU(task, keyHeads));
      f.set(keyHead, i32.remU(task, keyHeads));
      const length = lengthOf(f, args, kernel, b);
      packKeys(length);
      f.do(memoryFill(at(sumsAt), 0, sumsBytes));
      // Query heads h with ⌊h · keyHeads / heads⌋ = keyHead.
      const firstHead = (kh: Value<"i32">) =>
        f.keep(i32.divU(i32.add(i32.mul(kh, heads), keyHeads - 1), keyHeads));
      const endHead = firstHead(i32.add(keyHead, 1));
      f.for(head, firstHead(keyHead), endHead, 1, () =>
        f.for(query, 0, i32.const(queries), QUERY_BLOCK, () => {
          const rows = f.keep(i32.sub(queries, query));
          f.if(i32.gtS(rows, QUERY_BLOCK), () => f.set(rows, QUERY_BLOCK));
          const most = packQueries(length, rows);
          f.do(memoryFill(at(dqAt), 0, QUERY_TILES * qkPanels * TILE_BYTES));
          f.set(key, 0);
          f.set(blockIndex, 0);
          f.while(i32.leS(key, most), () => {
            const count = f.keep(i32.sub(i32.add(most, 1), key));
            f.if(i32.gtS(count, block), () => f.set(count, block));
            weights(count);
            gradients(count, rows);
            f.inc(key, block);
            f.inc(blockIndex, 1);
          });
          const from = f.local("i32", at(dqAt));
          const left = f.local("i32", rows);
          const time = f.local("i32", query);
          f.while(i32.gtS(left, 0), () => {
            store(kernel.dq, { batch: b, time, head }, from, qkWidth, left);
            f.inc(from, qkPanels * TILE_BYTES);
            f.inc(left, -TILE_ROWS);
            f.inc(time, TILE_ROWS);
          });
        }),
      );
      for (const [view, start, panels, width] of [
        [kernel.dk, sumsAt, qkPanels, qkWidth],
        [kernel.dv, dvAt, vPanels, vWidth],
      ] as const) {
        const from = f.local("i32", at(start));
        const left = f.local("i32");
        const inBlock = f.local("i32");
        f.for(key, 0, i32.const(keys), block, () =>
          f.for(inBlock, 0, block, TILE_ROWS, () => {
            const time = f.keep(i32.add(key, inBlock));
            f.set(left, i32.sub(block, inBlock));
            f.if(i32.gtS(left, i32.sub(keys, time)), () => f.set(left, i32.sub(keys, time)));
            f.if(i32.gtS(left, 0), () =>
              store(view, { batch: b, time, head: keyHead }, from, width, left),
            );
            f.inc(from, panels * TILE_BYTES);
          }),
        );
      }
    });
  };

  if (batch === 0 || keyHeads === 0) return { phases: [] };
  const work = batch * heads * queries * keys * (3 * qkWidth + 2 * vWidth + 8);
  return {
    phases: [
      {
        tasks: batch * keyHeads,
        nanoseconds: work / (target.relaxedSimd ? 20 : 10) / (kernel.causal && queries > 1 ? 2 : 1),
        emit,
      },
    ],
    threadScratch: top,
  };
}
