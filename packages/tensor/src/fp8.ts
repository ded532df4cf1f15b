/**
 * Matrix products in FP8 as DeepSeek-V3 is trained with (technical report, arXiv 2412.19437, section
 * 3.3): every product of a layer, forward and in both gradients, multiplies E4M3 by E4M3. Activations
 * and their gradients have a scale for every 128 numbers along the contraction, weights one for every
 * 128 × 128. Sums, results and everything that is not such a product keep their wider formats.
 */
import { customGradient } from "./grad.ts";
import {
  dequantize,
  groupedMatmul,
  groupedOuter,
  type MatmulOptions,
  matmul,
  storedValues,
} from "./ops/matrix.ts";
import { abs, add, and, bitcast, cast, div, eq, where } from "./ops/pointwise.ts";
import { type Fp8Matrix, quantize } from "./ops/quantize.ts";
import { max } from "./ops/reduce.ts";
import { apply1 } from "./ops/registry.ts";
import { concat, pad, reshape, slice, stopGradient } from "./ops/shape.ts";
import { getBackend, type Tensor } from "./tensor.ts";

export type { Fp8Matrix };

const LARGEST = 448; // of E4M3
const ROWS: Block = [1, 128];
const COLUMNS: Block = [128, 1];
const TILES: Block = [128, 128];
const FEW = 8;
type Block = readonly [number, number];

/**
 * x [..., R, C] in E4M3, each block scaled so that its largest number fits. Scales are powers of two,
 * so that what is quantised along rows can be quantised along columns later without another rounding
 * of the scale (section 3.3.3).
 */
export function quantizeFp8(x: Tensor, block: Block): Fp8Matrix {
  const lead = x.shape.slice(0, -2);
  const [R, C] = x.shape.slice(-2) as [number, number];
  const [rows, columns] = [Math.ceil(R / block[0]), Math.ceil(C / block[1])];
  const [height, width] = [rows * block[0], columns * block[1]];
  const widths = [...lead.map(() => [0, 0] as const), [0, height - R], [0, width - C]] as const;
  const whole = height === R && width === C ? x : pad(x, widths);
  const blocks = reshape(cast(whole, "f32"), [...lead, rows, block[0], columns, block[1]]);
  const largest = max(abs(blocks), [-3, -1], { keepDims: true });
  const scale = powerOfTwoAbove(div(largest, LARGEST));
  const quantized = cast(div(blocks, where(eq(scale, 0), 1, scale)), "f8e4m3");
  const values = reshape(quantized, whole.shape);
  return {
    values:
      whole === x
        ? values
        : slice(
            values,
            x.shape.map(() => 0),
            x.shape,
          ),
    scale: reshape(scale, [...lead, rows, columns]),
    block,
  };
}

/** The least power of two that is not below x ≥ 0; 0 for 0. */
function powerOfTwoAbove(x: Tensor): Tensor {
  const bits = add(bitcast(x, "u32"), 0x7fffff);
  return bitcast(and(bits, 0x7f800000), "f32");
}

const multiplied = new WeakSet<Tensor>();

/**
 * w as it is, but `linear` and `groupedLinear` multiply by it in FP8, in both gradients too; a matrix
 * that `dequantize` made of E4M3 in blocks of 128 × 128 is multiplied as it is stored, and gets no
 * gradient. For use inside `compile`.
 */
export function inFp8(w: Tensor): Tensor {
  if (storedInFp8(w)) {
    multiplied.add(w);
    return w;
  }
  const marked = apply1("identity", [w], { mark: "fp8" });
  multiplied.add(marked);
  return marked;
}

function storedInFp8(w: Tensor): Fp8Matrix | undefined {
  const stored = storedValues(w);
  const tiles = stored?.values.dtype === "f8e4m3" && stored.block.join() === TILES.join();
  return tiles ? stored : undefined;
}

/** Whether products with w are to be in FP8. */
export function isInFp8(w: Tensor): boolean {
  return multiplied.has(w);
}

/**
 * Whether products with these, which are `inFp8`, quantise them, in tiles of which none reaches into the
 * next matrix where they lie one below the other.
 */
export function joinsInTiles(ws: readonly Tensor[]): boolean {
  const ends = ws.slice(0, -1).every((w) => (w.shape.at(-2) as number) % TILES[0] === 0);
  return ends && ws.every((w) => storedInFp8(w) === undefined);
}

/** w in tiles; matrices joined where tiles end, each into its place. */
function inTiles(w: Tensor): Fp8Matrix {
  const joined = w.node?.inputs[0]?.node; // what inFp8 marked
  const rows = joined?.op === "concat" && joined.attrs.axis === w.rank - 2;
  if (!rows || !joinsInTiles(joined.inputs)) return quantizeFp8(stopGradient(w), TILES);
  const parts = joined.inputs.map((part) => quantizeFp8(stopGradient(part), TILES));
  const all = (of: "values" | "scale") =>
    concat(
      parts.map((part) => part[of]),
      -2,
    );
  return { values: all("values"), scale: all("scale"), block: TILES };
}

