/**
 * Products over runs of rows, whose ends stand in device memory. Everything that depends on the runs
 * is found out by the tasks themselves; empty runs cost nothing but their zeros.
 */
import type { GroupedMatmulKernel, MatrixView } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, i32, type Local, memoryFill, type Value } from "../asm.ts";
import type { KernelCode, Phase, PhaseArguments, Target } from "../kernel.ts";
import { pack } from "./grouped-pack.ts";
import {
  COLUMNS,
  CUT,
  laneBytes,
  lanesOf,
  lyingColumns,
  multiplyLanes,
  panelOf,
  spillBytes,
} from "./matmul-lanes.ts";
import { sidedBySide, storeTile } from "./matmul-store.ts";
import { multiplyAdd, TILE_ROWS, tile, tileColumns, zeroSums } from "./matmul-tile.ts";

const WANTED_TASKS = 48;
/** Most columns of a task over rows, in cuts, and panels of one over groups. */
const MOST_CUTS = 2;
const CHUNK_PANELS = 8;
/** Tasks that share the packing of a run's rows. */
const PACKERS = 4;

const ceilDiv = (a: number, b: number) => Math.ceil(a / b);

export function groupedMatmul(kernel: GroupedMatmulKernel, target: Target): KernelCode {
  return kernel.form === "rows" ? overRows(kernel, target) : overGroups(kernel, target);
}

/** Rows first … last − 1 of a run. */
interface Run {
  readonly first: Local<"i32">;
  readonly last: Local<"i32">;
}

function runOf(
  f: Func,
  kernel: GroupedMatmulKernel,
  args: PhaseArguments,
  group: Value<"i32">,
): Run {
  const at = f.keep(i32.add(args.slot(kernel.offsets), i32.shl(group, 2)));
  return { first: f.keep(i32.load(at)), last: f.keep(i32.load(at, 4)) };
}

/** Address of a view's matrix for a group; of its scales. */
function ofGroup(
  f: Func,
  args: PhaseArguments,
  view: MatrixView,
  group: Value<"i32">,
): Local<"i32"> {
  const bytes = dtypeBytes(view.dtype);
  const start = i32.add(args.slot(view.slot), view.offset * bytes);
  return f.keep(i32.add(start, i32.mul(group, (view.batch[0] ?? 0) * bytes)));
}

/**
 * out[r] = a[r] · b[g(r)]. First the rows are packed, each run into panels of its own: run g starts
 * at panel ⌊offsets[g] / rows per panel⌋ + g, which leaves room for the part-filled ones before it.
 * Then a task multiplies a whole run with some columns of its group's matrix, which it packs first
 * unless they can be read as they lie.
 */
