/** What every attention kernel shares: which heads read which keys, masks, addresses of rows. */
import {
  type AttentionShape,
  dtypeBytes,
  type HeadsView,
  type SplitHeadsView,
} from "../contract.ts";
import type { Arg } from "../kernel.ts";
import { constants } from "./hopper.ts";

/** Element (b, t, h, 0) of a view as CUDA C++. */
export function at(view: HeadsView, b: string, t: string, h: string): string {
  const [sb, st, sh] = view.strides;
  return `((i64)(${b}) * ${sb}ll + (i64)(${t}) * ${st}ll + (i64)(${h}) * ${sh}ll)`;
}

/** An argument that points to element 0 of a view. */
export function viewArg(view: HeadsView, bytes: number): Arg {
  return { slot: view.slot, offset: view.offset * bytes };
}

/** Rows start at multiples of 16 bytes and are contiguous: what 16-byte copies need. */
export function copyable(view: SplitHeadsView, width: number): boolean {
  const [batch, time, head, w] = view.strides;
  if (view.tail && !copyable(view.tail, width - view.tail.from)) return false;
  return (
    view.dtype === "bf16" &&
    (w === 1 || width === 1) &&
    width % 8 === 0 &&
    [view.offset, batch, time, head].every((s) => s % 8 === 0)
  );
}

/** What a kernel takes besides `q` and `k` where the last columns of these lie elsewhere. */
interface Tails {
  /** Parameters `q_tail` and `k_tail` of the entry, each with a leading comma. */
  readonly params: string;
  readonly args: readonly Arg[];
  /** Columns at which a tail begins. */
  readonly bounds: readonly number[];
}

export function tails({ q, k }: { q: SplitHeadsView; k: SplitHeadsView }): Tails {
  const there = Object.entries({ q, k }).flatMap(([name, { tail }]) =>
    tail ? [{ name, tail }] : [],
  );
  const params = there.map(({ name, tail }) => `, const ${tail.dtype}* __restrict__ ${name}_tail`);
  return {
    params: params.join(""),
    args: there.map(({ tail }) => viewArg(tail, dtypeBytes(tail.dtype))),
    bounds: there.map(({ tail }) => tail.from),
  };
}

/** A tile of queries or keys to be copied. */
interface HeadsCopy {
  readonly name: "q" | "k";
  readonly view: SplitHeadsView;
  /** The tile's address, rows and panel as CUDA C++; its width is QK. */
  readonly to: string;
  readonly rows: string;
  readonly panel: string;
  /** Row `r` of the tile is this row of what there is, of which there are `limit`. */
  readonly row: string;
  readonly limit: string;
  /** Where row `row` of a view starts. */
  readonly at: (view: HeadsView) => string;
}

/**
 * Copies a tile of queries or keys by the 128 threads of a warpgroup, one part of the width after the
 * other, so that no thread holds the addresses of both.
 */
export function copyHeads({ name, view, to, rows, panel, row, limit, at }: HeadsCopy): string {
  const copy = (name: string, part: HeadsView, to: string, width: string, padded: string) =>
    `copy_tile<${rows}, ${width}, ${padded}, ${panel}, 128>(${to}, thread, q, [&](int r) {
        const int row = ${row};
        return row < ${limit} ? ${name} + ${at(part)} : nullptr; });`;
  const { tail } = view;
  if (tail === undefined) return copy(name, view, to, "QK_WIDTH", "QK");
  const rest = `QK - ${tail.from}`;
  return `${copy(name, view, to, `${tail.from}`, `${tail.from}`)}
      ${copy(`${name}_tail`, tail, `${to} + ${rows} * ${2 * tail.from}`, rest, rest)}`;
}

/** Query heads kh·H/KH (rounded up) up to the next such bound read key head kh. */
export const HEAD_MAP = `
DEVICE int key_head(int h) { return (int)((i64)h * KEY_HEADS / HEADS); }
DEVICE int first_head(int kh) { return (int)(((i64)kh * HEADS + KEY_HEADS - 1) / KEY_HEADS); }
`;

