/**
 * Products of a few rows with a large matrix whose columns are contiguous (weights stored [out, in]):
 * what decoding does. Such a product is as fast as the matrix is read, so nothing is packed: each task
 * streams a few columns of it once, and takes their dot products with all the rows.
 */
import type { MatmulKernel, MatrixView } from "@dsv3/tensor";
import { dtypeBytes, isFloat } from "@dsv3/tensor/dtype";
import { type Func, f32x4, i32, i32x4, type Local, type Value, v128 } from "../asm.ts";
import { decode, encode, loadCode, storeCode } from "../convert.ts";
import type { KernelCode, PhaseArguments, Target } from "../kernel.ts";
import { asF32, load4, pick } from "./matmul-pack.ts";
import { multiplyAdd } from "./matmul-tile.ts";
import { matrixAddress, scalesAddress } from "./matmul-view.ts";

type V = Value<"v128">;

/** With more rows than this, tiles are faster than dot products. */
const FEW_ROWS = 4;
/** Steps of k written out in the loop. */
const STEP = 8;

/** Whether {@link fewRows} takes a kernel, as it is or transposed; undefined: it does not. */
export function asFewRows(kernel: MatmulKernel): MatmulKernel | undefined {
  return [kernel, transposed(kernel)].find(({ m, a, b }) => {
    const along = b.scale?.block[0] ?? STEP;
    return (
      m <= FEW_ROWS &&
      a.dtype === "f32" &&
      !a.scale &&
      a.col === 1 &&
      b.row === 1 &&
      along % STEP === 0
    );
  });
}

/** outᵀ = bᵀ aᵀ */
function transposed(kernel: MatmulKernel): MatmulKernel {
  const flip = (view: MatrixView): MatrixView => {
    const { scale: s } = view;
    const scale = s && { ...s, block: [s.block[1], s.block[0]] as const, row: s.col, col: s.row };
    return { ...view, row: view.col, col: view.row, ...(scale && { scale }) };
  };
  const { m, n, a, b, out, add } = kernel;
  return {
    ...kernel,
    m: n,
    n: m,
    a: flip(b),
    b: flip(a),
    out: flip(out),
    ...(add && { add: flip(add) }),
  };
}

