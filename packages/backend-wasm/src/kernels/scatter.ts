/**
 * Rows written or added by index. First the base is copied (or zeros are written), unless the output
 * is the base's own memory; then every thread goes through all rows in order for its own columns, so
 * that repeated indices are met in order by whoever handles the column.
 */
import type { ScatterKernel } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, f32, f32x4, i32, type Local, memoryCopy, memoryFill, v128 } from "../asm.ts";
import type { KernelCode, Phase } from "../kernel.ts";

/** Bytes of the base in a task. */
const BLOCK = 2 ** 16;
/** Bytes of a row in a task: a few cache lines. */
const COLUMNS = 256;

export function scatter(kernel: ScatterKernel): KernelCode {
  return { phases: [basePhase(kernel), rowsPhase(kernel)] };
}

function basePhase(kernel: ScatterKernel): Phase {
  const { base, baseRows, width, dtype, out } = kernel;
  const bytes = baseRows * width * dtypeBytes(dtype);
  return {
    tasks: Math.ceil(bytes / BLOCK),
    nanoseconds: bytes / 15,
    emit(f, { slot, begin, end }) {
      const to = f.keep(slot(out));
      const first = f.keep(i32.mul(begin, BLOCK));
      const last = f.local("i32", i32.mul(end, BLOCK));
      f.if(i32.gtU(last, bytes), () => f.set(last, bytes));
      const size = i32.sub(last, first);
      if (base === undefined) {
        f.do(memoryFill(i32.add(to, first), 0, size));
      } else {
        const from = f.keep(slot(base));
        f.if(i32.ne(from, to), () =>
          f.do(memoryCopy(i32.add(to, first), i32.add(from, first), size)),
        );
      }
    },
  };
}

function rowsPhase(kernel: ScatterKernel): Phase {
  const { mode, baseRows, rows, width, dtype } = kernel;
  if (mode === "add" && dtype !== "f32") {
    throw new Error(`scatter adds ${dtype}, but rows are added in f32 only`);
  }
  const rowBytes = width * dtypeBytes(dtype);
  const groups = Math.ceil(rowBytes / COLUMNS);
  return {
    tasks: rows === 0 ? 0 : groups,
    nanoseconds: rows * (2 + rowBytes / 8),
    emit(f, { slot, begin, end }) {
      const indices = f.keep(slot(kernel.indices));
      const updates = f.keep(slot(kernel.updates));
      const out = f.keep(slot(kernel.out));
      const first = f.keep(i32.mul(begin, COLUMNS));
      const last = f.local("i32", i32.mul(end, COLUMNS));
      f.if(i32.gtU(last, rowBytes), () => f.set(last, rowBytes));
      const size = f.keep(i32.sub(last, first));
      const from = f.keep(i32.add(updates, first));
      const row = f.local("i32");
      f.for(row, 0, 4 * rows, 4, () => {
        const index = f.keep(i32.load(i32.add(indices, row)));
        f.if(i32.ltU(index, baseRows), () => {
          const to = f.keep(i32.add(i32.add(out, first), i32.mul(index, rowBytes)));
          if (mode === "add") addFloats(f, to, from, size);
          else f.do(memoryCopy(to, from, size));
        });
        f.inc(from, rowBytes);
      });
    },
  };
}

/** to += from, for a number of bytes. */
function addFloats(f: Func, to: Local<"i32">, from: Local<"i32">, bytes: Local<"i32">): void {
  const i = f.local("i32");
  const vectors = f.keep(i32.and(bytes, -16));
  f.for(i, 0, vectors, 16, () => {
    const place = f.keep(i32.add(to, i));
    f.do(v128.store(place, f32x4.add(v128.load(place), v128.load(i32.add(from, i)))));
  });
  f.for(i, vectors, bytes, 4, () => {
    const place = f.keep(i32.add(to, i));
    f.do(f32.store(place, f32.add(f32.load(place), f32.load(i32.add(from, i)))));
  });
}
