/**
 * Quantisation to E4M3 along rows and along columns by one reading. A block takes 128 rows of one run ×
 * 128 columns: a thread 8 × 8 of them, which it keeps as they are. Maxima of rows are found by the 16
 * threads side by side, maxima of columns through shared memory. Rows are written as they lie; columns are
 * turned in registers, 8 bytes of each by a thread, and by way of shared memory, so that both are written
 * in lines of 128 bytes.
 */
import { dtypeBytes, type QuantizeKernel } from "../contract.ts";
import type { Arg, Lower } from "../kernel.ts";
import { RUNS_OF_ROWS } from "./grouped-shape.ts";
import { constants } from "./hopper.ts";

const TILE = 128;

/**
 * The exponent field of a block's scale, 2^⌈log2(largest / 448)⌉, as it comes of a division in f32, without
 * one: 448 is 1.75 · 2^8, the least scale 2^−126, and quotients up to 2^−150 (224 units of f32) are 0. Like
 * other NaN, that of a block gives 0. Then the scale, and what to multiply by in its place: exact, too.
 */
const SCALES = `
DEVICE u32 exponent_of(f32 largest) {
  const u32 bits = __float_as_uint(largest) & 0x7fffffffu, exponent = max((bits + 0x1fffffu) >> 23, 9u) - 8;
  return bits <= 224 || bits > 0x7f800000u ? 0u : bits == 0x7f800000u ? 255u : exponent;
}
DEVICE f32 scale_of(u32 exponent) { return __uint_as_float(exponent << 23); }
DEVICE f32 inverse_of(u32 exponent) {
  return __uint_as_float((exponent == 0 ? 127 : exponent == 255 ? 0 : 254 - exponent) << 23);
}
`;

/**
 * Finds the tile's rows: \`row\` to \`end\`. Every warp counts the blocks of all runs; tiles after the last
 * run's take rows in no run.
 */
const FIND = `
  int row = 0, end = 0, before = 0;
  bool in_run = false;
  #pragma unroll 4
  for (int g0 = 0; g0 < GROUPS; g0 += 32) {
    const int g = g0 + lane;
    const int from = g < GROUPS ? bound(offsets, g) : 0, to = g < GROUPS ? max(from, bound(offsets, g + 1)) : 0;
    const int own = (to - from + 127) / 128;
    int start = own;
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(FULL, start, d);
      if (lane >= d) start += other;
    }
    const int all = __shfl_sync(FULL, start, 31);
    start += before - own;
    before += all;
    if (blockIdx.x == 0 && warp == 0 && g < GROUPS) starts[g] = start * 128;
    const u32 here = __ballot_sync(FULL, start <= tile && tile < start + own);
    if (here != 0) {
      const int owner = __ffs(here) - 1;
      row = __shfl_sync(FULL, from + (tile - start) * 128, owner);
      end = __shfl_sync(FULL, to, owner);
      in_run = true;
    }
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) starts[GROUPS] = before * 128;
  if (!in_run) {
    row = bound(offsets, GROUPS) + (tile - before) * 128;
    end = ROWS;
  }`;