export function fewRows(kernel: MatmulKernel, target: Target): KernelCode {
  const { batch, m, n, k, a, b, out, add } = kernel;
  const matrices = batch.reduce((x, y) => x * y, 1);
  if (m === 0 || n === 0 || matrices === 0) return { phases: [] };
  const columns = Math.min(n, m === 1 ? 8 : m <= 3 ? 4 : 2);
  const groups = Math.ceil(n / columns);
  const size = dtypeBytes(b.dtype);
  const madd = multiplyAdd(target);
  const whole = k - (k % STEP);

  const emit = (f: Func, args: PhaseArguments) => {
    const task = f.local("i32");
    const sums = Array.from({ length: m * columns }, () => f.local("v128"));
    const x = f.local("i32");
    const end = f.local("i32");
    const weights = Array.from({ length: columns }, () => f.local("i32"));
    f.for(task, args.begin, args.end, 1, () => {
      const matrix = f.keep(i32.divU(task, groups));
      const first = f.keep(i32.mul(i32.remU(task, groups), columns));
      const base = matrixAddress(f, args, b, batch, matrix);
      const rows = matrixAddress(f, args, a, batch, matrix);
      // Past the last column: the last one once more, which is not stored.
      const place = weights.map((_, c) => {
        const own = f.keep(i32.add(first, c));
        if (n % columns) f.if(i32.geS(own, n), () => f.set(own, n - 1));
        return own;
      });
      place.forEach((own, c) => {
        f.set(weights[c] as Local<"i32">, i32.add(base, i32.mul(own, b.col * size)));
      });
      f.set(x, rows);
      const scales = scalesAddress(f, args, b, batch, matrix);
      for (const sum of sums) f.set(sum, f32x4.const(0));
      if (b.scale && scales) {
        const { block, row, col } = b.scale;
        const parts = sums.map(() => f.local("v128"));
        const start = f.local("i32");
        const blockIndex = f.local("i32", 0);
        f.for(start, 0, i32.const(k), block[0], () => {
          const count = f.keep(i32.sub(k, start));
          f.if(i32.gtS(count, block[0]), () => f.set(count, block[0]));
          for (const part of parts) f.set(part, f32x4.const(0));
          stream(f, parts, i32.and(count, -STEP), i32.and(count, STEP - 1));
          for (const [c, own] of place.entries()) {
            const element = i32.add(
              i32.mul(blockIndex, row),
              i32.mul(i32.divU(own, block[1]), col),
            );
            const scale = f.keep(v128.load32Splat(i32.add(scales, i32.shl(element, 2))));
            for (let i = 0; i < m; i++) {
              const sum = sums[i * columns + c] as Local<"v128">;
              f.set(sum, madd(parts[i * columns + c] as V, scale, sum));
            }
          }
          f.inc(blockIndex, 1);
        });
      } else {
        stream(f, sums, i32.const(whole), k > whole ? i32.const(k - whole) : undefined);
      }
      store(f, args, sums, matrix, first);
    });

    /** Adds `count` steps, by eights, then `rest` < 8 single ones. */
    function stream(
      f: Func,
      into: readonly Local<"v128">[],
      count: Value<"i32">,
      rest?: Value<"i32">,
    ) {
      f.set(end, i32.add(x, i32.shl(count, 2)));
      f.while(i32.ne(x, end), () => {
        for (let u = 0; u < STEP; u += 4) {
          const numbers = Array.from({ length: m }, (_, i) =>
            f.keep(v128.load(i32.add(x, i32.const(4 * i * a.row)), 4 * u)),
          );
          for (const [c, pointer] of weights.entries()) {
            const weight = f.keep(load4(f, b.dtype, pointer, u * size));
            for (const [i, number] of numbers.entries()) {
              const sum = into[i * columns + c] as Local<"v128">;
              f.set(sum, madd(number, weight, sum));
            }
          }
        }
        f.inc(x, 4 * STEP);
        for (const pointer of weights) f.inc(pointer, STEP * size);
      });
      if (!rest) return;
      f.set(end, i32.add(x, i32.shl(rest, 2)));
      const lane0 = i32x4.const(-1, 0, 0, 0);
      f.while(i32.ne(x, end), () => {
        for (const [c, pointer] of weights.entries()) {
          const code = i32x4.splat(loadCode(b.dtype, pointer));
          const weight = f.keep(v128.and(asF32(b.dtype, decode(f, b.dtype, code)), lane0));
          for (let i = 0; i < m; i++) {
            const number = v128.load32Zero(i32.add(x, i32.const(4 * i * a.row)));
            const sum = into[i * columns + c] as Local<"v128">;
            f.set(sum, madd(number, weight, sum));
          }
          f.inc(pointer, size);
        }
        f.inc(x, 4);
      });
    }
  };

  /** Adds up lanes and writes. */
  const store = (
    f: Func,
    args: PhaseArguments,
    sums: readonly Local<"v128">[],
    matrix: Local<"i32">,
    first: Local<"i32">,
  ) => {
    const at = (base: Local<"i32">, view: MatrixView, i: number, column: Value<"i32">) =>
      i32.add(
        base,
        i32.mul(
          i32.add(i32.mul(column, view.col), i32.const(i * view.row)),
          dtypeBytes(view.dtype),
        ),
      );
    const to = matrixAddress(f, args, out, batch, matrix);
    const added = add && matrixAddress(f, args, add, batch, matrix);
    for (let c = 0; c < columns; c++) {
      const column = f.keep(i32.add(first, c));
      const write = () => {
        for (let i = 0; i < m; i++) {
          const sum = sums[i * columns + c] as Local<"v128">;
          const half = f.keep(f32x4.add(sum, pick(sum, sum, 2, 3, 0, 1)));
          let total: V = f32x4.add(half, pick(half, half, 1, 0, 3, 2));
          if (add && added) {
            const code = i32x4.splat(loadCode(add.dtype, at(added, add, i, column)));
            total = f32x4.add(total, asF32(add.dtype, decode(f, add.dtype, code)));
          }
          f.do(storeCode(out.dtype, at(to, out, i, column), encode(f, out.dtype, total), 0));
        }
      };
      if (n % columns) f.if(i32.ltS(column, n), write);
      else write();
    }
  };

  const bytes = matrices * n * k * size;
  const perNumber = isFloat(b.dtype) && size >= 2 ? 0.1 : 0.2;
  return {
    phases: [
      {
        tasks: matrices * groups,
        nanoseconds: Math.max(bytes / 25, matrices * n * k * m * perNumber),
        emit,
      },
    ],
  };
}
