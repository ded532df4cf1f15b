/**
 * The ends of dot products of a few rows (matmul-few.ts) whose partial sums are integers. Such a sum holds
 * for a span of elements that share a scale and a factor. Every span's is put down as it is done; when a
 * column is through, those of four spans are added across lanes at once, and become the lanes of one
 * vector that is multiplied with four factors and four scales.
 */
import { type Func, f32x4, i32, i32x4, type Local, type Value, v128 } from "../asm.ts";
import type { Target } from "../kernel.ts";
import { pick } from "./matmul-pack.ts";
import { FACTORS, type PreparedRow } from "./matmul-quick.ts";
import type { Reading } from "./matmul-reading.ts";
import { multiplyAdd } from "./matmul-tile.ts";

type V = Value<"v128">;

/** Spans that are added up at once: one for each lane. */
const GROUP = 4;

/** The sums of all spans of a column in each stream, for each row, in a thread's scratch memory. */
export class SpanSums {
  readonly #row: PreparedRow;
  readonly #target: Target;
  readonly #spans: number;
  /** Vectors of a span: of a pair of them an engine makes one. */
  readonly #vectors: number;
  /** Bytes of room for a product's spans, and for those of all products. */
  readonly #apart: number;
  readonly bytes: number;

  constructor(row: PreparedRow, products: number, target: Target) {
    this.#row = row;
    this.#target = target;
    this.#spans = Math.ceil(row.steps / row.span);
    this.#vectors = target.wideVectors ? 2 : 1;
    this.#apart = 16 * this.#vectors * this.#spans;
    this.bytes = products * this.#apart;
  }

  /** Puts down a product's partial sums of the span whose place `to` is. */
  put(
    f: Func,
    reader: Reading,
    partial: readonly (readonly V[])[],
    product: number,
    to: Local<"i32">,
  ): void {
    const totals = partial.map((parts) => reader.quick?.total(parts) as V);
    for (let v = 0; v < this.#vectors; v++) {
      const alike = totals.filter((_, i) => i % this.#vectors === v);
      const sum = alike.reduce((x, y) => i32x4.add(x, y));
      f.do(v128.store(to, sum, product * this.#apart + 16 * v));
    }
  }

  /** Moves `to` to the next span. */
  next(f: Func, to: Local<"i32">): void {
    f.inc(to, 16 * this.#vectors);
  }

  /**
   * Adds what the sums of all spans stand for to the lanes of each product's total.
   * @param room where the first span's place is
   * @param rows the prepared rows
   * @param scales the scales of so many spans from one on, for a stream
   */
  addUp(
    f: Func,
    products: readonly { row: number; stream: number; total: Local<"v128"> }[],
    room: Value<"i32">,
    rows: Value<"i32">,
    scales: (stream: number, span: Local<"i32">, count: number) => V,
  ): void {
    const span = f.local("i32", 0);
    const from = f.keep(room);
    const factors = f.keep(rows);
    const madd = multiplyAdd(this.#target);
    const { bytes, starts } = this.#row;
    const add = (count: number) => {
      const streams = Math.max(...products.map(({ stream }) => stream)) + 1;
      const scale = Array.from({ length: streams }, (_, s) => f.keep(scales(s, span, count)));
      for (const [p, { row, stream, total }] of products.entries()) {
        const start = v128.load(factors, row * bytes + starts);
        const factor = v128.load(factors, row * bytes + FACTORS);
        const sums = i32x4.add(this.#across(f, from, p * this.#apart, count), start);
        const both = f32x4.mul(f32x4.convertI32x4S(sums), factor);
        f.set(total, madd(both, scale[stream] as V, total));
      }
    };
    const whole = this.#spans - (this.#spans % GROUP);
    if (whole > 0) {
      f.for(span, 0, i32.const(whole), GROUP, () => {
        add(GROUP);
        f.inc(from, GROUP * 16 * this.#vectors);
        f.inc(factors, GROUP * 4);
      });
    }
    if (this.#spans > whole) {
      f.set(span, whole);
      add(this.#spans - whole);
    }
  }

  /** The sums over all lanes of so many spans, each in its lane; zeros in the others. */
  #across(f: Func, from: Local<"i32">, offset: number, count: number): V {
    const [a, b, c, d] = Array.from({ length: GROUP }, (_, span) => {
      if (span >= count) return i32x4.const(0);
      const vectors = Array.from({ length: this.#vectors }, (_, v) =>
        v128.load(from, offset + 16 * (span * this.#vectors + v)),
      );
      return f.keep(vectors.reduce((x: V, y) => i32x4.add(x, y)));
    }) as [V, V, V, V];
    const half = (x: V, y: V) => f.keep(i32x4.add(pick(x, y, 0, 4, 1, 5), pick(x, y, 2, 6, 3, 7)));
    const low = half(a, b);
    const high = half(c, d);
    return i32x4.add(pick(low, high, 0, 1, 4, 5), pick(low, high, 2, 3, 6, 7));
  }
}
