/**
 * Products of a few rows with a matrix whose rows are contiguous. Like matmul-few.ts it is as fast as
 * the matrix is read, and packs nothing: each task goes down a stripe of columns, a few rows of the
 * matrix at a time, and keeps the sums of the stripe in the first-level cache.
 */
import type { MatmulKernel } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, f32x4, i32, i32x4, type Local, v128 } from "../asm.ts";
import { decode, encode, loadCode, storeCode } from "../convert.ts";
import type { KernelCode, PhaseArguments, Target } from "../kernel.ts";
import { transposed } from "./matmul-few.ts";
import { asF32, load4 } from "./matmul-pack.ts";
import { multiplyAdd } from "./matmul-tile.ts";
import { matrixAddress } from "./matmul-view.ts";

/** With more rows than this, tiles are faster. */
const FEW_ROWS = 4;
/** Columns and sums too few to be worth a stripe. */
const LEAST = 64;
/** A stripe's width: a page of f32 at most, and enough stripes for some threads. */
const MOST_COLUMNS = 1024;
const WANTED_STRIPES = 4;
/** Rows of the matrix between two visits to the sums. */
const STEP = 8;

/** Whether {@link wideRows} takes a kernel, as it is or transposed; undefined: it does not. */
export function asWideRows(kernel: MatmulKernel): MatmulKernel | undefined {
  return [kernel, transposed(kernel)].find(
    ({ m, n, k, a, b }) =>
      m <= FEW_ROWS &&
      n >= LEAST &&
      k >= LEAST &&
      a.dtype === "f32" &&
      b.col === 1 &&
      !a.scale &&
      !b.scale,
  );
}

export function wideRows(kernel: MatmulKernel, target: Target): KernelCode {
  const { batch, m, n, k, a, b, out, add } = kernel;
  const matrices = batch.reduce((x, y) => x * y, 1);
  if (m === 0 || matrices === 0) return { phases: [] };
  const size = dtypeBytes(b.dtype);
  const madd = multiplyAdd(target);
  const wanted = Math.ceil(n / WANTED_STRIPES);
  const width = Math.min(
    n - (n % 4),
    MOST_COLUMNS,
    Math.max(LEAST, wanted + 3 - ((wanted + 3) % 4)),
  );
  const stripes = Math.ceil(n / width);

  const emit = (f: Func, args: PhaseArguments) => {
    const task = f.local("i32");
    const x = f.local("i32");
    const weights = f.local("i32");
    const k0 = f.local("i32");
    const j = f.local("i32");
    const sums = args.threadScratch; // m rows of `width`

    f.for(task, args.begin, args.end, 1, () => {
      const matrix = f.keep(i32.divU(task, stripes));
      const own = f.keep(i32.mul(i32.remU(task, stripes), width));
      // The last stripe begins early, to be as wide as the others; it stores its own columns only.
      const first = f.local("i32", own);
      f.if(i32.gtS(first, n - width), () => f.set(first, n - width));
      f.set(x, matrixAddress(f, args, a, batch, matrix));
      f.set(weights, i32.add(matrixAddress(f, args, b, batch, matrix), i32.mul(first, size)));
      f.for(j, 0, i32.const(4 * m * width), 16, () =>
        f.do(v128.store(i32.add(sums, j), f32x4.const(0), 0)),
      );

      /** sums += a[:, k0 … k0+count) · b[k0 … k0+count) of the stripe. */
      const addRows = (count: number) => {
        const factors = Array.from({ length: m }, (_, i) =>
          Array.from({ length: count }, (_, step) =>
            f.keep(v128.load32Splat(i32.add(x, i32.const(4 * (i * a.row + step * a.col))))),
          ),
        );
        const rows = Array.from({ length: count }, (_, step) =>
          f.keep(i32.add(weights, i32.const(step * b.row * size))),
        );
        f.for(j, 0, i32.const(width), 4, () => {
          const at = f.keep(i32.add(sums, i32.shl(j, 2)));
          const totals = factors.map((_, i) => f.local("v128", v128.load(at, 4 * i * width)));
          const along = f.keep(i32.mul(j, size));
          for (const [step, row] of rows.entries()) {
            const weight = f.keep(load4(f, b.dtype, i32.add(row, along), 0));
            for (const [i, total] of totals.entries()) {
              f.set(total, madd(factors[i]?.[step] as Local<"v128">, weight, total));
            }
          }
          for (const [i, total] of totals.entries()) f.do(v128.store(at, total, 4 * i * width));
        });
        f.inc(x, 4 * a.col * count);
        f.inc(weights, b.row * size * count);
      };
      f.for(k0, 0, i32.const(k - (k % STEP)), STEP, () => addRows(STEP));
      if (k % STEP) addRows(k % STEP);

      const to = matrixAddress(f, args, out, batch, matrix);
      const added = add && matrixAddress(f, args, add, batch, matrix);
      const end = f.keep(i32.add(first, width));
      for (let i = 0; i < m; i++) {
        f.for(j, own, end, 1, () => {
          const at = (view: { row: number; col: number; dtype: typeof out.dtype }) =>
            i32.mul(i32.add(i32.mul(j, view.col), i32.const(i * view.row)), dtypeBytes(view.dtype));
          const sum = i32.add(sums, i32.shl(i32.sub(j, first), 2));
          let total = v128.load32Splat(sum, 4 * i * width);
          if (add && added) {
            const code = i32x4.splat(loadCode(add.dtype, i32.add(added, at(add))));
            total = f32x4.add(total, asF32(add.dtype, decode(f, add.dtype, code)));
          }
          f.do(storeCode(out.dtype, i32.add(to, at(out)), encode(f, out.dtype, total), 0));
        });
      }
    });
  };

  const bytes = matrices * n * k * size;
  const nanoseconds = Math.max(bytes / 12, matrices * n * k * m * 0.08);
  return {
    phases: [{ tasks: matrices * stripes, nanoseconds, emit }],
    threadScratch: 4 * m * width,
  };
}
