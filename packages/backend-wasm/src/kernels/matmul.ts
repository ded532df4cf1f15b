/**
 * Matrix products. The smaller operand is packed once, by all threads, into shared scratch memory;
 * then every task packs a block of the larger one into its own, and multiplies it with all of the
 * smaller one: nothing is packed twice. Long sums are cut into blocks of k that fit the first-level
 * cache; the cuts depend on the shape alone.
 */
import type { MatmulKernel } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, i32, type Local, type Value, v128 } from "../asm.ts";
import type { KernelCode, Phase, PhaseArguments, Target } from "../kernel.ts";
import { asFewRows, fewRows } from "./matmul-few.ts";
import { asLaneRows, laneRows } from "./matmul-lanes.ts";
import { columnPanels, type PanelView, packPairs, packPanel, rowPanels } from "./matmul-pack.ts";
import { sidedBySide, storeTile } from "./matmul-store.ts";
import {
  multiplyAdd,
  multiplyAddPairs,
  TILE_ROWS,
  tile,
  tileColumns,
  zeroSums,
} from "./matmul-tile.ts";
import { isShared, matrixAddress, scalesAddress } from "./matmul-view.ts";
import { asWideRows, wideRows } from "./matmul-wide.ts";

/** Longest run of k between two visits to the sums: panels of A and B together fit 32 KiB. */
const K_BLOCK = 320;
/** Panels of the larger operand in a task's block. */
const BLOCK_PANELS = 8;
/** Enough tasks for all threads to end at about the same time. */
const WANTED_TASKS = 24;

const ceilDiv = (a: number, b: number) => Math.ceil(a / b);

/** One operand cut into panels. */
interface Side {
  readonly name: "a" | "b";
  readonly view: PanelView;
  /** Rows of A or columns of B, in all and in a panel. */
  readonly extent: number;
  readonly width: number;
  readonly panels: number;
}

