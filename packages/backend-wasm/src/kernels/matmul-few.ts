/**
 * Products of a few rows with a large matrix whose columns are contiguous (weights stored [out, in]):
 * what decoding does. Such a product is as fast as the matrix is read, so nothing is packed: each task
 * reads a run of columns once, in a few streams that go on from task to task, which is what
 * prefetching is good at, and takes their dot products with all the rows.
 */
import type { MatmulKernel, MatrixView } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, f32x4, i32, i32x4, type Local, type Value, v128 } from "../asm.ts";
import { decode, encode, loadCode, storeCode } from "../convert.ts";
import type { KernelCode, PhaseArguments, Target } from "../kernel.ts";
import { SpanSums } from "./matmul-few-integers.ts";
import { asF32, load4, pick } from "./matmul-pack.ts";
import { FACTORS, type PreparedRow, preparedRow, prepareRow, UNUSABLE } from "./matmul-quick.ts";
import { type Reading, readerOf, reading, SUMS, VECTOR } from "./matmul-reading.ts";
import { sidedBySide } from "./matmul-store.ts";
import { multiplyAdd } from "./matmul-tile.ts";
import { matrixAddress, scalesAddress } from "./matmul-view.ts";

type V = Value<"v128">;

/** With more rows than this, tiles are faster than dot products. */
const FEW_ROWS = 4;
/** Bytes of weights in a stream of a task: many beside the cost of starting it. */
const STREAM_BYTES = 8192;
/**
 * Columns read side by side: more of them leave prefetching behind. Integers are read as slowly as they
 * are multiplied; the vectors that a row of them has for each vector of weights are read once for all.
 */
const STREAMS = 2;
const STREAMS_OF_INTEGERS = 4;

