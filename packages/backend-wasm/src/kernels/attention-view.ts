/** What attention and its derivative share: where keys lie, and which of them a query sees. */
import type { AttentionShape, HeadsView } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, i32, i32x4, type Local, type Value, v128 } from "../asm.ts";
import type { PhaseArguments } from "../kernel.ts";
import { packPanel } from "./matmul-pack.ts";
import { TILE_COLUMNS, TILE_ROWS } from "./matmul-tile.ts";

type V = Value<"v128">;

/** Queries side by side in the lanes of two vectors. */
export const LANES: number = TILE_COLUMNS;

/** Keys that are gone through at a time: a block never crosses a page. */
export function keyBlock({ pages }: AttentionShape): number {
  const most = 8 * TILE_ROWS;
  if (!pages) return most;
  let block = Math.min(most, pages.pageSize);
  while (pages.pageSize % block !== 0) block--;
  return block;
}

/** Address of [batch, time, head, 0] of a view; `time` is a value ≥ 0. */
export function headAddress(
  args: PhaseArguments,
  view: HeadsView,
  at: { batch: Value<"i32">; time?: Value<"i32">; head: Value<"i32"> },
): Value<"i32"> {
  const [batch, time, head] = view.strides;
  let element = i32.add(i32.mul(at.batch, batch), i32.mul(at.head, head));
  if (at.time) element = i32.add(element, i32.mul(at.time, time));
  const start = i32.add(args.slot(view.slot), view.offset * dtypeBytes(view.dtype));
  return i32.add(start, i32.mul(element, dtypeBytes(view.dtype)));
}

/** Address of key `s` of k or v, through the page table if there is one. */
export function keyAddress(
  f: Func,
  args: PhaseArguments,
  shape: AttentionShape,
  view: HeadsView,
  at: { batch: Local<"i32">; key: Local<"i32">; head: Local<"i32"> },
): Local<"i32"> {
  const { pages, keys } = shape;
  if (!pages)
    return f.keep(headAddress(args, view, { batch: at.batch, time: at.key, head: at.head }));
  const perSequence = Math.ceil(keys / pages.pageSize);
  const entry = i32.add(i32.mul(at.batch, perSequence), i32.divU(at.key, pages.pageSize));
  const page = f.keep(i32.load(i32.add(args.slot(pages.slot), i32.shl(entry, 2))));
  const time = i32.remU(at.key, pages.pageSize);
  return f.keep(headAddress(args, view, { batch: page, time, head: at.head }));
}

/** Length of a sequence, at most `keys`. */
export function lengthOf(
  f: Func,
  args: PhaseArguments,
  shape: AttentionShape,
  batch: Local<"i32">,
): Local<"i32"> {
  const length = f.local("i32", shape.keys);
  if (shape.lengths !== undefined) {
    const given = f.keep(i32.load(i32.add(args.slot(shape.lengths), i32.shl(batch, 2))));
    f.if(i32.ltS(given, shape.keys), () => f.set(length, given));
    f.if(i32.ltS(length, 0), () => f.set(length, 0));
  }
  return length;
}

/** Bytes of what is remembered about a panel of queries. */
export const SIGHT_BYTES = 96;

/**
 * Writes what the `valid` rows from `first` on see, row r being query ⌊r / group⌋: for each lane the
 * last key it sees (−1: none) and its segment; then the smallest and the largest last key. Lanes beyond
 * the valid ones see nothing, or as much as the last of these, where that is less trouble.
 */
