/**
 * Products of 9 to 64 rows with bf16 matrices, as in decoding for several readers. They are bound by
 * the way to the weights and back, so every weight goes from memory straight into the registers that a
 * tensor core multiplies from, without shared memory. In an `mma` (PTX ISA, "Matrix Fragments for
 * mma.m16n8k16") the order along the contraction and that of the columns are free, as long as both
 * factors and the result agree on them: threads load 8 neighbours where the layout has 2.
 *
 *   along   weights lie along k (a linear layer's [out, in]): they are the left factor, 16 a tile
 *   across  weights lie along n: they are the right factor, 64 columns a tile
 *
 * The warps of a block share the contraction and add up their parts in order.
 */
import type { MatmulKernel, MatrixView } from "../contract.ts";
import type { DeviceInfo, Lowered } from "../kernel.ts";
import { constants } from "./hopper.ts";

const [FEWEST, MOST] = [9, 64];

/** How one of the two kernels is cut: columns of a block, warps, and the contraction of a step. */
interface Cut {
  readonly columns: number;
  readonly warps: number;
  readonly step: number;
}

const MULTIPLY = `
DEVICE void multiply(f32 (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
`;

export function skinnyMatmul(kernel: MatmulKernel, device: DeviceInfo): Lowered | undefined {
  const { batch, m, n, k, a, b, out, add } = kernel;
  const count = batch[0] ?? 1;
  if (device.computeCapability < 80 || batch.length > 1 || add !== undefined) return undefined;
  if (m < FEWEST || m > MOST || n * k * count === 0) return undefined;
  if ((out.dtype !== "bf16" && out.dtype !== "f32") || out.col !== 1 || a.col !== 1)
    return undefined;
  const loadable = (view: MatrixView, across: number) =>
    view.dtype === "bf16" &&
    view.scale === undefined &&
    [across, view.offset, ...view.batch].every((stride) => stride % 8 === 0);
  if (!loadable(a, a.row)) return undefined;
  if (b.row === 1 && k % 32 === 0 && loadable(b, b.col)) {
    // Two tiles use each row of a twice; one fills the chip sooner.
    const tiles = m <= 32 && n * count >= 32 * 2 * device.multiprocessors ? 2 : 1;
    return lowered(kernel, along(kernel, tiles), { columns: 16 * tiles, warps: 8, step: 32 });
  }
  if (b.col === 1 && k % 16 === 0 && n % 8 === 0 && loadable(b, b.row)) {
    return lowered(kernel, across(kernel), { columns: 64, warps: 4, step: 16 });
  }
  return undefined;
}

/** @param body computes this warp's `parts[warp][row][column]` from steps `begin` to `end`. */
function lowered(kernel: MatmulKernel, body: string, { columns, warps, step }: Cut): Lowered {
  const { batch, m, n, k, a, b, out } = kernel;
  const steps = Math.ceil(k / step);
  const shift = (view: MatrixView) => `${view.offset}ll + (i64)blockIdx.y * ${view.batch[0] ?? 0}`;
  const source = `${constants({ M: m, N: n, COLUMNS: columns, STEPS: steps, EACH: Math.ceil(steps / warps) })}${MULTIPLY}
extern "C" __global__ void __launch_bounds__(${32 * warps}) skinny(const bf16* __restrict__ a, const bf16* __restrict__ b, ${out.dtype}* __restrict__ out) {
  extern __shared__ f32 memory[];
  f32 (*parts)[${16 * Math.ceil(m / 16)}][COLUMNS + 1] = (f32 (*)[${16 * Math.ceil(m / 16)}][COLUMNS + 1])memory;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = lane >> 2, quad = lane & 3;
  const int c0 = blockIdx.x * COLUMNS, begin = warp * EACH, end = min(begin + EACH, STEPS);
  a += ${shift(a)};
  b += ${shift(b)};
  out += ${shift(out)};
${body}
  __syncthreads();
  for (int i = threadIdx.x; i < M * COLUMNS; i += ${32 * warps}) {
    const int r = i / COLUMNS, c = i % COLUMNS;
    f32 total = parts[0][r][c];
    UNROLL for (int p = 1; p < ${warps}; ++p) total += parts[p][r][c];
    if (c0 + c < N) out[(i64)r * ${out.row} + c0 + c] = from_f32<${out.dtype}>(total);
  }
}
`;
  return {
    source,
    launches: [
      {
        entry: "skinny",
        grid: [Math.ceil(n / columns), batch[0] ?? 1],
        block: [32 * warps],
        shared: warps * 16 * Math.ceil(m / 16) * (columns + 1) * 4,
        args: [{ slot: a.slot }, { slot: b.slot }, { slot: out.slot }],
      },
    ],
  };
}