/** Whether {@link fewRows} takes a kernel, as it is or transposed; undefined: it does not. */
export function asFewRows(kernel: MatmulKernel): MatmulKernel | undefined {
  return [kernel, transposed(kernel)].find(({ m, a, b }) => {
    const along = b.scale?.block[0] ?? VECTOR;
    return (
      m <= FEW_ROWS &&
      a.dtype === "f32" &&
      !a.scale &&
      a.col === 1 &&
      b.row === 1 &&
      along % VECTOR === 0
    );
  });
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

export function fewRows(kernel: MatmulKernel, target: Target): KernelCode {
  const { batch, m, n, k, a, b, out, add } = kernel;
  const matrices = batch.reduce((x, y) => x * y, 1);
  if (m === 0 || n === 0 || matrices === 0) return { phases: [] };
  const quick = readerOf(kernel, target);
  // Eight sums of f32, of four rows, are more than there are registers for.
  const streams =
    m < FEW_ROWS || quick?.peak !== undefined
      ? Math.min(n, m === 1 && quick?.integers ? STREAMS_OF_INTEGERS : STREAMS)
      : 1;
  const exact = reading(kernel, m * streams, target);
  const size = dtypeBytes(b.dtype);
  // Each stream has its own stretch of columns, and a task a run of each: streams go on from task to task.
  const stretch = Math.ceil(n / streams);
  const run = Math.min(Math.ceil(stretch / 8), Math.ceil(STREAM_BYTES / (k * size || 1)));
  const groups = Math.ceil(stretch / run);
  const madd = multiplyAdd(target);
  const reads = quick && reading(kernel, m * streams, target, quick);
  const rowOf = quick && reads && preparedRow(quick, k - (k % quick.chunk), reads.span);
  const prepared = rowOf?.bytes ?? 0;
  const spanSums = rowOf && quick?.integers ? new SpanSums(rowOf, m * streams, target) : undefined;

  const prepare = (f: Func, args: PhaseArguments) => {
    const task = f.local("i32");
    f.for(task, args.begin, args.end, 1, () => {
      const matrix = f.keep(i32.divU(task, m));
      const row = matrixAddress(f, args, a, batch, matrix);
      f.inc(row, i32.mul(i32.remU(task, m), 4 * a.row));
      const to = f.keep(i32.add(args.sharedScratch(), i32.mul(task, prepared)));
      prepareRow(f, rowOf as PreparedRow, row, to);
    });
  };

  const emit = (f: Func, args: PhaseArguments) => {
    const locals = (count: number) => Array.from({ length: count }, () => f.local("v128"));
    const task = f.local("i32");
    /** What a dot product of one row with one stream's column is made of. */
    const products = Array.from({ length: m * streams }, (_, p) => ({
      row: Math.floor(p / streams),
      stream: p % streams,
      total: f.local("v128"),
      partial: Array.from({ length: SUMS }, () => locals(quick?.parts ?? 1)),
    }));
    const lane0 = i32x4.const(-1, 0, 0, 0);
    const largest = f.local("v128");
    const x = f.local("i32");
    const end = f.local("i32");
    const put = f.local("i32");
    const start = f.local("i32");
    const step = f.local("i32");
    const place = Array.from({ length: streams }, () => ({
      column: f.local("i32"),
      weights: f.local("i32"),
      scales: f.local("i32"),
    }));
    f.for(task, args.begin, args.end, 1, () => {
      const matrix = f.keep(i32.divU(task, groups));
      const first = f.keep(i32.mul(i32.remU(task, groups), run));
      const base = matrixAddress(f, args, b, batch, matrix);
      const rows = matrixAddress(f, args, a, batch, matrix);
      const to = matrixAddress(f, args, out, batch, matrix);
      const added = add && matrixAddress(f, args, add, batch, matrix);
      const quickRows =
        rowOf && f.keep(i32.add(args.sharedScratch(), i32.mul(matrix, m * prepared)));
      const scales = scalesAddress(f, args, b, batch, matrix);
      /** Place of the scale of a stream's column at a step of k. */
      const scalePlace = (stream: number, at: Value<"i32">): Value<"i32"> => {
        const { block, row } = b.scale as NonNullable<MatrixView["scale"]>;
        const from = (place[stream] as (typeof place)[number]).scales;
        return i32.add(from, i32.mul(i32.divU(at, block[0]), 4 * row));
      };
      /** The scale, for four lanes. */
      const scaleAt = (stream: number, at: Value<"i32">): V | undefined =>
        scales && f.keep(v128.load32Splat(scalePlace(stream, at)));
      /** The scales of so many spans from one on, each in its lane. */
      const scalesOf = (stream: number, span: Local<"i32">, count: number): V => {
        const { block, row } = b.scale as NonNullable<MatrixView["scale"]>;
        const length = rowOf?.span ?? 0;
        const at = (n: number) => scalePlace(stream, i32.mul(i32.add(span, i32.const(n)), length));
        if (length === block[0] && row === 1 && count === 4) return v128.load(at(0));
        let lanes = v128.load32Zero(at(0));
        for (let n = 1; n < count; n++) lanes = v128.load32Lane(at(n), lanes, n);
        return lanes;
      };

      /** The dot products of all rows with a column of each stream. */
      const sumUp = (reader: Reading) => {
        const whole = k - (k % reader.step);
        const span = Math.min(whole, reader.span);
        for (const { column, weights } of place) {
          f.set(weights, i32.add(base, i32.mul(column, b.col * size)));
        }
        f.set(x, rowOf && reader.quick && quickRows ? i32.add(quickRows, rowOf.numbers) : rows);
        for (const { total } of products) f.set(total, f32x4.const(0));
        f.set(put, args.threadScratch);
        if (whole > 0) {
          f.for(start, 0, i32.const(whole), span, () => {
            const own = products.map(({ partial }) =>
              partial.slice(0, reader.sums).map((parts) => parts.slice(0, reader.parts)),
            );
            for (const part of own.flat(2)) f.set(part, f32x4.const(0));
            const addStep = () => {
              for (let at = 0; at < reader.step; at += reader.chunk) addChunk(reader, own, at);
              f.inc(x, reader.width * reader.step);
              for (const { weights } of place) f.inc(weights, reader.step * size);
            };
            if (whole % span) {
              const count = f.keep(i32.sub(whole, start));
              f.if(i32.gtS(count, span), () => f.set(count, span));
              f.set(end, i32.add(x, i32.mul(count, reader.width)));
            } else f.set(end, i32.add(x, i32.const(reader.width * span)));
            if (span === reader.step) addStep();
            else f.while(i32.ne(x, end), addStep);
            if (reader.quick && spanSums) {
              for (const [p, partial] of own.entries()) spanSums.put(f, reader, partial, p, put);
              spanSums.next(f, put);
              return;
            }
            if (reader.sums > 1 && !reader.quick?.unusable) {
              for (const sums of own) sidedBySide(f, target, sums.flat(), args.threadScratch);
            }
            const spanAt = i32.mul(i32.divU(start, span), 4);
            const factors = Array.from({ length: reader.quick && quickRows ? m : 0 }, (_, row) =>
              f.keep(
                v128.load32Splat(
                  i32.add(quickRows as Local<"i32">, spanAt),
                  row * prepared + FACTORS,
                ),
              ),
            );
            const scale = place.map((_, stream) => scaleAt(stream, start));
            for (const [p, { total, row, stream }] of products.entries()) {
              const sum = (own[p] as Local<"v128">[][])
                .map((parts): V => (reader.quick ? reader.quick.total(parts) : (parts[0] as V)))
                .reduce((y, z) => f32x4.add(y, z));
              const factor = factors[row];
              const both = factor ? f32x4.mul(sum, factor) : sum;
              const by = scale[stream];
              f.set(total, by ? madd(both, by, total) : f32x4.add(total, both));
            }
          });
        }
        if (reader.quick && quickRows && spanSums) {
          spanSums.addUp(f, products, args.threadScratch, quickRows, scalesOf);
        }
        if (reader.quick) f.set(x, i32.add(rows, i32.const(4 * whole)));
        if (k > whole) addRest(k - whole);
      };

      /** Adds the products of the chunk at `at`, an element of the loop's step. */
      const addChunk = (reader: Reading, own: readonly Local<"v128">[][][], at: number) => {
        const codes = place.map(({ weights }) =>
          reader.quick?.weights(f, weights, at * size, largest),
        );
        const { width, lanes, chunk } = reader;
        for (let e = at; e < at + reader.chunk; e += lanes) {
          const numbers = Array.from({ length: m }, (_, row) =>
            Array.from({ length: reader.vectors }, (_, p) => {
              const apart = reader.quick ? prepared : 4 * a.row;
              const vector = v128.load(
                x,
                row * apart + width * at + 16 * (p * (chunk / lanes) + (e - at) / lanes),
              );
              return streams > 1 ? f.keep(vector) : vector;
            }),
          );
          for (const [stream, { weights }] of place.entries()) {
            const code = codes[stream];
            const weight = f.keep(
              code ? (code.next().value as V) : load4(f, b.dtype, weights, e * size),
            );
            for (const [row, vectors] of numbers.entries()) {
              const sums = own[row * streams + stream] as Local<"v128">[][];
              const parts = sums[(e / lanes) % reader.sums] as Local<"v128">[];
              const [sum] = parts as [Local<"v128">];
              if (reader.quick?.add) reader.quick.add(f, weight, vectors, parts);
              else f.set(sum, madd(vectors[0] as V, weight, sum));
            }
          }
        }
      };

      /** The last `count` steps, which do not fill a step of the loop, one by one. */
      const addRest = (count: number) => {
        f.set(end, i32.add(x, i32.const(4 * count)));
        const scale = place.map((_, stream) => scaleAt(stream, i32.const(k - 1)));
        f.while(i32.ne(x, end), () => {
          for (const [stream, { weights }] of place.entries()) {
            const code = i32x4.splat(loadCode(b.dtype, weights));
            const number = asF32(b.dtype, decode(f, b.dtype, code));
            const by = scale[stream];
            const weight = f.keep(v128.and(by ? f32x4.mul(number, by) : number, lane0));
            for (const { total, row } of products.filter((p) => p.stream === stream)) {
              f.set(total, madd(v128.load32Zero(x, 4 * row * a.row), weight, total));
            }
            f.inc(weights, size);
          }
          f.inc(x, 4);
        });
      };

      /** Adds up lanes and writes a column's results. */
      const store = (stream: number, column: Value<"i32">) => {
        const at = (from: Local<"i32">, view: MatrixView, row: number) => {
          const element = i32.add(i32.mul(column, view.col), i32.const(row * view.row));
          return i32.add(from, i32.mul(element, dtypeBytes(view.dtype)));
        };
        for (const { total, row } of products.filter((p) => p.stream === stream)) {
          const half = f.keep(f32x4.add(total, pick(total, total, 2, 3, 0, 1)));
          let sum: V = f32x4.add(half, pick(half, half, 1, 0, 3, 2));
          if (add && added) {
            const code = i32x4.splat(loadCode(add.dtype, at(added, add, row)));
            sum = f32x4.add(sum, asF32(add.dtype, decode(f, add.dtype, code)));
          }
          f.do(storeCode(out.dtype, at(to, out, row), encode(f, out.dtype, sum), 0));
        }
      };

      const last = f.keep(i32.add(first, run));
      f.if(i32.gtS(last, stretch), () => f.set(last, stretch));
      f.for(step, first, last, 1, () => {
        for (const [stream, { column, scales: from }] of place.entries()) {
          f.set(column, i32.add(step, i32.const(stream * stretch)));
          // Past the last column: the last one once more, which is not stored.
          if (n % streams) f.if(i32.geS(column, n), () => f.set(column, n - 1));
          if (!b.scale || !scales) continue;
          const own = i32.mul(i32.divU(column, b.scale.block[1]), 4 * b.scale.col);
          f.set(from, i32.add(scales, own));
        }
        if (quick && reads && quickRows) {
          f.set(largest, f32x4.const(0));
          sumUp(reads);
          let unusable: Value<"i32"> | undefined;
          if (quick.unusable) unusable = v128.anyTrue(quick.unusable(largest));
          else if (quick.peak !== undefined) {
            unusable = Array.from({ length: m }, (_, row) =>
              i32.load(quickRows, row * prepared + UNUSABLE),
            ).reduce((p: Value<"i32">, q) => i32.or(p, q));
          }
          if (unusable) f.if(unusable, () => sumUp(exact));
        } else sumUp(exact);
        for (const [stream, { column }] of place.entries()) {
          const own = i32.add(step, i32.const(stream * stretch));
          const write = () => store(stream, column);
          if (n % streams) f.if(i32.ltS(own, n), write);
          else write();
        }
      });
    });
  };

  const bytes = matrices * n * k * size;
  const multiply = {
    tasks: matrices * groups,
    nanoseconds: Math.max(bytes / 12, matrices * n * k * m * 0.08),
    emit,
  };
  const threadScratch = Math.max(spanSums?.bytes ?? 0, 16 * SUMS * streams * m);
  if (!quick) return { phases: [multiply], threadScratch };
  const preparation = { tasks: matrices * m, nanoseconds: 0.4 * matrices * m * k, emit: prepare };
  return { phases: [preparation, multiply], sharedScratch: matrices * m * prepared, threadScratch };
}