export function writeSight(
  f: Func,
  args: PhaseArguments,
  shape: AttentionShape,
  q: {
    batch: Local<"i32">;
    length: Local<"i32">;
    first: Local<"i32">;
    valid: Local<"i32">;
    group: number;
    beyond: "nothing" | "last";
  },
  to: Value<"i32">,
): void {
  const lane = f.local("i32");
  const last = f.local("i32");
  const least = f.local("i32", 0x7fffffff);
  const most = f.local("i32", -1);
  const at = f.local("i32", to);
  const row = f.local("i32", q.first);
  const time = f.local("i32");
  f.for(lane, 0, LANES, 1, () => {
    if (q.beyond === "nothing") f.set(last, -1);
    f.if(i32.ltS(lane, q.valid), () => {
      f.set(time, q.group === 1 ? row : i32.divU(row, q.group));
      f.set(last, i32.sub(q.length, 1));
      if (shape.causal) {
        // Position of the query, at most the last key.
        f.set(last, i32.add(i32.sub(q.length, shape.queries), time));
        f.if(i32.ltS(last, 0), () => f.set(last, -1));
      }
      if (shape.segments !== undefined) {
        const place = i32.add(i32.mul(q.batch, shape.keys), time);
        f.do(i32.store(at, i32.load(i32.add(args.slot(shape.segments), i32.shl(place, 2))), 32));
      }
    });
    f.do(i32.store(at, last));
    f.if(i32.ltS(last, least), () => f.set(least, last));
    f.if(i32.gtS(last, most), () => f.set(most, last));
    f.inc(at, 4);
    f.inc(row, 1);
  });
  f.do(i32.store(at, least, 32), i32.store(at, most, 36));
}

/** Smallest and largest last key seen by the lanes of a panel. */
export const leastSeen = (sight: Value<"i32">): Value<"i32"> => i32.load(sight, 64);
export const mostSeen = (sight: Value<"i32">): Value<"i32"> => i32.load(sight, 68);

/** Lanes 4j … 4j + 3 that see key `key` (all ones): a mask. */
export function sees(
  args: PhaseArguments,
  shape: AttentionShape,
  at: { batch: Local<"i32">; sight: Local<"i32">; key: Value<"i32"> },
  j: number,
): V {
  const inTime = i32x4.leS(i32x4.splat(at.key), v128.load(at.sight, 16 * j));
  if (shape.segments === undefined) return inTime;
  // A tile may go on beyond the last key, where there may be no memory: the last one's segment in its place.
  const beyond = i32.sub(at.key, shape.keys - 1);
  const key = i32.add(i32.and(beyond, i32.shrS(beyond, 31)), shape.keys - 1);
  const place = i32.add(i32.mul(at.batch, shape.keys), key);
  const segment = v128.load32Splat(i32.add(args.slot(shape.segments), i32.shl(place, 2)));
  return v128.and(inTime, i32x4.eq(segment, v128.load(at.sight, 32 + 16 * j)));
}

/**
 * Packs a matrix of `rows` × `cols` whose rows lie `stride` elements apart, as panels of `width`
 * rows [cols][width] ("rows"), or of `width` columns [rows][width] ("columns").
 */
export function packMatrix(
  f: Func,
  view: HeadsView,
  job: {
    by: "rows" | "columns";
    width: number;
    from: Local<"i32">;
    to: Local<"i32">;
    stride: number;
    rows: Local<"i32">;
    cols: number;
    /** Bytes from panel to panel. */
    panelBytes: number;
  },
): void {
  const [across, along] =
    job.by === "rows" ? [job.stride, view.strides[3]] : [view.strides[3], job.stride];
  const left = f.local("i32", job.by === "rows" ? job.rows : job.cols);
  const from = f.local("i32", job.from);
  const to = f.local("i32", job.to);
  const valid = f.local("i32");
  const count = job.by === "rows" ? job.cols : job.rows;
  f.while(i32.gtS(left, 0), () => {
    f.set(valid, left);
    f.if(i32.gtS(valid, job.width), () => f.set(valid, job.width));
    packPanel(
      f,
      { dtype: view.dtype, across, along },
      { width: job.width, valid, count, from, to },
    );
    f.inc(from, job.width * across * dtypeBytes(view.dtype));
    f.inc(to, job.panelBytes);
    f.inc(left, -job.width);
  });
}
