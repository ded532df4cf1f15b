/**
 * Products of a few rows with a large matrix whose columns are contiguous (weights stored [out, in]):
 * what decoding does. Such a product is as fast as the matrix is read, so nothing is packed: each task
 * streams a few columns of it once, and takes their dot products with all the rows.
 */
import type { MatmulKernel, MatrixView } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, f32x4, i32, i32x4, type Local, type Value, v128 } from "../asm.ts";
import { decode, encode, loadCode, storeCode } from "../convert.ts";
import type { KernelCode, PhaseArguments, Target } from "../kernel.ts";
import { asF32, load4, pick } from "./matmul-pack.ts";
import { prepareRow, QUICK_READERS, type QuickReader, ROW, rowBytes } from "./matmul-quick.ts";
import { multiplyAdd } from "./matmul-tile.ts";
import { matrixAddress, scalesAddress } from "./matmul-view.ts";

type V = Value<"v128">;

/** With more rows than this, tiles are faster than dot products. */
const FEW_ROWS = 4;
/** Steps of k written out in the loop, for weights without a quick reader. */
const STEP = 8;
/** Columns that a task takes at once, by the number of rows: as many sums as there are registers for. */
const COLUMNS = [8, 4, 2, 2];

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

/** The quick reader of the weights, where they have one and their scales hold for whole chunks. */
function quickReader({ b, k }: MatmulKernel): QuickReader | undefined {
  const reader = QUICK_READERS[b.dtype];
  const along = b.scale?.block[0] ?? 0;
  if (!reader) return undefined;
  if (k < reader.chunk || along % reader.chunk !== 0) return undefined;
  // Spans of partial sums must not cross from one scale to the next.
  return along <= reader.span || along % reader.span === 0 ? reader : undefined;
}

