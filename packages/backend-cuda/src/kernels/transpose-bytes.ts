/**
 * A matrix of bytes (FP8) turned over: the tensor cores read 8-bit operands along the contraction
 * only, so what lies the other way is copied first. A block turns 128 × 128 bytes: threads turn 4 × 4
 * of them in registers, and a shared tile whose words are spread over the banks lets both sides read
 * and write whole lines.
 */
import type { Arg, Launch } from "../kernel.ts";

const TILE = 128;

export interface ByteMatrices {
  readonly from: Arg;
  readonly to: Arg;
  readonly batch: number;
  /** Of what is read: multiples of 4; `columns` are contiguous, rows `leading` bytes apart. */
  readonly rows: number;
  readonly columns: number;
  readonly leading: number;
  /** Bytes between matrices that are read; those written are dense. */
  readonly stride: number;
}

/** Writes [batch, columns, rows] of [batch, rows, columns]. */
export function transposeBytes(
  m: ByteMatrices,
  entry: string,
): { readonly source: string; readonly launch: Launch } {
  const { rows, columns, leading, stride, batch } = m;
  const source = `
extern "C" __global__ void __launch_bounds__(256) ${entry}(const u8* __restrict__ from, u8* __restrict__ to) {
  __shared__ u32 words[${TILE} * 32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int row0 = blockIdx.y * ${TILE}, column0 = blockIdx.x * ${TILE};
  from += (i64)blockIdx.z * ${stride};
  to += (i64)blockIdx.z * ${rows * columns};
  const int column = column0 + 4 * lane;
  #pragma unroll
  for (int pass = 0; pass < 4; ++pass) {
    const int four = pass * 8 + warp, row = row0 + 4 * four;
    u32 a[4] = {0, 0, 0, 0};
    if (row < ${rows} && column < ${columns}) {
      #pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = *(const u32*)(from + (i64)(row + i) * ${leading} + column);
    }
    // Bytes (0, 1) and (2, 3) of two rows side by side, then of all four.
    const u32 low0 = __byte_perm(a[0], a[1], 0x5140), low1 = __byte_perm(a[2], a[3], 0x5140);
    const u32 high0 = __byte_perm(a[0], a[1], 0x7362), high1 = __byte_perm(a[2], a[3], 0x7362);
    u32* const at = words + 4 * lane * 32 + (four ^ lane);
    at[0] = __byte_perm(low0, low1, 0x5410);
    at[32] = __byte_perm(low0, low1, 0x7632);
    at[64] = __byte_perm(high0, high1, 0x5410);
    at[96] = __byte_perm(high0, high1, 0x7632);
  }
  __syncthreads();
  #pragma unroll 4
  for (int c = warp; c < ${TILE}; c += 8) {
    const int row = row0 + 4 * lane;
    if (column0 + c < ${columns} && row < ${rows})
      *(u32*)(to + (i64)(column0 + c) * ${rows} + row) = words[c * 32 + (lane ^ (c >> 2))];
  }
}
`;
  const grid = [Math.ceil(columns / TILE), Math.ceil(rows / TILE), batch] as const;
  return { source, launch: { entry, grid, block: [256], args: [m.from, m.to] } };
}