function along({ m, a, b }: MatmulKernel, tiles: number): string {
  const eights = Math.ceil(m / 8);
  return `
  const bf16* w[${tiles}][2];
  UNROLL for (int i = 0; i < ${tiles}; ++i) UNROLL for (int h = 0; h < 2; ++h)
    w[i][h] = b + (i64)min(c0 + 16 * i + 8 * h + row, N - 1) * ${b.col};
  // Weights may come into the cache while the kernels before this one still run.
  for (int s = begin + quad; s < end; s += 4)
    UNROLL for (int i = 0; i < ${tiles}; ++i) UNROLL for (int h = 0; h < 2; ++h) prefetch(w[i][h] + s * 32);
  after_previous();

  f32 sum[${tiles}][${eights}][4];
  UNROLL for (int i = 0; i < ${tiles}; ++i) UNROLL for (int j = 0; j < ${eights}; ++j) UNROLL for (int e = 0; e < 4; ++e) sum[i][j][e] = 0;
  #pragma unroll 4
  for (int s = begin; s < end; ++s) {
    const int k = s * 32 + quad * 8;
    uint4 u[${tiles}][2], x[${eights}];
    UNROLL for (int i = 0; i < ${tiles}; ++i) UNROLL for (int h = 0; h < 2; ++h) u[i][h] = *(const uint4*)(w[i][h] + k);
    UNROLL for (int j = 0; j < ${eights}; ++j) x[j] = *(const uint4*)(a + (i64)min(8 * j + row, M - 1) * ${a.row} + k);
    UNROLL for (int i = 0; i < ${tiles}; ++i) UNROLL for (int j = 0; j < ${eights}; ++j) {
      multiply(sum[i][j], u[i][0].x, u[i][1].x, u[i][0].y, u[i][1].y, x[j].x, x[j].y);
      multiply(sum[i][j], u[i][0].z, u[i][1].z, u[i][0].w, u[i][1].w, x[j].z, x[j].w);
    }
  }
  UNROLL for (int i = 0; i < ${tiles}; ++i) UNROLL for (int j = 0; j < ${eights}; ++j) UNROLL for (int e = 0; e < 4; ++e)
    parts[warp][8 * j + quad * 2 + (e & 1)][16 * i + row + 8 * (e >> 1)] = sum[i][j][e];`;
}

function across({ m, a, b }: MatmulKernel): string {
  const tiles = Math.ceil(m / 16);
  return `
  const bf16* w = b + min(c0 + 8 * row, N - 8); // column 8 row + i is the row-th of tile i
  for (int s = begin; s < end; ++s)
    UNROLL for (int j = 0; j < 4; ++j) prefetch(w + (i64)(s * 16 + 2 * quad + (j & 1) + 8 * (j >> 1)) * ${b.row});
  after_previous();

  f32 sum[${tiles}][8][4];
  UNROLL for (int t = 0; t < ${tiles}; ++t) UNROLL for (int i = 0; i < 8; ++i) UNROLL for (int e = 0; e < 4; ++e) sum[t][i][e] = 0;
  for (int s = begin; s < end; ++s) {
    const int k = s * 16 + 2 * quad;
    alignas(16) u32 u[4][4]; // rows k, k + 1, k + 8, k + 9 of the weights
    UNROLL for (int j = 0; j < 4; ++j) *(uint4*)u[j] = *(const uint4*)(w + (i64)(k + (j & 1) + 8 * (j >> 1)) * ${b.row});
    u32 x[${tiles}][4];
    UNROLL for (int t = 0; t < ${tiles}; ++t) UNROLL for (int e = 0; e < 4; ++e)
      x[t][e] = *(const u32*)(a + (i64)min(16 * t + row + 8 * (e & 1), M - 1) * ${a.row} + k + 8 * (e >> 1));
    UNROLL for (int i = 0; i < 8; ++i) {
      const u32 pick = i & 1 ? 0x7632 : 0x5410;
      const u32 low = __byte_perm(u[0][i / 2], u[1][i / 2], pick), high = __byte_perm(u[2][i / 2], u[3][i / 2], pick);
      UNROLL for (int t = 0; t < ${tiles}; ++t) multiply(sum[t][i], x[t][0], x[t][1], x[t][2], x[t][3], low, high);
    }
  }
  UNROLL for (int t = 0; t < ${tiles}; ++t) UNROLL for (int i = 0; i < 8; ++i) UNROLL for (int e = 0; e < 4; ++e)
    parts[warp][16 * t + row + 8 * (e >> 1)][8 * (2 * quad + (e & 1)) + i] = sum[t][i][e];`;
}
