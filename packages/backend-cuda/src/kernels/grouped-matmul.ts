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
import { blockScaled, multiplyScaled, scaleMap, turnedWeights } from "./grouped-fp8.ts";
import { LINES, lookups, matrixArgs, RUNS, scaleArgs } from "./grouped-shape.ts";
import { constants, hopper } from "./hopper.ts";

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

/**
 * Takes bf16 operands, or e4m3 with block scales, with bf16 or f32 output on Hopper; undefined for
 * anything else.
 */
export function hopperGroupedMatmul(
  given: GroupedMatmulKernel,
  device: DeviceInfo,
): Lowered | undefined {
  const rowsForm = given.form === "rows";
  const across = rowsForm && given.b.col === 1 && given.b.row !== 1 && given.b.dtype === "f8e4m3";
  const turned = across ? turnedWeights(given) : undefined;
  const k = turned ? { ...given, b: turned.view } : given;
  if (turned && !blockScaled(k)) return undefined;
  const { a, b, out } = k;
  if (device.computeCapability !== 90 || (out.dtype !== "bf16" && out.dtype !== "f32"))
    return undefined;
  if (k.rows * k.k * k.n * k.groups === 0) return undefined;
  const f8 = blockScaled(k);
  // Which operands lie along the contraction.
  const [alongA, alongB] = [rowsForm || f8, f8 || (rowsForm && b.row === 1 && b.col !== 1)];
  if (k.k % (f8 && rowsForm ? 16 : 8) !== 0 || k.n % 8 !== 0 || out.offset !== 0) return undefined;
  if (!f8) {
    if (a.col !== 1 || (alongB ? b.row : b.col) !== 1) return undefined;
    if (!copyable(a, a.row) || !copyable(b, alongB ? b.col : b.row)) return undefined;
  }

  // 8-bit sums are kept twice, so the tile is half as wide: one block of scales.
  const bn = f8 ? 128 : tileWidth(k.n);
  const bytes = f8 ? 1 : 2;
  const bk = STEP_BYTES / bytes;
  const aBytes = BM * STEP_BYTES;
  const table = (2 * k.groups + 2) * 4;
  const bBytes = bn * STEP_BYTES;
  // In "groups" the scales of a step are copied with it.
  const stagedScales = f8 && !rowsForm;
  const stageBytes = aBytes + bBytes + (stagedScales ? (BM + bn) * 4 : 0);
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
  const boxA = alongA
    ? `copy_box(stage, &a_map, ${rowsForm ? "step * BK" : "r0"}, at.row, ring.full());`
    : panels(
        BM / 64,
        (p) => `copy_box(stage + ${p} * (BK * 128), &a_map, at.row + ${p} * 64, r0, ring.full());`,
      );
  const boxB = alongB
    ? `copy_box(stage + B_AT, &b_map, ${rowsForm ? "step * BK, at.column, at.group" : "r0, at.column"}, ring.full());`
    : panels(
        bn / 64,
        (p) =>
          `copy_box(stage + B_AT + ${p} * (BK * 128), &b_map, at.column + ${p} * 64, ${rowsForm ? "step * BK, at.group" : "r0"}, ring.full());`,
      );
  const boxed = [
    ...(aRows ? [] : [{ copy: boxA, bytes: aBytes }]),
    ...(bRows ? [] : [{ copy: boxB, bytes: bBytes }]),
    ...(stagedScales
      ? [
          {
            copy: "copy_box(stage + SCALES_AT, &a_scales, at.row, r0 / BK, ring.full());",
            bytes: BM * 4,
          },
          {
            copy: "copy_box(stage + SCALES_AT + BM * 4, &b_scales, at.column, r0 / BK, ring.full());",
            bytes: bn * 4,
          },
        ]
      : []),
  ];
  const bulk = `{
              barrier_expect(ring.full(), ${boxed.reduce((sum, { bytes }) => sum + bytes, 0)});
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
    : f8
      ? `const int r0 = runs[at.group] + step * BK;
        if (thread == 0) ${bulk}`
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
  const producers = f8 || (rowsForm && !aRows) ? 1 : 129;
  const aMap = {
    slot: a.slot,
    offset: a.offset * bytes,
    dtype: a.dtype,
    dims: stagedScales ? [k.rows, k.k] : [k.k, aRows?.extent ?? k.rows],
    strides: [(stagedScales ? a.col : a.row) * bytes],
    box: alongA ? [bk, BM] : [64, bk],
    swizzle: 128,
  } as const;
  const bMap = {
    ...(turned ? { workspace: 0 } : { slot: b.slot, offset: b.offset * bytes }),
    dtype: b.dtype,
    dims: rowsForm
      ? [...(alongB ? [k.k, k.n] : [k.n, k.k]), k.groups]
      : alongB
        ? [k.rows, k.n]
        : [k.n, bRows?.extent ?? k.rows],
    strides: [
      (alongB ? b.col : b.row) * bytes,
      ...(rowsForm ? [(groupStride || k.k * k.n) * bytes] : []),
    ],
    box: [...(alongB ? [bk, bn] : [64, bk]), ...(rowsForm ? [1] : [])],
    swizzle: 128,
    // Where runs are short weights are most of what is read: lines of theirs come in pairs.
    ...(rowsForm && k.rows < BM * k.groups && { promotion: 256 as const }),
  } as const;
  const aDesc = alongA
    ? "k_major<64>(stage + part * (64 * 128))"
    : "mn_major<64, BK>(stage + part * (BK * 128))";
  const bDesc = `${alongB ? "k_major<64>" : "mn_major<64, BK>"}(stage + B_AT)`;
  const aStep = alongA ? "k_step<64, BM>" : "mn_step<64>";
  const bStep = alongB ? "k_step<64, BN>" : "mn_step<64>";
  const multiply = `const u64 a_desc = ${aDesc}, b_desc = ${bDesc};
        pin(sum);
        wgmma_begin();
        #pragma unroll
        for (int i = 0; i < BK / 16; ++i)
          wgmma_ss<${Number(!alongA)}, ${Number(!alongB)}>(sum, a_desc + ${aStep}(i), b_desc + ${bStep}(i), 1);
        wgmma_commit();
        wgmma_wait<1>(); // the previous step's
        if (held_empty && lane == 0) barrier_arrive(held_empty);`;
  const scales = !f8
    ? { params: "", args: [] }
    : stagedScales
      ? {
          params:
            ",\n    const __grid_constant__ TensorMap a_scales, const __grid_constant__ TensorMap b_scales",
          args: [
            { tensorMap: scaleMap(a, k.rows, k.k, BM) },
            { tensorMap: scaleMap(b, k.rows, k.n, bn) },
          ],
        }
      : {
          params: ",\n    const f32* __restrict__ a_scale, const f32* __restrict__ b_scale",
          args: scaleArgs(k),
        };
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
    SCALES_AT: aBytes + bBytes,
    BARS: stages * stageBytes,
  })}${RUNS}${aRows || bRows ? LINES : ""}
struct Place { int group, row, column, end, steps; };
extern "C" __global__ void __launch_bounds__(384, 1) grouped_matmul(const ${a.dtype}* __restrict__ a, const ${b.dtype}* __restrict__ b,
    ${out.dtype}* __restrict__ out, const i32* __restrict__ offsets, const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap b_map${look.params}${scales.params}) {
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
        ${f8 ? multiplyScaled(k) : multiply}
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
          ...scales.args,
        ],
      },
    ],
  };
}
