/**
 * How attention reads a block of keys and values: as they lie, or from a copy in f32 where they are
 * something else, or where rows lie so far apart that few of them fit a cache. Either way a block is
 * rows of f32 at a fixed distance.
 */
import type { AttentionKernel, HeadsView } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, i32, i32x4, type Local, v128 } from "../asm.ts";
import { decode, loadCode } from "../convert.ts";
import type { PhaseArguments } from "../kernel.ts";
import { keyAddress } from "./attention-view.ts";
import { asF32, load4 } from "./matmul-pack.ts";

/** Rows whose distance is a multiple of this meet in a few sets of the cache. */
const MEETING_BYTES = 1024;
const LINE_BYTES = 64;

/** Where the rows of a block are. */
export interface BlockRows {
  readonly first: Local<"i32">;
  /** Bytes from a row to the next. */
  readonly stride: number;
}

export interface KeyReader {
  /** Thread scratch that it takes. */
  readonly bytes: number;
  /** The rows of `count` keys from `key` on, all of one page. */
  read(
    f: Func,
    args: PhaseArguments,
    at: { batch: Local<"i32">; key: Local<"i32">; head: Local<"i32"> },
    count: Local<"i32">,
    scratch: Local<"i32">,
  ): { keys: BlockRows; values: BlockRows };
}

export function keyReader(kernel: AttentionKernel, block: number): KeyReader {
  const { k, v, qkWidth, vWidth } = kernel;
  // Values that are a key's first columns come with them.
  const one =
    k.slot === v.slot &&
    k.dtype === v.dtype &&
    k.offset === v.offset &&
    k.strides.join() === v.strides.join() &&
    vWidth <= qkWidth;
  const keyCopy = lies(k) ? 0 : copyStride(qkWidth);
  const valueCopy = one || lies(v) ? 0 : copyStride(vWidth);
  return {
    bytes: block * (keyCopy + valueCopy),
    read(f, args, at, count, scratch) {
      const rows = (view: HeadsView, width: number, copy: number, offset: number): BlockRows => {
        const from = keyAddress(f, args, kernel, view, at);
        if (copy === 0) return { first: from, stride: 4 * view.strides[1] };
        const to = f.keep(i32.add(scratch, offset));
        copyRows(f, view, width, { from, to, count, stride: copy });
        return { first: to, stride: copy };
      };
      const keys = rows(k, qkWidth, keyCopy, 0);
      return { keys, values: one ? keys : rows(v, vWidth, valueCopy, block * keyCopy) };
    },
  };
}

function lies({ dtype, strides }: HeadsView): boolean {
  const bytes = 4 * strides[1];
  return dtype === "f32" && strides[3] === 1 && bytes > 0 && bytes % MEETING_BYTES !== 0;
}

/** An odd number of cache lines, so that rows meet nowhere. */
const copyStride = (width: number) => (Math.ceil((4 * width) / LINE_BYTES) | 1) * LINE_BYTES;

/** Rows of f32 from rows of anything. */
function copyRows(
  f: Func,
  view: HeadsView,
  width: number,
  job: { from: Local<"i32">; to: Local<"i32">; count: Local<"i32">; stride: number },
): void {
  const { dtype, strides } = view;
  const size = dtypeBytes(dtype);
  const row = f.local("i32");
  const source = f.local("i32", job.from);
  const target = f.local("i32", job.to);
  const [x, to, end] = [f.local("i32"), f.local("i32"), f.local("i32")];
  const vectors = strides[3] === 1 ? width - (width % 4) : 0;
  f.for(row, 0, job.count, 1, () => {
    f.set(x, source);
    f.set(to, target);
    if (vectors > 0) {
      f.set(end, i32.add(to, 4 * vectors));
      f.while(i32.ne(to, end), () => {
        f.do(v128.store(to, load4(f, dtype, x, 0)));
        f.inc(x, 4 * size);
        f.inc(to, 16);
      });
    }
    if (width > vectors) {
      f.set(end, i32.add(target, 4 * width));
      f.while(i32.ne(to, end), () => {
        const value = decode(f, dtype, i32x4.splat(loadCode(dtype, x)));
        f.do(v128.store32Lane(to, asF32(dtype, value), 0));
        f.inc(x, strides[3] * size);
        f.inc(to, 4);
      });
    }
    f.inc(source, strides[1] * size);
    f.inc(target, job.stride);
  });
}
