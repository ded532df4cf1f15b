/**
 * DeepSeek-V3's FP8 weights: E4M3 values, and one f32 multiplier (`weight_scale_inv`) for each block
 * of 128 by 128. Blocks at the right and lower edge may be partial.
 * (DeepSeek-V3 technical report, section 3.3; README_WEIGHTS.md of the official repository.)
 */
import { fromF32, toF32 } from "@dsv3/tensor/dtype";

/** Of a matrix, or of a block within one. */
export type MatrixShape = readonly [rows: number, columns: number];

export const FP8_BLOCK: MatrixShape = [128, 128];

const E4M3_MAX = 448;

export interface Fp8Blocks {
  /** E4M3 bits, [rows, columns]. */
  data: Uint8Array<ArrayBuffer>;
  /** Multipliers, {@link scaleShape}. */
  scaleInv: Float32Array<ArrayBuffer>;
}

/** Shape of the multipliers of a matrix. */
export function scaleShape(
  [rows, columns]: MatrixShape,
  block: MatrixShape = FP8_BLOCK,
): [number, number] {
  return [Math.ceil(rows / block[0]), Math.ceil(columns / block[1])];
}

/**
 * Quantises a matrix: each block's multiplier is its largest magnitude / 448, so that this value is
 * kept exactly, but for the rounding of the multiplier. Blocks of zeros get 1.
 * @param values [rows, columns]
 * @throws RangeError for NaN or infinity, which would spoil their block
 */
export function quantizeFp8Blocks(
  values: Float32Array,
  shape: MatrixShape,
  block: MatrixShape = FP8_BLOCK,
): Fp8Blocks {
  const scaleInv = blockScales(values, shape, block);
  const scaled = new Float32Array(values.length);
  forEachRun(shape, block, 0, (begin, end, blockIndex) => {
    const scale = scaleInv[blockIndex] as number;
    for (let i = begin; i < end; i++) scaled[i] = (values[i] as number) / scale;
  });
  return { data: fromF32(scaled, "f8e4m3"), scaleInv };
}

/** The multipliers of {@link quantizeFp8Blocks} alone. */
export function blockScales(
  values: Float32Array,
  shape: MatrixShape,
  block: MatrixShape = FP8_BLOCK,
): Float32Array<ArrayBuffer> {
  checkSize(values.length, shape);
  const [blocksDown, blocksAcross] = scaleShape(shape, block);
  const scaleInv = new Float32Array(blocksDown * blocksAcross);
  forEachRun(shape, block, 0, (begin, end, blockIndex) => {
    let amax = scaleInv[blockIndex] as number;
    for (let i = begin; i < end; i++) {
      const magnitude = Math.abs(values[i] as number);
      if (!(magnitude < Infinity)) {
        const [row, column] = [Math.floor(i / shape[1]), i % shape[1]];
        throw new RangeError(`cannot quantise ${values[i]} at row ${row}, column ${column}`);
      }
      if (magnitude > amax) amax = magnitude;
    }
    scaleInv[blockIndex] = amax;
  });
  // "|| 1": for zeros, and for magnitudes so small that the quotient is none.
  for (let i = 0; i < scaleInv.length; i++) {
    scaleInv[i] = Math.fround((scaleInv[i] as number) / E4M3_MAX) || 1;
  }
  return scaleInv;
}

/** The matrix that {@link quantizeFp8Blocks} kept: every value times its block's multiplier. */
export function dequantizeFp8Blocks(
  data: Uint8Array,
  scaleInv: Float32Array,
  shape: MatrixShape,
  block: MatrixShape = FP8_BLOCK,
): Float32Array {
  checkSize(data.length, shape);
  const values = toF32(data, "f8e4m3");
  multiplyBlocks(values, scaleInv, shape, block, 0);
  return values;
}

/**
 * Multiplies rows of a matrix, in place, by their blocks' multipliers.
 * @param values rows `firstRow`, `firstRow + 1`, … of the matrix, counted from a block's first row
 */
export function multiplyBlocks(
  values: Float32Array,
  scaleInv: Float32Array,
  shape: MatrixShape,
  block: MatrixShape,
  firstRow: number,
): void {
  const [blockRows, blockColumns] = scaleShape([firstRow + shape[0], shape[1]], block);
  if (scaleInv.length !== blockRows * blockColumns) {
    throw new RangeError(
      `${scaleInv.length} multipliers for ${blockRows} by ${blockColumns} blocks`,
    );
  }
  forEachRun(shape, block, firstRow, (begin, end, blockIndex) => {
    const scale = scaleInv[blockIndex] as number;
    for (let i = begin; i < end; i++) values[i] = (values[i] as number) * scale;
  });
}

/** Visits the matrix row by row, in runs of elements [begin, end) that share a block. */
function forEachRun(
  [rows, columns]: MatrixShape,
  [blockRows, blockColumns]: MatrixShape,
  firstRow: number,
  visit: (begin: number, end: number, blockIndex: number) => void,
): void {
  const blocksAcross = Math.ceil(columns / blockColumns);
  for (let row = 0; row < rows; row++) {
    const rowBegin = row * columns;
    let blockIndex = Math.floor((firstRow + row) / blockRows) * blocksAcross;
    for (let column = 0; column < columns; column += blockColumns) {
      const end = rowBegin + Math.min(column + blockColumns, columns);
      visit(rowBegin + column, end, blockIndex++);
    }
  }
}

function checkSize(length: number, [rows, columns]: MatrixShape): void {
  if (length !== rows * columns) {
    throw new RangeError(`${length} values do not make a matrix of ${rows} by ${columns}`);
  }
}
