/**
 * The k largest of each row: a sorted list of the best so far, into which each element that beats the
 * last one is inserted. Four elements at a time are compared with the last one first, so that a long
 * row costs little more than reading it.
 */
import type { TopKKernel } from "@dsv3/tensor";
import { type Func, f32, f32x4, i32, i32x4, type Local, type Value, v128 } from "../asm.ts";
import type { KernelCode } from "../kernel.ts";

/**
 * Keys are integers that order as the floats do: NaN below −infinity, and −0 like 0 (adding 0 makes
 * them equal). An empty place of the list is below every key.
 */
const EMPTY = -(2 ** 31);
const NAN_KEY = EMPTY + 1;

export function topK(kernel: TopKKernel): KernelCode {
  const { rows, n, k } = kernel;
  const nanoseconds = rows * (n + 20 * k * Math.log2(1 + n / k));
  return {
    phases: [
      {
        tasks: k === 0 ? 0 : rows,
        nanoseconds,
        emit(f, { slot, begin, end }) {
          const input = f.keep(slot(kernel.input));
          const values = f.keep(slot(kernel.values));
          const indices = f.keep(slot(kernel.indices));
          const row = f.local("i32");
          f.for(row, begin, end, 1, () => {
            const x = f.keep(i32.add(input, i32.mul(row, 4 * n)));
            const best = f.keep(i32.add(values, i32.mul(row, 4 * k)));
            const which = f.keep(i32.add(indices, i32.mul(row, 4 * k)));
            emitRow(f, kernel, x, best, which);
          });
        },
      },
    ],
  };
}

/** Key of one float, by its bits after −0 has become 0. */
function scalarKey(f: Func, x: Value<"f32">): Value<"i32"> {
  const plus = f.keep(f32.add(x, 0));
  const bits = f.keep(i32.reinterpretF32(plus));
  const ordered = i32.xor(bits, i32.and(i32.shrS(bits, 31), 0x7fffffff));
  const key = f.local("i32", ordered);
  f.if(f32.ne(plus, plus), () => f.set(key, NAN_KEY));
  return key;
}

function vectorKeys(f: Func, x: Value<"v128">): Value<"v128"> {
  const plus = f.keep(f32x4.add(x, f32x4.const(0)));
  const ordered = v128.xor(plus, v128.and(i32x4.shrS(plus, 31), i32x4.const(0x7fffffff)));
  return v128.bitselect(i32x4.const(NAN_KEY), ordered, f32x4.ne(plus, plus));
}

/** `best` holds keys while the row is read, and the values in the end. */
function emitRow(
  f: Func,
  { n, k }: TopKKernel,
  x: Local<"i32">,
  best: Local<"i32">,
  which: Local<"i32">,
): void {
  const i = f.local("i32");
  const place = f.local("i32");
  f.for(i, 0, 4 * k, 4, () => f.do(i32.store(i32.add(best, i), EMPTY)));
  const last = f.local("i32", EMPTY);
  const from = f.local("i32");
  const to = f.local("i32");
  f.for(from, 0, n, 4, () => {
    f.block((next) => {
      f.set(to, i32.add(from, 4));
      f.if(
        i32.gtS(to, n),
        () => f.set(to, n),
        () => {
          const keys = vectorKeys(f, v128.load(i32.add(x, i32.shl(from, 2))));
          f.brIf(next, i32.eqz(v128.anyTrue(i32x4.gtS(keys, i32x4.splat(last)))));
        },
      );
      f.for(i, from, to, 1, () => {
        const key = scalarKey(f, f32.load(i32.add(x, i32.shl(i, 2))));
        f.if(i32.gtS(key, last), () => {
          // Everything smaller moves down by one. Equal keys stay: they came with lower indices.
          f.set(place, 4 * (k - 1));
          f.block((found) =>
            f.loop((again) => {
              f.brIf(found, i32.eqz(place));
              const above = i32.sub(place, 4);
              const keyAbove = f.keep(i32.load(i32.add(best, above)));
              f.brIf(found, i32.geS(keyAbove, key));
              f.do(
                i32.store(i32.add(best, place), keyAbove),
                i32.store(i32.add(which, place), i32.load(i32.add(which, above))),
              );
              f.inc(place, -4);
              f.br(again);
            }),
          );
          f.do(i32.store(i32.add(best, place), key), i32.store(i32.add(which, place), i));
          f.set(last, i32.load(best, 4 * (k - 1)));
        });
      });
    });
  });
  f.for(place, 0, 4 * k, 4, () => {
    const at = i32.load(i32.add(which, place));
    f.do(f32.store(i32.add(best, place), f32.load(i32.add(x, i32.shl(at, 2)))));
  });
}