/** An activation or a gradient [N, D] in E4M3, scaled along what products with it contract. */
interface Quantized {
  /** [N, D] in blocks of 1 × 128: for the products with weights. */
  readonly rows: Fp8Matrix;
  /** [N, D] or, padded by zeros, [P, D] in blocks of 128 × 1: for the weights' gradient. */
  columns(): Fp8Matrix;
  /** Where runs start in the columns, if each has blocks of its own there: i32 [G + 1]. */
  readonly starts?: Tensor;
}

/**
 * x quantised both ways, by one kernel where the backend has it; the columns of an activation are then
 * what is kept for the backward pass. Elsewhere an activation is `kept` as rows, and its columns are made
 * of these (section 3.3.3), whatever the runs. Where a product learns nothing and rows are all it takes
 * (`rowsAlone`), these are best quantised by the loop that computes x.
 */
function quantized(x: Tensor, { kept, offsets, rowsAlone }: QuantizedOptions): Quantized {
  if (getBackend().quantizes && !rowsAlone) {
    const { columns, ...rest } = quantize(x, offsets);
    return { ...rest, columns: () => columns };
  }
  const rows = quantizeFp8(x, ROWS);
  const columns = () => quantizeFp8(kept ? dequantized(rows, x) : x, COLUMNS);
  return { rows, columns };
}

interface QuantizedOptions {
  readonly kept: boolean;
  readonly rowsAlone: boolean;
  /** Of runs of rows that columns are not to mix. */
  readonly offsets?: Tensor;
}

/** x [N, K] · wᵀ with w [M, K], as `linear`: [N, M] in x's dtype. */
export function fp8Linear(x: Tensor, w: Tensor): Tensor {
  const stored = storedInFp8(w);
  // Few rows take as long as reading the weights does, whatever they are multiplied in.
  if (stored && (x.shape[0] as number) <= FEW)
    return matmul(x, w, { transposeB: true, dtype: x.dtype });
  const rowsAlone = stored !== undefined;
  const activation = quantized(stopGradient(x), { kept: true, rowsAlone });
  const weights = stored ?? inTiles(w);
  const multiply = (a: Fp8Matrix, b: Fp8Matrix, transposes: MatmulOptions) =>
    matmul(a.values, b.values, { ...transposes, dtype: x.dtype, aScale: a, bScale: b });
  const product = customGradient(
    (_x: Tensor, _w: Tensor) => ({
      output: multiply(activation.rows, weights, { transposeB: true }),
      save: null,
    }),
    (_, dy: Tensor) => {
      const gradient = quantized(dy, { kept: false, rowsAlone });
      const dx = multiply(gradient.rows, weights, {});
      if (stored) return [dx, null];
      const dw = multiply(gradient.columns(), activation.columns(), { transposeA: true });
      return [dx, cast(dw, w.dtype)];
    },
  );
  return product(x, w);
}

/** {@link fp8Linear} with a matrix of w [G, M, K] per run of rows, as `groupedLinear`. */
export function fp8GroupedLinear(x: Tensor, w: Tensor, offsets: Tensor): Tensor {
  const stored = storedInFp8(w);
  const rowsAlone = stored !== undefined;
  const activation = quantized(stopGradient(x), { kept: true, rowsAlone, offsets });
  const weights = stored ?? inTiles(w);
  const multiply = (a: Fp8Matrix, transposeB: boolean) => {
    const scales = { aScale: a, bScale: weights };
    return groupedMatmul(a.values, weights.values, offsets, {
      transposeB,
      dtype: x.dtype,
      ...scales,
    });
  };
  const outer = (a: Quantized, b: Quantized) => {
    const [aScale, bScale] = [a.columns(), b.columns()];
    if (a.starts)
      return groupedOuter(aScale.values, bScale.values, a.starts, x.dtype, { aScale, bScale });
    // Runs end anywhere in a block of 128 rows, so the numbers are E4M3, but multiplied in x's dtype.
    return groupedOuter(dequantized(aScale, x), dequantized(bScale, x), offsets, x.dtype);
  };
  const product = customGradient(
    (_x: Tensor, _w: Tensor) => ({ output: multiply(activation.rows, true), save: null }),
    (_, dy: Tensor) => {
      const gradient = quantized(dy, { kept: false, rowsAlone, offsets });
      const dx = multiply(gradient.rows, false);
      if (stored) return [dx, null];
      const dw = outer(gradient, activation);
      return [dx, cast(dw, w.dtype)];
    },
  );
  return product(x, w);
}

/** E4M3 times a power of two is exact in bf16, too. */
function dequantized(x: Fp8Matrix, like: Tensor): Tensor {
  return cast(dequantize(x.values, x), like.dtype);
}
