/**
 * Matrix products over runs of rows whose bounds stand in device memory (the experts' tokens).
 *
 * The tensor-core kernel is persistent: one block a multiprocessor reads the offsets, numbers all
 * output tiles of 128 × (up to 256) of all runs, and takes every gridDim-th. Two warpgroups of 64
 * rows multiply; a third copies operands into a ring of stages of 64 along the contraction, and runs
 * ahead over tile boundaries. Rows that are looked up go by ordinary copies, all else by the bulk copy
 * engine. Which way an operand lies in memory only changes its tile in shared
 * memory and a bit of the instruction, so y = x·w, dx = dy·wᵀ and dw = xᵀ·dy are one kernel.
 */
import type { GroupedMatmulKernel, MatrixView } from "../contract.ts";
import type { DeviceInfo, Lowered } from "../kernel.ts";
import { LINES, lookups, matrixArgs, RUNS, scaleArgs } from "./grouped-shape.ts";
import { constants, hopper } from "./hopper.ts";
import { transposeBytes } from "./transpose-bytes.ts";

const BM = 128;
const STEP_BYTES = 128; // of the contraction in a stage: 64 bf16 or 128 e4m3
const BAND = 16; // row tiles that go together, so that they share columns of b in the L2 cache

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
  const { aRows, bRows } = k;
  const look = lookups(k);

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
  const panels = (count: number, box: (p: string) => string) =>
    `#pragma unroll
              for (int p = 0; p < ${count}; ++p) ${box("p")}`;
  const boxA = rowsForm
    ? "copy_box(stage, &a_map, step * BK, at.row, ring.full());"
    : panels(
        BM / 64,
        (p) => `copy_box(stage + ${p} * (BK * 128), &a_map, at.row + ${p} * 64, r0, ring.full());`,
      );
  const boxB = transposedB
    ? "copy_box(stage + B_AT, &b_map, step * BK, at.column, at.group, ring.full());"
    : panels(
        bn / 64,
        (p) =>
          `copy_box(stage + B_AT + ${p} * (BK * 128), &b_map, at.column + ${p} * 64, ${rowsForm ? "step * BK, at.group" : "r0"}, ring.full());`,
      );
  const boxed = [
    ...(aRows ? [] : [{ copy: boxA, bytes: "B_AT" }]),
    ...(bRows ? [] : [{ copy: boxB, bytes: "(STAGE_BYTES - B_AT)" }]),
  ];
  const bulk = `{
              barrier_expect(ring.full(), ${boxed.map(({ bytes }) => bytes).join(" + ") || 0});
              ${boxed.map(({ copy }) => copy).join("\n              ")}
            }`;
  const findA = (first: string, end: string) =>
    aRows ? `a_lines.find(thread, a, a_rows, ${first}, ${end}, ${aRows.extent}, ${a.row});` : "";
  const findB = (first: string) =>
    bRows ? `b_lines.find(thread, b, b_rows, ${first}, at.end, ${bRows.extent}, ${b.row});` : "";
  const beforeSteps = rowsForm
    ? findA("at.row", "ROWS")
    : `${findA("runs[at.group]", "at.end")}${findB("runs[at.group]")}`;
  // A run's last rows in "groups" form are followed by zeros in place of the next run's, which only
  // ordinary copies can do.
  const copies = rowsForm
    ? `if (thread == 0) ${bulk}
        ${
          aRows
            ? `a_lines.copy<1>(thread, stage, step * BK, K, a);
        copies_arrive(ring.full());`
            : ""
        }`
    : `const int r0 = runs[at.group] + step * BK;
        const bool whole = r0 + BK <= at.end;
        if (thread == 0) {
          if (whole) ${bulk} else barrier_arrive(ring.full());
        }
        ${
          aRows
            ? `a_lines.copy<BM / 64>(thread, stage, at.row, K, a);
        ${findA("r0 + BK", "at.end")}`
            : `if (!whole)
          copy_tile<BK, 0, BM, 64, 128>(stage, thread, a, [&](int r) {
            return r0 + r < at.end ? a + (i64)(r0 + r) * ${a.row} + at.row : nullptr; }, K - at.row);`
        }
        ${
          bRows
            ? `b_lines.copy<BN / 64>(thread, stage + B_AT, at.column, N, b);
        ${findB("r0 + BK")}`
            : `if (!whole)
          copy_tile<BK, 0, BN, 64, 128>(stage + B_AT, thread, b, [&](int r) {
            return r0 + r < at.end ? b + (i64)(r0 + r) * ${b.row} + at.column : nullptr; }, N - at.column);`
        }
        copies_arrive(ring.full());`;
  const linesOf = `${aRows ? `Lines<${rowsForm ? "BM" : "BK"}> a_lines;` : ""}${bRows ? " Lines<BK> b_lines;" : ""}`;
  // Who arrives at a full stage: the thread that asks the bulk copy engine, and whoever may copy.
  const producers = rowsForm && !aRows ? 1 : 129;
  const aMap = {
    slot: a.slot,
    offset: a.offset * bytes,
    dtype: a.dtype,
    dims: [k.k, aRows?.extent ?? k.rows],
    strides: [a.row * bytes],
    box: rowsForm ? [bk, BM] : [64, bk],
    swizzle: 128,
  } as const;
  const bMap = {
    ...(turned ? { workspace: 0 } : { slot: b.slot, offset: b.offset * bytes }),
    dtype: b.dtype,
    dims: rowsForm
      ? [...(transposedB ? [k.k, k.n] : [k.n, k.k]), k.groups]
      : [k.n, bRows?.extent ?? k.rows],
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
  })}${RUNS}${aRows || bRows ? LINES : ""}
struct Place { int group, row, column, end, steps; };
extern "C" __global__ void __launch_bounds__(384, 1) grouped_matmul(const ${a.dtype}* __restrict__ a, const ${b.dtype}* __restrict__ b,
    ${out.dtype}* __restrict__ out, const i32* __restrict__ offsets, const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap b_map${look.params}${f8 ? ",\n    const f32* __restrict__ a_scale, const f32* __restrict__ b_scale" : ""}) {
  extern __shared__ __align__(1024) u8 memory[];
  const u32 shared = shared_address(memory);
  const int thread = threadIdx.x & 127, warp_group = warpgroup(), lane = threadIdx.x & 31;
  i32* runs = (i32*)(memory + BARS + 128);
  i32* starts = runs + GROUPS + 1; // number of row tiles before each run
  Ring<STAGES> ring(shared + BARS);
  if (threadIdx.x == 0) {
    ring.init(${producers}, 8);
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
    registers_give<56>();
    ${linesOf}
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      find(index, at);
      ${beforeSteps}
      for (int step = 0; step < at.steps; ++step) {
        const u32 stage = shared + ring.stage * STAGE_BYTES;
        ring.wait_empty();
        ${copies}
        ring.next();
      }
    }
    copies_wait_all();
  } else { // multiplies 64 rows
    registers_take<224>();
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
        args: [
          ...matrixArgs(k),
          { tensorMap: aMap },
          { tensorMap: bMap },
          ...look.args,
          ...scaleArgs(k),
        ],
      },
    ],
  };
}
