/** Weights in 8 bits for decoding, where time is what it takes to read them. */
import {
  abs,
  cast,
  compile,
  dequantize,
  div,
  eq,
  expandDims,
  type Mapped,
  max,
  pad,
  reshape,
  round,
  slice,
  Tensor,
  treePaths,
  where,
} from "@dsv3/tensor";
import type { ModelParams } from "./params.ts";

/** A matrix [..., R, C] of i8, and f32 [..., R, C / 128] that its runs of 128 are multiplied by. */
export type CompressedMatrix = { values: Tensor; scale: Tensor };

/** The model's weights, most matrices in 8 bits. */
export type CompressedParams = Mapped<ModelParams, Tensor | CompressedMatrix>;

/** Numbers of a row that share a scale, as in DeepSeek-V3's FP8. */
const RUN = 128;
const LARGEST = 127;

/**
 * Kept as they are: rows are looked up in the embedding, absorbed attention takes kv_b_proj apart
 * by heads, and the router's choices jump where its scores are near each other.
 */
const KEPT = /embedTokens$|kvBProj$|\.gate$/;

/**
 * Matrices rounded to 8 bits, the largest of every run of 128 numbers to ±127: a quarter of the
 * memory of f32. `params` stay as they are, and may be disposed of: nothing is shared.
 */
export function compressParams(params: ModelParams): CompressedParams {
  const compress = compile(quantizeRows, { name: "compress" });
  const copy = compile((t: Tensor) => cast(cast(t, "f32"), t.dtype), { name: "copy" });
  const paths = new Map(treePaths(params).map(([path, t]) => [t, path]));
  const walk = (tree: unknown): unknown => {
    if (tree instanceof Tensor) {
      return tree.rank > 1 && !KEPT.test(paths.get(tree) as string) ? compress(tree) : copy(tree);
    }
    return mapInner(tree, walk);
  };
  try {
    return walk(params) as CompressedParams;
  } finally {
    compress.dispose();
    copy.dispose();
  }
}

/** The weights that compressed ones stand for; plain ones as they are. For use inside `compile`. */
export function expandParams(params: ModelParams | CompressedParams): ModelParams {
  const walk = (tree: unknown): unknown => {
    if (tree instanceof Tensor) return tree;
    if (tree !== null && typeof tree === "object" && "values" in tree && "scale" in tree) {
      const { values, scale } = tree as CompressedMatrix;
      return dequantize(values, { scale, block: [1, RUN] });
    }
    return mapInner(tree, walk);
  };
  return walk(params) as ModelParams;
}

function mapInner(tree: unknown, f: (inner: unknown) => unknown): unknown {
  if (tree === null) return null;
  if (Array.isArray(tree)) return tree.map(f);
  return Object.fromEntries(Object.entries(tree as object).map(([key, inner]) => [key, f(inner)]));
}

function quantizeRows(matrix: Tensor): CompressedMatrix {
  const w = cast(matrix, "f32");
  const columns = w.shape.at(-1) as number;
  const runs = Math.ceil(columns / RUN);
  const rest = runs * RUN - columns;
  const padded = pad(
    w,
    w.shape.map((_, axis) => [0, axis === w.rank - 1 ? rest : 0] as const),
  );
  const cut = reshape(padded, [...w.shape.slice(0, -1), runs, RUN]);
  const scale = div(max(abs(cut), -1), LARGEST); // [..., R, runs]
  const divisor = expandDims(where(eq(scale, 0), 1, scale), -1);
  const values = reshape(cast(round(div(cut, divisor)), "i8"), padded.shape);
  return {
    values: slice(
      values,
      w.shape.map(() => 0),
      w.shape,
    ),
    scale,
  };
}
