/**
 * Matrix products over runs of rows whose bounds stand in device memory (the experts' tokens).
 *
 * The tensor-core kernel is persistent: one block a multiprocessor reads the offsets, numbers all
 * output tiles of 128 × (up to 256) of all runs, and takes every gridDim-th. Two warpgroups of 64
 * rows multiply; a third copies operands into a ring of stages of 64 along the contraction, and runs
 * ahead over tile boundaries. Which way an operand lies in memory only changes its tile in shared
 * memory and a bit of the instruction, so y = x·w, dx = dy·wᵀ and dw = xᵀ·dy are one kernel.
 */
import type { GroupedMatmulKernel, MatrixView } from "../contract.ts";
import { dtypeBytes } from "../contract.ts";
import type { Arg, DeviceInfo, Lowered } from "../kernel.ts";
import { constants, hopper } from "./hopper.ts";
import { transposeBytes } from "./transpose-bytes.ts";

const BM = 128;
const STEP_BYTES = 128; // of the contraction in a stage: 64 bf16 or 128 e4m3
const BAND = 16; // row tiles that go together, so that they share columns of b in the L2 cache

/** Bounds of run g, kept inside the matrix whatever the offsets say. */
const RUNS = `
DEVICE int bound(const i32* offsets, int g) { return min(max(offsets[g], 0), ROWS); }
// Rows before the first and after the last run are zeros.
template <class T> DEVICE void zero_outside(T* out, const i32* offsets) {
  const i64 head = (i64)bound(offsets, 0) * N, tail = (i64)bound(offsets, GROUPS) * N, all = (i64)ROWS * N;
  const i64 count = head + all - tail;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (i64)gridDim.x * blockDim.x)
    out[i < head ? i : tail + i - head] = from_f32<T>(0.0f);
}
`;

/** Rows (of the given axis) start at multiples of 16 bytes and are contiguous. */
function copyable(view: MatrixView, across: number): boolean {
  const strides = [view.offset, across, ...view.batch];
  return view.dtype === "bf16" && view.scale === undefined && strides.every((s) => s % 8 === 0);
}

/** The tile width that wastes least of n, counting what a narrower tile costs in re-reading a. */
export function tileWidth(n: number): number {
  const cost = (width: number) => Math.ceil(n / width) * (width + 48);
  return [256, 192, 128, 64].reduce((best, width) => (cost(width) < cost(best) ? width : best));
}

/** Scales as DeepSeek-V3 has them: 1 × 128 for a, 128 × 128 for b, both e4m3 and contiguous along k. */
function blockScaled({ form, a, b }: GroupedMatmulKernel): boolean {
  return (
    form === "rows" &&
    a.dtype === "f8e4m3" &&
    b.dtype === "f8e4m3" &&
    b.row === 1 &&
    [a.offset, a.row, b.offset, b.col, ...b.batch].every((s) => s % 16 === 0) &&
    a.scale?.block.join() === "1,128" &&
    b.scale?.block.join() === "128,128"
  );
}

/** The weights turned over, so that they lie along the contraction: the view of the copy, and its making. */
function turnedWeights(k: GroupedMatmulKernel) {
  const { b } = k;
  const { source, launch } = transposeBytes(
    {
      ...{ from: { slot: b.slot, offset: b.offset }, to: { workspace: 0 }, batch: k.groups },
      ...{ rows: k.k, columns: k.n, leading: b.row, stride: b.batch[0] ?? 0 },
    },
    "turn_weights",
  );
  const dense = { offset: 0, batch: [k.k * k.n], row: 1, col: k.k };
  return { view: { ...b, ...dense }, source, launch, workspace: k.groups * k.k * k.n };
}

/**
 * Takes bf16 operands, or e4m3 with block scales in "rows" form, with bf16 or f32 output on Hopper;
 * undefined for anything else.
 */