export const lowerQuantize: Lower<QuantizeKernel> = (k) => {
  const { rows, width, x, xRows, alongRows, alongColumns } = k;
  const runs = alongColumns?.runs;
  const length = alongColumns?.length ?? 0;
  // Rows in no run make one run more, of which only rows are wanted.
  const tiles =
    runs && alongRows
      ? Math.floor((rows + (TILE - 1) * (runs.groups + 1)) / TILE)
      : Math.max(length, Math.ceil(rows / TILE) * TILE) / TILE;
  const columnTiles = Math.max(1, Math.ceil(width / TILE));
  if (tiles === 0 || (width === 0 && !runs)) return { source: "", launches: [] };

  const bytes = dtypeBytes(x.dtype);
  const whole = width % 8 === 0;
  const vectors = whole && x.col === 1 && [x.offset, x.row].every((n) => (n * bytes) % 16 === 0);
  // Numbers are kept as words: as 16-bit values they would take a register each.
  const value =
    bytes === 4
      ? "__uint_as_float(raw[p][j])"
      : `to_f32(${x.dtype}{(u16)(raw[p][j / 2] >> 16 * (j & 1))})`;
  const bits = (at: string) =>
    bytes === 4 ? `__float_as_uint(${at})` : `(u32)${at}.bits << 16 * (j & 1)`;
  const line = `x + (i64)${xRows ? `looked_up(x_rows, r, ${xRows.extent})` : "r"} * ${x.row}`;
  const load = vectors
    ? `if (r < end && column < WIDTH) load_vec(raw[p], (const u32*)(${line} + column));`
    : `if (r < end)
      UNROLL for (int j = 0; j < 8; ++j)
        if (column + j < WIDTH) raw[p][j * ${bytes} / 4] |= ${bits(`(${line})[(i64)(column + j) * ${x.col}]`)};`;
  const storeRow = whole
    ? `if (r < end && column < WIDTH) *(uint2*)(values + (i64)r * WIDTH + column) = word;`
    : `if (r < end)
      for (int j = 0; j < 8; ++j)
        if (column + j < WIDTH) values[(i64)r * WIDTH + column + j] = (u8)((j < 4 ? word.x : word.y) >> 8 * (j & 3));`;
  const quantizeRows = `
  f32 row_scale = 0;
  UNROLL for (int p = 0; p < 8; ++p) {
    f32 largest = 0;
    UNROLL for (int j = 0; j < 8; ++j) largest = max_nan(largest, fabsf(value(p, j)));
    UNROLL for (int d = 1; d < 16; d *= 2) largest = max_nan(largest, __shfl_xor_sync(FULL, largest, d));
    const u32 exponent = exponent_of(largest);
    const f32 inverse = inverse_of(exponent);
    if (chunk == p) row_scale = scale_of(exponent);
    const uint2 word = four_and_four([&](int j) { return value(p, j) * inverse; });
    const int r = row + 8 * eight + p;
    ${storeRow}
  }
  if (chunk < 8 && row + 8 * eight + chunk < end)
    scales[(i64)(column0 / 128) * ROWS + row + 8 * eight + chunk] = row_scale;`;
  // Before anything else, since it needs all lines: none is asked for late.
  const findColumnScales = `
  UNROLL for (int j = 0; j < 8; ++j) {
    f32 largest = 0;
    UNROLL for (int p = 0; p < 8; ++p) largest = max_nan(largest, fabsf(value(p, j)));
    largest = max_nan(largest, __shfl_xor_sync(FULL, largest, 16));
    if (lane < 16) maxima[warp][16 * j + chunk] = largest;
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    f32 largest = 0;
    UNROLL for (int w = 0; w < 8; ++w) largest = max_nan(largest, maxima[w][threadIdx.x]);
    const u32 exponent = in_run ? exponent_of(largest) : 0;
    inverses[threadIdx.x] = inverse_of(exponent);
    const int c = column0 + threadIdx.x % 16 * 8 + threadIdx.x / 16;
    if (c < WIDTH && tile < LENGTH / 128) turned_scales[(i64)tile * WIDTH + c] = scale_of(exponent);
  }`;
  const quantizeColumns = `
  if (tile >= LENGTH / 128) return;
  __syncthreads();
  UNROLL for (int j = 0; j < 8; ++j) {
    const f32 inverse = inverses[16 * j + chunk];
    const uint2 word = four_and_four([&](int p) { return value(p, j) * inverse; });
    // Neighbours' words stand in other banks.
    words[(8 * chunk + j) * 16 + (eight ^ chunk)] = in_run ? word : uint2{0, 0};
  }
  __syncthreads();
  UNROLL for (int i = 0; i < 8; ++i) {
    const int c = 16 * i + eight;
    if (column0 + c < WIDTH)
      *(uint2*)(turned + (i64)(column0 + c) * LENGTH + (i64)tile * 128 + 8 * chunk) = words[c * 16 + (chunk ^ (c >> 3))];
  }`;

  const slot = (slot: number): Arg => ({ slot });
  const parameters: [string, Arg][] = [
    [`const ${x.dtype}* __restrict__ x`, { slot: x.slot, offset: x.offset * dtypeBytes(x.dtype) }],
  ];
  if (xRows) parameters.push(["const i32* __restrict__ x_rows", slot(xRows.slot)]);
  if (alongRows) {
    parameters.push(["u8* __restrict__ values", slot(alongRows.values)]);
    parameters.push(["f32* __restrict__ scales", slot(alongRows.scale)]);
  }
  if (alongColumns) {
    parameters.push(["u8* __restrict__ turned", slot(alongColumns.values)]);
    parameters.push(["f32* __restrict__ turned_scales", slot(alongColumns.scale)]);
  }
  if (runs) {
    parameters.push(["const i32* __restrict__ offsets", slot(runs.offsets)]);
    parameters.push(["i32* __restrict__ starts", slot(runs.starts)]);
  }
  // Three blocks of 16-bit numbers share a multiprocessor's registers.
  const blocks = bytes === 2 ? 3 : 1;
  const source = `${constants({
    ROWS: rows,
    WIDTH: width,
    LENGTH: length,
    GROUPS: runs?.groups ?? 0,
    COLUMN_TILES: columnTiles,
  })}${RUNS_OF_ROWS}${SCALES}
template <class Value> DEVICE uint2 four_and_four(Value value) {
  return uint2{to_e4m3x2(value(0), value(1)) | to_e4m3x2(value(2), value(3)) << 16,
               to_e4m3x2(value(4), value(5)) | to_e4m3x2(value(6), value(7)) << 16};
}
extern "C" __global__ void __launch_bounds__(256, ${blocks}) quantize(${parameters.map(([p]) => p).join(", ")}) {
  ${
    alongColumns
      ? `__shared__ f32 maxima[8][128];
  __shared__ f32 inverses[128]; // of column 8 * (i % 16) + i / 16
  __shared__ uint2 words[128 * 16];`
      : ""
  }
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int chunk = lane & 15, eight = threadIdx.x >> 4; // of columns and rows
  const int tile = blockIdx.x / COLUMN_TILES, column0 = blockIdx.x % COLUMN_TILES * 128, column = column0 + 8 * chunk;
  ${runs ? FIND : "const int row = tile * 128, end = ROWS;\n  const bool in_run = true;"}
  u32 raw[8][${2 * bytes}];
  const auto value = [&](int p, int j) { return ${value}; };
  UNROLL for (int p = 0; p < 8; ++p) {
    UNROLL for (int i = 0; i < ${2 * bytes}; ++i) raw[p][i] = 0;
    const int r = row + 8 * eight + p;
    ${load}
  }
  ${alongColumns ? findColumnScales : ""}
  ${alongRows ? quantizeRows : ""}
  ${alongColumns ? quantizeColumns : ""}
}
`;
  return {
    source,
    launches: [
      {
        entry: "quantize",
        grid: [tiles * columnTiles],
        block: [256],
        args: parameters.map(([, arg]) => arg),
      },
    ],
  };
};