function overRows(kernel: GroupedMatmulKernel, target: Target): KernelCode {
  const { groups, rows, k, n, a, b, out } = kernel;
  const cuts = ceilDiv(n, CUT);
  const perTask = Math.max(1, Math.min(MOST_CUTS, Math.floor((cuts * groups) / WANTED_TASKS)));
  const taskCuts = ceilDiv(cuts, perTask);
  const lying = lyingColumns(b, n, target);
  const lanes = lanesOf(target);
  const panelBytes = laneBytes(k, target);
  const columnPanelBytes = COLUMNS * k * 4;
  const panelsAt = (f: Func, args: PhaseArguments, run: Run, group: Value<"i32">) => {
    const panel = i32.add(i32.divU(run.first, lanes), group);
    return f.keep(i32.add(args.sharedScratch(), i32.mul(panel, panelBytes)));
  };
  const packRows: Phase = {
    tasks: groups * PACKERS + 1,
    nanoseconds: 0.4 * rows * k,
    emit(f, args) {
      const task = f.local("i32");
      const zero = f.local("i32");
      f.for(task, args.begin, args.end, 1, () => {
        f.if(
          i32.eq(task, groups * PACKERS),
          () => zeroOutside(f, kernel, args),
          () => {
            const group = f.keep(i32.divU(task, PACKERS));
            const run = runOf(f, kernel, args, group);
            const matrix = f.keep(i32.add(args.slot(a.slot), a.offset * dtypeBytes(a.dtype)));
            const part = f.keep(i32.remU(task, PACKERS));
            const first = f.keep(i32.add(run.first, i32.mul(part, lanes)));
            const to = panelsAt(f, args, run, group);
            f.inc(to, i32.mul(part, panelBytes));
            f.while(i32.ltS(first, run.last), () => {
              panelOf(f, target, first, run.last, (width) =>
                pack(f, args, { view: a, by: "rows", lookup: kernel.aRows }, width, {
                  matrix,
                  group: i32.const(0),
                  first,
                  limit: run.last,
                  k: zero,
                  count: k,
                  to,
                }),
              );
              f.inc(first, PACKERS * lanes);
              f.inc(to, PACKERS * panelBytes);
            });
          },
        );
      });
    },
  };
  const multiply: Phase = {
    tasks: groups * taskCuts,
    nanoseconds: (rows * n * (k + 8)) / (target.relaxedSimd ? 25 : 12) + 0.4 * groups * k * n,
    emit(f, args) {
      const task = f.local("i32");
      f.for(task, args.begin, args.end, 1, () => {
        const group = f.keep(i32.divU(task, taskCuts));
        const run = runOf(f, kernel, args, group);
        f.if(i32.ltS(run.first, run.last), () => {
          const from = f.keep(i32.mul(i32.remU(task, taskCuts), CUT * perTask));
          const to = f.keep(i32.add(from, CUT * perTask));
          f.if(i32.gtS(to, n), () => f.set(to, n));
          const matrix = ofGroup(f, args, b, group);
          const columns = f.local("i32");
          if (lying) f.set(columns, i32.add(matrix, i32.mul(from, lying.apart)));
          else {
            const panels = f.keep(i32.add(args.threadScratch, spillBytes(target)));
            f.set(columns, panels);
            const first = f.local("i32");
            const zero = f.local("i32", 0);
            f.for(first, from, to, COLUMNS, () => {
              pack(f, args, { view: b, by: "columns" }, COLUMNS, {
                matrix,
                group,
                first,
                limit: i32.const(n),
                k: zero,
                count: k,
                to: panels,
              });
              f.inc(panels, columnPanelBytes);
            });
          }
          const start = i32.add(args.slot(out.slot), out.offset * dtypeBytes(out.dtype));
          multiplyLanes(f, target, {
            k,
            n,
            ...run,
            panels: panelsAt(f, args, run, group),
            from,
            to,
            columns,
            lying,
            out: { ...out, address: f.keep(start) },
            spill: args.threadScratch,
          });
        });
      });
    },
  };
  if (rows === 0 || n === 0) return { phases: [] };
  return {
    phases: [packRows, multiply],
    threadScratch:
      spillBytes(target) + (lying ? 0 : ((perTask * CUT) / COLUMNS) * columnPanelBytes),
    sharedScratch: (Math.floor(rows / lanes) + groups + 1) * panelBytes,
  };
}

/** Rows before the first run and after the last. */
function zeroOutside(
  f: Func,
  { offsets, groups, rows, out }: GroupedMatmulKernel,
  args: PhaseArguments,
): void {
  const bytes = out.row * dtypeBytes(out.dtype);
  const base = f.keep(i32.add(args.slot(out.slot), out.offset * dtypeBytes(out.dtype)));
  const begin = f.keep(i32.load(args.slot(offsets)));
  const end = f.keep(i32.load(args.slot(offsets), 4 * groups));
  f.do(memoryFill(base, 0, i32.mul(begin, bytes)));
  f.do(memoryFill(i32.add(base, i32.mul(end, bytes)), 0, i32.mul(i32.sub(rows, end), bytes)));
}

/**
 * out[g] = Σ over rows of run g of a[r] ⊗ b[r]. Rows are what is summed over, so panels are packed for
 * all rows at once, and a run is a stretch of every panel.
 */