export function hopperGroupedMatmul(
  given: GroupedMatmulKernel,
  device: DeviceInfo,
): Lowered | undefined {
  const across = given.b.col === 1 && given.b.row !== 1 && given.b.dtype === "f8e4m3";
  const turned = across ? turnedWeights(given) : undefined;
  const k = turned ? { ...given, b: turned.view } : given;
  if (turned && !blockScaled(k)) return undefined;
  const rowsForm = k.form === "rows";
  const transposedB = rowsForm && k.b.row === 1 && k.b.col !== 1;
  const { a, b, out } = k;
  if (device.computeCapability !== 90 || (out.dtype !== "bf16" && out.dtype !== "f32"))
    return undefined;
  if (k.rows * k.k * k.n * k.groups === 0) return undefined;
  const f8 = blockScaled(k);
  if (a.col !== 1 || k.k % (f8 ? 16 : 8) !== 0 || k.n % 8 !== 0 || out.offset !== 0)
    return undefined;
  if (!f8) {
    if ((transposedB ? b.row : b.col) !== 1) return undefined;
    if (!copyable(a, a.row) || !copyable(b, transposedB ? b.col : b.row)) return undefined;
  }

  // 8-bit sums are kept twice, so the tile is half as wide: one block of scales.
  const bn = f8 ? 128 : tileWidth(k.n);
  const bytes = f8 ? 1 : 2;
  const bk = STEP_BYTES / bytes;
  const aBytes = BM * STEP_BYTES;
  const table = (2 * k.groups + 2) * 4;
  const stageBytes = aBytes + bn * STEP_BYTES;
  const stages = Math.min(6, Math.floor((device.sharedPerBlock - 128 - table) / stageBytes));
  if (stages < 2) return undefined;
  const shared = stages * stageBytes + 128 + table;
  const columnTiles = Math.ceil(k.n / bn);
  const groupStride = b.batch[0] ?? 0;

  // What differs between the forms: how tiles are found, what is copied, where results go.
  const find = rowsForm
    ? `
  // Tile \`index\` of all: its run, rows and columns. Calls go up in index.
  const auto find = [&](int index, Place& at) {
    while (index >= starts[at.group + 1] * COLUMN_TILES) ++at.group;
    const int first = starts[at.group], tiles = starts[at.group + 1] - first, local = index - first * COLUMN_TILES;
    const int band = local / (BAND * COLUMN_TILES), in_band = local % (BAND * COLUMN_TILES), height = min(BAND, tiles - band * BAND);
    at.row = runs[at.group] + (band * BAND + in_band % height) * BM;
    at.column = in_band / height * BN;
    at.end = runs[at.group + 1];
    at.steps = (K + BK - 1) / BK;
  };
  const int tiles = starts[GROUPS] * COLUMN_TILES;`
    : `
  const auto find = [&](int index, Place& at) {
    const int local = index % (M_TILES * COLUMN_TILES);
    at.group = index / (M_TILES * COLUMN_TILES);
    at.row = local % M_TILES * BM;
    at.column = local / M_TILES * BN;
    at.end = runs[at.group + 1];
    at.steps = (max(at.end - runs[at.group], 0) + BK - 1) / BK;
  };
  const int tiles = GROUPS * M_TILES * COLUMN_TILES;`;
  // Whole stages go by the bulk copy engine. A run's last rows in "groups" form are followed by zeros
  // in place of the next run's, which only ordinary copies can do.
  const panels = (count: number, box: (p: string) => string) =>
    `#pragma unroll
            for (int p = 0; p < ${count}; ++p) ${box("p")}`;
  const boxes = rowsForm
    ? `copy_box(stage, &a_map, step * BK, at.row, ring.full());
            ${
              transposedB
                ? "copy_box(stage + B_AT, &b_map, step * BK, at.column, at.group, ring.full());"
                : panels(
                    bn / 64,
                    (p) =>
                      `copy_box(stage + B_AT + ${p} * (BK * 128), &b_map, at.column + ${p} * 64, step * BK, at.group, ring.full());`,
                  )
            }`
    : `${panels(BM / 64, (p) => `copy_box(stage + ${p} * (BK * 128), &a_map, at.row + ${p} * 64, r0, ring.full());`)}
            ${panels(bn / 64, (p) => `copy_box(stage + B_AT + ${p} * (BK * 128), &b_map, at.column + ${p} * 64, r0, ring.full());`)}`;
  const copies = rowsForm
    ? `if (thread == 0) {
            barrier_expect(ring.full(), STAGE_BYTES);
            ${boxes}
          }`
    : `const int r0 = runs[at.group] + step * BK;
          if (r0 + BK <= at.end) {
            if (thread == 0) {
              barrier_expect(ring.full(), STAGE_BYTES);
              ${boxes}
            } else barrier_arrive(ring.full());
          } else {
            copy_tile<BK, 0, BM, 64, 128>(stage, thread, a, [&](int r) {
              return r0 + r < at.end ? a + (i64)(r0 + r) * ${a.row} + at.row : nullptr; }, K - at.row);
            copy_tile<BK, 0, BN, 64, 128>(stage + B_AT, thread, a, [&](int r) {
              return r0 + r < at.end ? b + (i64)(r0 + r) * ${b.row} + at.column : nullptr; }, N - at.column);
            copies_arrive(ring.full());
          }`;
  const aMap = {
    slot: a.slot,
    offset: a.offset * bytes,
    dtype: a.dtype,
    dims: [k.k, k.rows],
    strides: [a.row * bytes],
    box: rowsForm ? [bk, BM] : [64, bk],
    swizzle: 128,
  } as const;
  const bMap = {
    ...(turned ? { workspace: 0 } : { slot: b.slot, offset: b.offset * bytes }),
    dtype: b.dtype,
    dims: rowsForm ? [...(transposedB ? [k.k, k.n] : [k.n, k.k]), k.groups] : [k.n, k.rows],
    strides: rowsForm
      ? [(transposedB ? b.col : b.row) * bytes, (groupStride || k.k * k.n) * bytes]
      : [b.row * bytes],
    box: rowsForm ? (transposedB ? [bk, bn, 1] : [64, bk, 1]) : [64, bk],
    swizzle: 128,
    // Where runs are short weights are most of what is read: lines of theirs come in pairs.
    ...(rowsForm && k.rows < BM * k.groups && { promotion: 256 as const }),
  } as const;
  const aDesc = rowsForm
    ? "k_major<64>(stage + part * (64 * 128))"
    : "mn_major<64, BK>(stage + part * (BK * 128))";
  const bDesc = `${transposedB ? "k_major<64>" : "mn_major<64, BK>"}(stage + B_AT)`;
  const aStep = rowsForm ? "k_step<64, BM>" : "mn_step<64>";
  const bStep = transposedB ? "k_step<64, BN>" : "mn_step<64>";
  const multiply = `const u64 a_desc = ${aDesc}, b_desc = ${bDesc};
        pin(sum);
        wgmma_begin();
        #pragma unroll
        for (int i = 0; i < BK / 16; ++i)
          wgmma_ss<${Number(!rowsForm)}, ${Number(!transposedB)}>(sum, a_desc + ${aStep}(i), b_desc + ${bStep}(i), 1);
        wgmma_commit();
        wgmma_wait<1>(); // the previous step's
        if (held_empty && lane == 0) barrier_arrive(held_empty);`;
  // The tensor cores add 8-bit products in fewer bits than f32 has, so every 128 are added up outside
  // (DeepSeek-V3, section 3.3.2), which is also where the scales change.
  const multiplyF8 = `const u64 a_desc = ${aDesc}, b_desc = ${bDesc};
        f32 product[BN / 2], scale[2];
        pin(product);
        wgmma_begin();
        #pragma unroll
        for (int i = 0; i < 4; ++i) wgmma_f8(product, a_desc + k_step<64, BM>(i), b_desc + k_step<64, BN>(i), i > 0);
        wgmma_commit();
        const f32 scale_b = b_scale[(i64)at.group * ${b.scale?.batch[0] ?? 0} + (i64)step * ${b.scale?.row} + (i64)(at.column / 128) * ${b.scale?.col}];
        #pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int r = min(at.row + part * 64 + (thread >> 5) * 16 + (lane >> 2) + 8 * h, ROWS - 1);
          scale[h] = scale_b * a_scale[(i64)r * ${a.scale?.row} + (i64)step * ${a.scale?.col}];
        }
        wgmma_wait<0>();
        pin(product);
        if (lane == 0) barrier_arrive(ring.empty());
        #pragma unroll
        for (int i = 0; i < BN / 2; ++i) sum[i] += product[i] * scale[i >> 1 & 1];`;
  const source = `${f8 ? hopper([], [bn]) : hopper([bn])}${constants({
    BM,
    BK: bk,
    BN: bn,
    BAND,
    ROWS: k.rows,
    GROUPS: k.groups,
    K: k.k,
    N: k.n,
    COLUMN_TILES: columnTiles,
    M_TILES: Math.ceil(k.k / BM),
    STAGES: stages,
    STAGE_BYTES: stageBytes,
    B_AT: aBytes,
    BARS: stages * stageBytes,
  })}${RUNS}
struct Place { int group, row, column, end, steps; };
extern "C" __global__ void __launch_bounds__(384, 1) grouped_matmul(const ${a.dtype}* __restrict__ a, const ${b.dtype}* __restrict__ b,
    ${out.dtype}* __restrict__ out, const i32* __restrict__ offsets, const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap b_map${f8 ? ",\n    const f32* __restrict__ a_scale, const f32* __restrict__ b_scale" : ""}) {
  extern __shared__ __align__(1024) u8 memory[];
  const u32 shared = shared_address(memory);
  const int thread = threadIdx.x & 127, warp_group = warpgroup(), lane = threadIdx.x & 31;
  i32* runs = (i32*)(memory + BARS + 128);
  i32* starts = runs + GROUPS + 1; // number of row tiles before each run
  Ring<STAGES> ring(shared + BARS);
  if (threadIdx.x == 0) {
    ring.init(${rowsForm ? 1 : 128}, 8);
    fence_async();
  }
  for (int g = threadIdx.x; g <= GROUPS; g += 384) runs[g] = bound(offsets, g);
  __syncthreads();
  if (threadIdx.x < 32) {
    int before = 0;
    for (int g0 = 0; g0 < GROUPS; g0 += 32) {
      const int g = g0 + lane;
      const int own = g < GROUPS ? (max(runs[g + 1] - runs[g], 0) + BM - 1) / BM : 0;
      int sum = own;
      for (int d = 1; d < 32; d *= 2) {
        const int other = __shfl_up_sync(FULL, sum, d);
        if (lane >= d) sum += other;
      }
      if (g < GROUPS) starts[g] = before + sum - own;
      before += __shfl_sync(FULL, sum, 31);
    }
    if (lane == 0) starts[GROUPS] = before;
  }
  ${rowsForm ? "zero_outside(out, offsets);" : ""}
  __syncthreads();
${find}

  Place at;
  at.group = 0;
  if (warp_group == 0) { // copies
    registers_give<40>();
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      find(index, at);
      for (int step = 0; step < at.steps; ++step) {
        const u32 stage = shared + ring.stage * STAGE_BYTES;
        ring.wait_empty();
        ${copies}
        ring.next();
      }
    }
    copies_wait_all();
  } else { // multiplies 64 rows
    registers_take<232>();
    const int part = warp_group - 1;
    f32 sum[BN / 2];
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      find(index, at);
      #pragma unroll
      for (int i = 0; i < BN / 2; ++i) sum[i] = 0;
      u32 held_empty = 0;
      for (int step = 0; step < at.steps; ++step) {
        const u32 stage = shared + ring.stage * STAGE_BYTES;
        ring.wait_full();
        ${f8 ? multiplyF8 : multiply}
        ${f8 ? "" : "held_empty = ring.empty();"}
        ring.next();
      }
      wgmma_wait<0>();
      pin(sum);
      if (held_empty && lane == 0) barrier_arrive(held_empty);
      const int row = at.row + part * 64 + (thread >> 5) * 16 + (lane >> 2);
      const int end = ${rowsForm ? "at.end" : "K"};
      ${out.dtype}* to = out + ${rowsForm ? "" : `(i64)at.group * ${out.batch[0] ?? k.k * k.n} + `}(i64)row * N + at.column;
      store_rows(sum, row < end ? to : nullptr, row + 8 < end ? to + 8 * (i64)N : nullptr, N - at.column, 1.0f, 1.0f);
    }
  }
}
`;
  return {
    source: turned ? turned.source + source : source,
    ...(turned && { workspace: turned.workspace }),
    launches: [
      ...(turned ? [turned.launch] : []),
      {
        entry: "grouped_matmul",
        grid: [device.multiprocessors],
        block: [384],
        shared,
        args: [...matrixArgs(k), { tensorMap: aMap }, { tensorMap: bMap }, ...scaleArgs(k)],
      },
    ],
  };
}