/**
 * How many warpgroups compute, for so many registers of accumulators a thread: three where they fit.
 * What is left for a thread of them, and of the one that copies.
 */
export function warpgroups(accumulators: number): { groups: 2 | 3; take: number; give: number } {
  return accumulators <= 128
    ? { groups: 3, take: 160, give: 32 }
    : { groups: 2, take: 232, give: 40 };
}

/**
 * Warpgroups give their products to the tensor cores in turns. Without this they tend to multiply all
 * at once and then all compute exponentials; with it one's exponentials run beside another's products
 * ("ping-pong scheduling" in FlashAttention-3). Every warpgroup takes as many turns.
 */
export const TURNS = `
template <int GROUPS> struct Turns {
  int own, next;
  __device__ __forceinline__ Turns(int group) : own(2 + group), next(2 + (group + 1) % GROUPS) {
    if (group == GROUPS - 1) pass();
  }
  __device__ __forceinline__ void take() const { asm volatile("bar.sync %0, 256;" :: "r"(own) : "memory"); }
  __device__ __forceinline__ void pass() const { asm volatile("bar.arrive %0, 256;" :: "r"(next) : "memory"); }
};
`;

export interface Masks {
  /** Parameters of the entry, each with a leading comma. */
  readonly params: string;
  readonly args: readonly Arg[];
  /** Declares `int length`, the visible keys of sequence `b`. */
  readonly length: string;
  /** Condition on key `s` (already < length) carrying the segment number `own`; "" without segments. */
  sameSegment(b: string, s: string, own: string): string;
  /** The segment number of time t, or 0. */
  segment(b: string, t: string): string;
  /** Row of key s in a view. */
  key(view: HeadsView, b: string, s: string, h: string): string;
}

/** Is there nothing to read or to write? Then only the plain kernels apply. */
export function isEmpty(k: AttentionShape): boolean {
  return k.batch * k.queries * k.keys * k.heads === 0;
}

/** The optional slots of a shape: lengths, segments, pages. */
export function masks(k: AttentionShape): Masks {
  const params: string[] = [];
  const args: Arg[] = [];
  const add = (name: string, slot: number | undefined) => {
    if (slot === undefined) return;
    params.push(`, const i32* __restrict__ ${name}`);
    args.push({ slot });
  };
  add("lengths", k.lengths);
  add("segments", k.segments);
  add("pages", k.pages?.slot);
  const pages = k.pages;
  return {
    params: params.join(""),
    args,
    length:
      k.lengths === undefined
        ? "const int length = KEYS;"
        : "const int length = max(0, min(KEYS, lengths[b]));",
    sameSegment: (b, s, own) =>
      k.segments === undefined ? "" : `segments[(i64)(${b}) * KEYS + (${s})] == ${own}`,
    segment: (b, t) => (k.segments === undefined ? "0" : `segments[(i64)(${b}) * KEYS + (${t})]`),
    key: (view, b, s, h) =>
      pages
        ? at(
            view,
            `pages[(i64)(${b}) * ${Math.ceil(k.keys / pages.pageSize)} + (${s}) / ${pages.pageSize}]`,
            `(${s}) % ${pages.pageSize}`,
            h,
          )
        : at(view, b, s, h),
  };
}

export function shapeConstants(k: AttentionShape): string {
  return constants({
    BATCH: k.batch,
    QUERIES: k.queries,
    KEYS: k.keys,
    HEADS: k.heads,
    KEY_HEADS: k.keyHeads,
    QK_WIDTH: k.qkWidth,
    V_WIDTH: k.vWidth,
    CAUSAL: k.causal,
    SEGMENTS: k.segments !== undefined,
  });
}

/** A float literal that reads back as the same f32. */
export function f32(value: number): string {
  const text = Math.fround(value).toPrecision(9);
  return `${/[.e]/.test(text) ? text : `${text}.0`}f`;
}