export function matmul(kernel: MatmulKernel, target: Target): KernelCode {
  const { m, n, k, a, b, batch } = kernel;
  const few = asFewRows(kernel);
  if (few) return fewRows(few, target);
  const wide = asWideRows(kernel);
  if (wide) return wideRows(wide, target);
  if (asLaneRows(kernel, target)) return laneRows(kernel, target);
  const columns = tileColumns(target);
  const tileBytes = TILE_ROWS * columns * 4;
  const integers = a.dtype === "i8" && b.dtype === "i8" && !a.scale && !b.scale;
  const sides: Record<"a" | "b", Side> = {
    a: {
      name: "a",
      view: rowPanels(a),
      extent: m,
      width: TILE_ROWS,
      panels: ceilDiv(m, TILE_ROWS),
    },
    b: {
      name: "b",
      view: columnPanels(b),
      extent: n,
      width: columns,
      panels: ceilDiv(n, columns),
    },
  };
  // An operand that a whole batch shares is worth packing once, whatever its size.
  const sharedB = isShared(b, batch) === isShared(a, batch) ? n <= m : isShared(b, batch);
  const [shared, own] = sharedB ? [sides.b, sides.a] : [sides.a, sides.b];
  const matrices = batch.reduce((x, y) => x * y, 1);
  const packedMatrices = isShared(kernel[shared.name], batch) ? Math.min(1, matrices) : matrices;

  /** Packed steps of k (pairs of them for integers), in blocks of equal length but the last. */
  const steps = integers ? ceilDiv(k, 2) : k;
  const blocks = Math.max(1, ceilDiv(steps, K_BLOCK));
  const blockSteps = Math.min(steps, ceilDiv(ceilDiv(steps, blocks), 8) * 8);
  const panelBytes = (side: Side) => steps * side.width * 4;
  const ownBlockBytes = blockSteps * own.width * 4;
  const perBlock = Math.max(
    1,
    Math.min(BLOCK_PANELS, own.panels, Math.floor((own.panels * matrices) / WANTED_TASKS)),
  );
  const taskBlocks = ceilDiv(own.panels, perBlock);
  const sumsBytes = blocks > 1 ? perBlock * shared.panels * tileBytes : 0;
  const sumsAt = tileBytes;
  const ownAt = sumsAt + sumsBytes;

  /** Packs `count` steps of panel `panel` of a side, from step `k0`. */
  const pack = (
    f: Func,
    args: PhaseArguments,
    side: Side,
    job: {
      matrix: Local<"i32">;
      panel: Value<"i32">;
      k0: Local<"i32"> | number;
      count: Local<"i32"> | number;
      to: Local<"i32">;
    },
  ) => {
    const view = kernel[side.name];
    const first = f.keep(i32.mul(job.panel, side.width));
    const k0 = f.local(
      "i32",
      integers ? i32.shl(typeof job.k0 === "number" ? i32.const(job.k0) : job.k0, 1) : job.k0,
    );
    const bytes = dtypeBytes(view.dtype);
    const from = matrixAddress(f, args, view, batch, job.matrix);
    f.inc(
      from,
      i32.mul(i32.add(i32.mul(first, side.view.across), i32.mul(k0, side.view.along)), bytes),
    );
    const valid = f.keep(i32.sub(side.extent, first));
    f.if(i32.gtS(valid, side.width), () => f.set(valid, side.width));
    if (integers) {
      // Elements of k in this range: two for a pair, but perhaps one for the last.
      const count = f.local("i32", i32.sub(k, k0));
      const most = f.local(
        "i32",
        i32.shl(typeof job.count === "number" ? i32.const(job.count) : job.count, 1),
      );
      f.if(i32.gtS(count, most), () => f.set(count, most));
      packPairs(f, side.view, { ...side, valid, from, to: job.to, count });
    } else {
      const base = scalesAddress(f, args, view, batch, job.matrix);
      const scales = base && { base, first, k: k0 };
      packPanel(f, side.view, {
        width: side.width,
        valid,
        from,
        to: job.to,
        count: job.count,
        ...(scales && { scales }),
      });
    }
  };

  const packShared: Phase = {
    tasks: packedMatrices * shared.panels,
    nanoseconds: 0.4 * packedMatrices * shared.panels * shared.width * k,
    emit(f, args) {
      const task = f.local("i32");
      const to = f.local("i32");
      f.for(task, args.begin, args.end, 1, () => {
        const matrix = f.keep(i32.divU(task, Math.max(1, shared.panels)));
        const panel = f.keep(i32.remU(task, Math.max(1, shared.panels)));
        f.set(to, i32.add(args.sharedScratch(), i32.mul(task, panelBytes(shared))));
        pack(f, args, shared, { matrix, panel, k0: 0, count: steps, to });
      });
    },
  };

  const multiply: Phase = {
    tasks: matrices * taskBlocks,
    nanoseconds: (matrices * m * n * (k + 8)) / (target.relaxedSimd ? 25 : 12),
    emit(f, args) {
      const sums = Array.from({ length: tileBytes / 16 }, () => f.local("v128"));
      const task = f.local("i32");
      const kBlock = f.local("i32");
      const sharedPanel = f.local("i32");
      const ownPanel = f.local("i32");
      const to = f.local("i32");
      const pointers = { a: f.local("i32"), b: f.local("i32") };
      f.for(task, args.begin, args.end, 1, () => {
        const matrix = f.keep(i32.divU(task, taskBlocks));
        const firstPanel = f.keep(i32.mul(i32.remU(task, taskBlocks), perBlock));
        const panels = f.keep(i32.sub(own.panels, firstPanel));
        f.if(i32.gtS(panels, perBlock), () => f.set(panels, perBlock));
        const sharedBase = f.keep(args.sharedScratch());
        if (packedMatrices > 1)
          f.inc(sharedBase, i32.mul(matrix, shared.panels * panelBytes(shared)));
        const out = matrixAddress(f, args, kernel.out, batch, matrix);
        const add = kernel.add && matrixAddress(f, args, kernel.add, batch, matrix);
        const k0 = f.local("i32");
        const count = f.local("i32");
        f.for(kBlock, 0, i32.const(blocks), 1, () => {
          f.set(k0, i32.mul(kBlock, blockSteps));
          f.set(count, i32.sub(steps, k0));
          f.if(i32.gtS(count, blockSteps), () => f.set(count, blockSteps));
          f.for(ownPanel, 0, panels, 1, () => {
            f.set(
              to,
              i32.add(i32.add(args.threadScratch, ownAt), i32.mul(ownPanel, ownBlockBytes)),
            );
            pack(f, args, own, { matrix, panel: i32.add(firstPanel, ownPanel), k0, count, to });
          });
          f.for(sharedPanel, 0, i32.const(shared.panels), 1, () =>
            f.for(ownPanel, 0, panels, 1, () => {
              f.set(
                pointers[shared.name],
                i32.add(
                  sharedBase,
                  i32.add(i32.mul(sharedPanel, panelBytes(shared)), i32.mul(k0, shared.width * 4)),
                ),
              );
              f.set(
                pointers[own.name],
                i32.add(i32.add(args.threadScratch, ownAt), i32.mul(ownPanel, ownBlockBytes)),
              );
              const kept = f.keep(
                i32.add(
                  i32.add(args.threadScratch, sumsAt),
                  i32.mul(i32.add(i32.mul(sharedPanel, perBlock), ownPanel), tileBytes),
                ),
              );
              if (blocks === 1) zeroSums(f, sums);
              else {
                f.if(
                  kBlock,
                  () => {
                    for (const [i, sum] of sums.entries()) f.set(sum, v128.load(kept, 16 * i));
                  },
                  () => zeroSums(f, sums),
                );
              }
              tile(f, {
                rows: TILE_ROWS,
                vectors: columns / 4,
                count: blocks === 1 ? steps : count,
                a: { pointers: [pointers.a], row: 4, k: 4 * TILE_ROWS },
                b: { pointer: pointers.b, k: 4 * columns },
                sums,
                multiplyAdd: integers ? multiplyAddPairs : multiplyAdd(target),
              });
              const finish = () => {
                sidedBySide(f, target, sums, args.threadScratch);
                const ownPlace = i32.add(firstPanel, ownPanel);
                const rowPanel = own.name === "a" ? ownPlace : sharedPanel;
                const columnPanel = own.name === "a" ? sharedPanel : ownPlace;
                const row = f.keep(i32.mul(rowPanel, TILE_ROWS));
                const column = f.keep(i32.mul(columnPanel, columns));
                const place = (base: Local<"i32">, v: MatmulKernel["out"]) =>
                  f.keep(
                    i32.add(
                      base,
                      i32.mul(
                        i32.add(i32.mul(row, v.row), i32.mul(column, v.col)),
                        dtypeBytes(v.dtype),
                      ),
                    ),
                  );
                storeTile(f, {
                  rows: TILE_ROWS,
                  columns,
                  sums,
                  sumType: integers ? "i32" : "f32",
                  out: { ...kernel.out, address: place(out, { ...kernel.out, col: 1 }) },
                  ...(kernel.add &&
                    add && { add: { ...kernel.add, address: place(add, kernel.add) } }),
                  ...(m % TILE_ROWS && { rowsLeft: f.keep(i32.sub(m, row)) }),
                  ...(n % columns && { columnsLeft: f.keep(i32.sub(n, column)) }),
                  spill: args.threadScratch,
                });
              };
              if (blocks === 1) finish();
              else {
                f.if(i32.eq(kBlock, blocks - 1), finish, () => {
                  for (const [i, sum] of sums.entries()) f.do(v128.store(kept, sum, 16 * i));
                });
              }
            }),
          );
        });
      });
    },
  };
  if (m === 0 || n === 0 || matrices === 0) return { phases: [] };
  return {
    phases: [packShared, multiply],
    threadScratch: ownAt + perBlock * ownBlockBytes,
    sharedScratch: packedMatrices * shared.panels * panelBytes(shared),
  };
}