function overGroups(kernel: GroupedMatmulKernel, target: Target): KernelCode {
  const { groups, rows, k: m, n, a, b, out } = kernel;
  const columns = tileColumns(target);
  const tileBytes = TILE_ROWS * columns * 4;
  const sides = [
    { view: a, by: "columns", lookup: kernel.aRows, width: TILE_ROWS, extent: m },
    { view: b, by: "columns", lookup: kernel.bRows, width: columns, extent: n },
  ] as const;
  const [heights, widths] = [ceilDiv(m, TILE_ROWS), ceilDiv(n, columns)];
  const panelBytes = (width: number) => rows * width * 4;
  const widthsAt = heights * panelBytes(TILE_ROWS);
  /** Rows to pack at a time. */
  const stretch = 512;
  const stretches = Math.max(1, ceilDiv(rows, stretch));
  const perTask = Math.max(
    1,
    Math.min(CHUNK_PANELS, Math.floor((heights * groups) / WANTED_TASKS)),
  );
  const taskRows = ceilDiv(heights, perTask);
  const packAll: Phase = {
    tasks: (heights + widths) * stretches,
    nanoseconds: 0.4 * rows * (m + n),
    emit(f, args) {
      const task = f.local("i32");
      const to = f.local("i32");
      f.for(task, args.begin, args.end, 1, () => {
        const panel = f.keep(i32.divU(task, stretches));
        const k = f.keep(i32.mul(i32.remU(task, stretches), stretch));
        const count = f.keep(i32.sub(rows, k));
        f.if(i32.gtS(count, stretch), () => f.set(count, stretch));
        const packSide = (side: (typeof sides)[number], start: number) => {
          const { view, width, extent } = side;
          const at = i32.add(i32.mul(panel, panelBytes(width)), i32.mul(k, width * 4));
          f.set(to, i32.add(i32.add(args.sharedScratch(), start), at));
          pack(f, args, side, width, {
            matrix: f.keep(i32.add(args.slot(view.slot), view.offset * dtypeBytes(view.dtype))),
            group: i32.const(0),
            first: f.keep(i32.mul(panel, width)),
            limit: i32.const(extent),
            k,
            count,
            to,
          });
        };
        f.if(
          i32.ltS(panel, heights),
          () => packSide(sides[0], 0),
          () => {
            f.inc(panel, -heights);
            packSide(sides[1], widthsAt);
          },
        );
      });
    },
  };
  const multiply: Phase = {
    tasks: groups * taskRows,
    nanoseconds: (rows * m * n) / (target.relaxedSimd ? 25 : 12) + groups * m * n,
    emit(f, args) {
      const sums = Array.from({ length: tileBytes / 16 }, () => f.local("v128"));
      const task = f.local("i32");
      const height = f.local("i32");
      const width = f.local("i32");
      const x = f.local("i32");
      const y = f.local("i32");
      f.for(task, args.begin, args.end, 1, () => {
        const group = f.keep(i32.divU(task, taskRows));
        const run = runOf(f, kernel, args, group);
        const length = f.keep(i32.sub(run.last, run.first));
        const first = f.keep(i32.mul(i32.remU(task, taskRows), perTask));
        const last = f.keep(i32.add(first, perTask));
        f.if(i32.gtS(last, heights), () => f.set(last, heights));
        const base = f.keep(args.sharedScratch());
        const matrix = ofGroup(f, args, out, group);
        f.for(width, 0, widths, 1, () =>
          f.for(height, first, last, 1, () => {
            const stepA = i32.mul(run.first, TILE_ROWS * 4);
            const stepB = i32.add(i32.mul(run.first, columns * 4), widthsAt);
            f.set(x, i32.add(base, i32.add(i32.mul(height, panelBytes(TILE_ROWS)), stepA)));
            f.set(y, i32.add(base, i32.add(i32.mul(width, panelBytes(columns)), stepB)));
            zeroSums(f, sums);
            tile(f, {
              rows: TILE_ROWS,
              vectors: columns / 4,
              count: length,
              a: { pointers: [x], row: 4, k: 4 * TILE_ROWS },
              b: { pointer: y, k: 4 * columns },
              sums,
              multiplyAdd: multiplyAdd(target),
            });
            sidedBySide(f, target, sums, args.threadScratch);
            const row = f.keep(i32.mul(height, TILE_ROWS));
            const column = f.keep(i32.mul(width, columns));
            const place = i32.add(i32.mul(row, out.row), column);
            storeTile(f, {
              rows: TILE_ROWS,
              columns,
              sums,
              sumType: "f32",
              out: {
                ...out,
                address: f.keep(i32.add(matrix, i32.mul(place, dtypeBytes(out.dtype)))),
              },
              ...(m % TILE_ROWS && { rowsLeft: f.keep(i32.sub(m, row)) }),
              ...(n % columns && { columnsLeft: f.keep(i32.sub(n, column)) }),
              spill: args.threadScratch,
            });
          }),
        );
      });
    },
  };
  if (groups === 0 || m === 0 || n === 0) return { phases: [] };
  return {
    phases: [packAll, multiply],
    threadScratch: tileBytes,
    sharedScratch: widthsAt + widths * panelBytes(columns),
  };
}