function matrixArgs(k: GroupedMatmulKernel): Arg[] {
  const view = (v: MatrixView): Arg => ({ slot: v.slot, offset: v.offset * dtypeBytes(v.dtype) });
  return [view(k.a), view(k.b), view(k.out), { slot: k.offsets }];
}

function scaleArgs({ a, b }: GroupedMatmulKernel): Arg[] {
  return [a, b].flatMap((view) => (view.scale ? [{ slot: view.scale.slot }] : []));
}

/** Element (r, c) of batch element g as f32 CUDA C++, times its block scale. */
function element(view: MatrixView, name: string, g: string, r: string, c: string): string {
  const value = `to_f32(${name}[(i64)${g} * ${view.batch[0] ?? 0} + (i64)(${r}) * ${view.row} + (i64)(${c}) * ${view.col}])`;
  const s = view.scale;
  return s
    ? `${value} * ${name}_scale[(i64)${g} * ${s.batch[0] ?? 0} + (i64)((${r}) / ${s.block[0]}) * ${s.row} + (i64)((${c}) / ${s.block[1]}) * ${s.col}]`
    : value;
}

/** Any float dtypes, strides and block scales, in f32 on the ordinary cores: 64 × 64 tiles, 4 × 4 a thread. */
export function plainGroupedMatmul(k: GroupedMatmulKernel): Lowered {
  const rowsForm = k.form === "rows";
  const scaled = (["a", "b"] as const).filter((name) => k[name].scale !== undefined);
  const source = `${constants({ ROWS: k.rows, GROUPS: k.groups, K: k.k, N: k.n })}${RUNS}
extern "C" __global__ void __launch_bounds__(256) grouped_matmul_plain(const ${k.a.dtype}* __restrict__ a, const ${k.b.dtype}* __restrict__ b,
    ${k.out.dtype}* __restrict__ out, const i32* __restrict__ offsets${scaled.map((name) => `, const f32* __restrict__ ${name}_scale`).join("")}) {
  __shared__ f32 as[16][65], bs[16][65];
  const int x = threadIdx.x & 15, y = threadIdx.x >> 4;
  ${
    rowsForm
      ? `if (blockIdx.y == 0) zero_outside(out, offsets);
  int g = 0, tile = blockIdx.y, begin = 0, end = 0;
  for (; g < GROUPS; ++g) {
    begin = bound(offsets, g), end = max(begin, bound(offsets, g + 1));
    const int tiles = (end - begin + 63) / 64;
    if (tile < tiles) break;
    tile -= tiles;
  }
  if (g == GROUPS) return;
  const int row0 = begin + tile * 64, column0 = blockIdx.x * 64, inner = K;`
      : `const int g = blockIdx.z, row0 = blockIdx.y * 64, column0 = blockIdx.x * 64, end = K;
  const int begin = bound(offsets, g), inner = max(0, bound(offsets, g + 1) - begin);`
  }
  f32 sum[4][4] = {};
  for (int k0 = 0; k0 < inner; k0 += 16) {
    __syncthreads();
    for (int i = threadIdx.x; i < 1024; i += 256) {
      ${rowsForm ? "const int ka = i & 15, r = i >> 4;" : "const int ka = i >> 6, r = i & 63;"}
      as[ka][r] = k0 + ka < inner && row0 + r < end ? ${rowsForm ? element(k.a, "a", "0", "row0 + r", "k0 + ka") : element(k.a, "a", "0", "begin + k0 + ka", "row0 + r")} : 0.0f;
      ${rowsForm && k.b.row === 1 ? "const int kb = i & 15, c = i >> 4;" : "const int kb = i >> 6, c = i & 63;"}
      bs[kb][c] = k0 + kb < inner && column0 + c < N ? ${rowsForm ? element(k.b, "b", "g", "k0 + kb", "column0 + c") : element(k.b, "b", "0", "begin + k0 + kb", "column0 + c")} : 0.0f;
    }
    __syncthreads();
    for (int k = 0; k < 16; ++k)
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) sum[i][j] += as[k][y + 16 * i] * bs[k][x + 16 * j];
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int r = row0 + y + 16 * i, c = column0 + x + 16 * j;
      if (r < end && c < N) out[${rowsForm ? "" : `(i64)g * ${k.out.batch[0] ?? k.k * k.n} + `}(i64)r * N + c] = from_f32<${k.out.dtype}>(sum[i][j]);
    }
}
`;
  if (k.n * (rowsForm ? k.rows : k.k * k.groups) === 0) return { source, launches: [] };
  const columns = Math.ceil(k.n / 64);
  return {
    source,
    launches: [
      {
        entry: "grouped_matmul_plain",
        grid: rowsForm
          ? [columns, Math.ceil(k.rows / 64) + k.groups]
          : [columns, Math.ceil(k.k / 64), k.groups],
        block: [256],
        args: [...matrixArgs(k), ...scaleArgs(k)],
      },
    ],
  };
}
