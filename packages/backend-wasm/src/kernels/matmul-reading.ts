/** How the dot products of a few rows (matmul-few.ts) go along k, by the format of the weights. */
import type { MatmulKernel } from "@dsv3/tensor";
import type { Target } from "../kernel.ts";
import { type QuickReader, quickReader } from "./matmul-quick.ts";

/** Elements of a vector: what the loop over k takes at least, for weights without a quick reader. */
export const VECTOR = 4;
/** Elements that the loop over k takes at most: 8 vectors, and of integers as many as share a scale. */
const UNROLLED = 32;
const UNROLLED_INTEGERS = 128;
/** Partial sums in all, so that one addition need not wait for the one before. */
export const SUMS = 8;

/** How the loop over k reads weights. */
export interface Reading {
  readonly quick?: QuickReader;
  /** Elements between two places where the code starts over: a chunk of the reader. */
  readonly chunk: number;
  /** Elements that the loop takes at once: whole chunks. */
  readonly step: number;
  /** Bytes of an element of the rows. */
  readonly width: number;
  /** Partial sums of each dot product, and how many numbers each is made of. */
  readonly sums: number;
  readonly parts: number;
  /** Elements that a vector of weights has, and vectors of a row that it meets. */
  readonly lanes: number;
  readonly vectors: number;
  /** Elements between two totals of the partial sums. */
  readonly span: number;
}

/** The loop for so many dot products side by side. */
export function reading(
  { k, b }: MatmulKernel,
  products: number,
  target: Target,
  quick?: QuickReader,
): Reading {
  const chunk = quick?.chunk ?? VECTOR;
  const along = Math.min(b.scale?.block[0] ?? k, quick?.span ?? k);
  let step = quick?.peak === undefined ? UNROLLED : UNROLLED_INTEGERS;
  while (step > chunk && (k % step || along % step)) step /= 2;
  const { parts, vectors, width } = quick ?? { parts: 1, vectors: 1, width: 4 };
  const most = Math.max(1, Math.min(step / VECTOR, Math.floor(SUMS / products)));
  // Every span of integers starts its sums anew: few, and not long, wait for each other.
  const integers = quick?.integers && target.wideVectors ? 2 : 1;
  const sums = quick?.peak === undefined ? most : integers;
  const lanes = (16 * vectors) / width;
  return { ...(quick && { quick }), chunk, step, width, sums, parts, lanes, vectors, span: along };
}

/** The quick reader of the weights, where they have one and their scales hold for whole chunks. */
export function readerOf({ m, b, k }: MatmulKernel, target: Target): QuickReader | undefined {
  const reader = quickReader(b.dtype, b.scale !== undefined, m, target);
  const along = b.scale?.block[0] ?? 0;
  if (!reader) return undefined;
  if (k < reader.chunk || along % reader.chunk !== 0) return undefined;
  // Spans of partial sums must not cross from one scale to the next.
  return along <= reader.span || along % reader.span === 0 ? reader : undefined;
}