/** outᵀ = bᵀ aᵀ */
export function transposed(kernel: MatmulKernel): MatmulKernel {
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

/** How weights are read: a few elements at a time, into partial sums. */
interface Reader {
  readonly step: number;
  readonly parts: number;
  readonly span: number;
  readonly quick?: QuickReader;
}

export function fewRows(kernel: MatmulKernel, target: Target): KernelCode {
  const { batch, m, n, k, a, b, out, add } = kernel;
  const matrices = batch.reduce((x, y) => x * y, 1);
  if (m === 0 || n === 0 || matrices === 0) return { phases: [] };
  const exact: Reader = { step: STEP, parts: 1, span: Number.POSITIVE_INFINITY };
  const quick = quickReader(kernel);
  const columns = Math.min(n, COLUMNS[m - 1] as number, quick?.columns ?? n);
  const groups = Math.ceil(n / columns);
  const size = dtypeBytes(b.dtype);
  const madd = multiplyAdd(target);
  const step = quick?.chunk ?? STEP;
  const quickSteps = k - (k % step);
  const prepared = quick ? rowBytes(quickSteps) : 0;

  const prepare = (f: Func, args: PhaseArguments) => {
    const task = f.local("i32");
    f.for(task, args.begin, args.end, 1, () => {
      const matrix = f.keep(i32.divU(task, m));
      const row = matrixAddress(f, args, a, batch, matrix);
      f.inc(row, i32.mul(i32.remU(task, m), 4 * a.row));
      const to = f.keep(i32.add(args.sharedScratch(), i32.mul(task, prepared)));
      prepareRow(f, quick as QuickReader, row, to, quickSteps);
    });
  };

  const emit = (f: Func, args: PhaseArguments) => {
    const task = f.local("i32");
    const sums = Array.from({ length: m * columns }, () => f.local("v128"));
    const partCount = quick?.parts ?? 1;
    const parts = sums.map(() => Array.from({ length: partCount }, () => f.local("v128")));
    const largest = f.local("v128");
    const x = f.local("i32");
    const end = f.local("i32");
    const weights = Array.from({ length: columns }, () => f.local("i32"));
    f.for(task, args.begin, args.end, 1, () => {
      const matrix = f.keep(i32.divU(task, groups));
      const first = f.keep(i32.mul(i32.remU(task, groups), columns));
      const base = matrixAddress(f, args, b, batch, matrix);
      const rows = matrixAddress(f, args, a, batch, matrix);
      const quickRows =
        quick && f.keep(i32.add(args.sharedScratch(), i32.mul(matrix, m * prepared)));
      // Past the last column: the last one once more, which is not stored.
      const place = weights.map((_, c) => {
        const own = f.keep(i32.add(first, c));
        if (n % columns) f.if(i32.geS(own, n), () => f.set(own, n - 1));
        return own;
      });
      const scales = scalesAddress(f, args, b, batch, matrix);

      /** Where the scales of a column begin. */
      const scaleColumns = place.map((own) => {
        if (!b.scale || !scales) return undefined;
        const column = i32.mul(i32.divU(own, b.scale.block[1]), 4 * b.scale.col);
        return f.keep(i32.add(scales, column));
      });
      /** Scale of column `c` at a step of k, for four lanes. */
      const scaleAt = (c: number, step: Value<"i32">): V | undefined => {
        const column = scaleColumns[c];
        if (!b.scale || !column) return undefined;
        const { block, row } = b.scale;
        return v128.load32Splat(i32.add(column, i32.mul(i32.divU(step, block[0]), 4 * row)));
      };

      /** Sums over all whole chunks. */
      const sumUp = (reader: Reader) => {
        const whole = k - (k % reader.step);
        const span = Math.min(whole, reader.span, b.scale?.block[0] ?? whole);
        place.forEach((own, c) => {
          f.set(weights[c] as Local<"i32">, i32.add(base, i32.mul(own, b.col * size)));
        });
        f.set(x, reader.quick && quickRows ? i32.add(quickRows, ROW.numbers) : rows);
        for (const sum of sums) f.set(sum, f32x4.const(0));
        const start = f.local("i32");
        if (whole > 0) {
          f.for(start, 0, i32.const(whole), span, () => {
            const count = f.keep(i32.sub(whole, start));
            f.if(i32.gtS(count, span), () => f.set(count, span));
            const own = parts.map((p) => p.slice(0, reader.parts));
            for (const part of own.flat()) f.set(part, f32x4.const(0));
            f.set(end, i32.add(x, i32.shl(count, 2)));
            f.while(i32.ne(x, end), () => {
              if (reader.quick) addQuick(reader.quick, own);
              else addExact(own.map(([part]) => part as Local<"v128">));
              f.inc(x, 4 * reader.step);
              for (const pointer of weights) f.inc(pointer, reader.step * size);
            });
            for (let c = 0; c < columns; c++) {
              const loaded = scaleAt(c, start);
              const scale = loaded && f.keep(loaded);
              for (let i = 0; i < m; i++) {
                const sum = sums[i * columns + c] as Local<"v128">;
                const mine = own[i * columns + c] as readonly Local<"v128">[];
                const total = reader.quick ? reader.quick.total(mine) : (mine[0] as V);
                f.set(sum, scale ? madd(total, scale, sum) : f32x4.add(sum, total));
              }
            }
          });
        }
        if (reader.quick && quickRows) {
          for (let i = 0; i < m; i++) {
            const factor = f.keep(v128.load32Splat(quickRows, i * prepared + ROW.factor));
            for (const sum of sums.slice(i * columns, (i + 1) * columns)) {
              f.set(sum, f32x4.mul(sum, factor));
            }
          }
          f.set(x, i32.add(rows, i32.const(4 * whole)));
        }
        if (k > whole) addRest(k - whole);
      };

      const addQuick = (reader: QuickReader, into: readonly (readonly Local<"v128">[])[]) => {
        const streams = weights.map((pointer) => reader.weights(f, pointer, largest));
        for (let v = 0; v < reader.chunk / 4; v += reader.parts) {
          const numbers = Array.from({ length: m }, (_, i) =>
            Array.from({ length: reader.parts }, (_, p) => {
              const vector = v128.load(x, i * prepared + 16 * (v + p));
              return columns > 1 ? f.keep(vector) : vector;
            }),
          );
          for (const [c, stream] of streams.entries()) {
            const weight = f.keep(stream.next().value as V);
            for (const [i, row] of numbers.entries()) {
              const own = into[i * columns + c] as readonly Local<"v128">[];
              const [sum] = own as readonly [Local<"v128">];
              if (reader.add) reader.add(f, weight, row, own);
              else f.set(sum, madd(row[0] as V, weight, sum));
            }
          }
        }
      };

      const addExact = (into: readonly Local<"v128">[]) => {
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
      };

      /** The last `count` steps, which do not fill a chunk, one by one. */
      const addRest = (count: number) => {
        f.set(end, i32.add(x, i32.const(4 * count)));
        const lane0 = i32x4.const(-1, 0, 0, 0);
        const scale = weights.map((_, c) => {
          const loaded = scaleAt(c, i32.const(k - 1));
          return loaded && f.keep(loaded);
        });
        f.while(i32.ne(x, end), () => {
          for (const [c, pointer] of weights.entries()) {
            const code = i32x4.splat(loadCode(b.dtype, pointer));
            const number = asF32(b.dtype, decode(f, b.dtype, code));
            const own = scale[c];
            const weight = f.keep(v128.and(own ? f32x4.mul(number, own) : number, lane0));
            for (let i = 0; i < m; i++) {
              const number = v128.load32Zero(i32.add(x, i32.const(4 * i * a.row)));
              const sum = sums[i * columns + c] as Local<"v128">;
              f.set(sum, madd(number, weight, sum));
            }
            f.inc(pointer, size);
          }
          f.inc(x, 4);
        });
      };

      if (quick && quickRows) {
        f.set(largest, f32x4.const(0));
        sumUp({ ...quick, step, quick });
        let unusable: Value<"i32"> | undefined;
        if (quick.unusable) unusable = v128.anyTrue(quick.unusable(largest));
        else if (quick.parts > 1) {
          unusable = Array.from({ length: m }, (_, i) =>
            i32.load(quickRows, i * prepared + ROW.unusable),
          ).reduce((p: Value<"i32">, q) => i32.or(p, q));
        }
        if (unusable) f.if(unusable, () => sumUp(exact));
      } else sumUp(exact);
      store(f, args, sums, matrix, first);
    });
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
  const multiply = {
    tasks: matrices * groups,
    nanoseconds: Math.max(bytes / 25, matrices * n * k * m * 0.08),
    emit,
  };
  if (!quick) return { phases: [multiply] };
  const preparation = { tasks: matrices * m, nanoseconds: 0.4 * matrices * m * k, emit: prepare };
  return { phases: [preparation, multiply], sharedScratch: matrices * m * prepared };
}
