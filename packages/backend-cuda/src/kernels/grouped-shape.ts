/** What kernels of grouped products share: the bounds of runs, rows that are looked up, arguments. */
import type { GroupedMatmulKernel, MatrixView } from "../contract.ts";
import { dtypeBytes } from "../contract.ts";
import type { Arg } from "../kernel.ts";

/** Bounds of run g, kept inside the matrix whatever the offsets say, and rows that are looked up. */
export const RUNS_OF_ROWS: string = `
DEVICE int bound(const i32* offsets, int g) { return min(max(offsets[g], 0), ROWS); }
DEVICE int looked_up(const i32* rows, int r, int extent) { return min(max(rows[r], 0), extent - 1); }
`;

export const RUNS: string = `${RUNS_OF_ROWS}
// Rows before the first and after the last run are zeros.
template <class T> DEVICE void zero_outside(T* out, const i32* offsets) {
  const i64 head = (i64)bound(offsets, 0) * N, tail = (i64)bound(offsets, GROUPS) * N, all = (i64)ROWS * N;
  const i64 count = head + all - tail;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (i64)gridDim.x * blockDim.x)
    out[i < head ? i : tail + i - head] = from_f32<T>(0.0f);
}
`;

/**
 * Rows that are looked up, as a copying thread of 128 brings them into a tile of TILE rows in panels of 64
 * columns: 16 bytes of every 16th row. It finds their places ahead, or copies would wait for the indices.
 */
export const LINES = `
template <int TILE> struct Lines {
  const bf16* line[TILE / 16]; // null: a row of zeros
  __device__ __forceinline__ void find(int thread, const bf16* matrix, const i32* rows, int first, int end, int extent, int stride) {
    #pragma unroll
    for (int i = 0; i < TILE / 16; ++i) {
      const int r = first + thread / 8 + 16 * i;
      line[i] = r < end ? matrix + (i64)looked_up(rows, r, extent) * stride + thread % 8 * 8 : nullptr;
    }
  }
  // Columns from the given one on, of those before limit.
  template <int PANELS> __device__ __forceinline__ void copy(int thread, u32 to, int column, int limit, const void* any) const {
    const int row = thread / 8, chunk = thread % 8;
    to += row * 128 + ((chunk ^ (row & 7)) << 4); // the hardware's swizzle
    #pragma unroll
    for (int i = 0; i < TILE / 16; ++i) {
      #pragma unroll
      for (int p = 0; p < PANELS; ++p) {
        const bool present = line[i] != nullptr && column + p * 64 + chunk * 8 < limit;
        copy16(to + i * 2048 + p * (TILE * 128), present ? (const void*)(line[i] + column + p * 64) : any, present);
      }
    }
  }
};
`;

export function matrixArgs(k: GroupedMatmulKernel): Arg[] {
  const view = (v: MatrixView): Arg => ({ slot: v.slot, offset: v.offset * dtypeBytes(v.dtype) });
  return [view(k.a), view(k.b), view(k.out), { slot: k.offsets }];
}

export function scaleArgs({ a, b }: GroupedMatmulKernel): Arg[] {
  return [a, b].flatMap((view) => (view.scale ? [{ slot: view.scale.slot }] : []));
}

export interface Lookups {
  /** Parameters of the entry, each with a leading comma, and their arguments. */
  readonly params: string;
  readonly args: readonly Arg[];
  /** The row of an operand's matrix that is its row `r`. */
  row(name: "a" | "b", r: string): string;
}

/** The operands whose rows are looked up. */
export function lookups(k: GroupedMatmulKernel): Lookups {
  const all = [
    ["a", k.aRows],
    ["b", k.bRows],
  ] as const;
  const present = all.flatMap(([name, rows]) => (rows ? [{ name, ...rows }] : []));
  return {
    params: present.map(({ name }) => `, const i32* __restrict__ ${name}_rows`).join(""),
    args: present.map(({ slot }): Arg => ({ slot })),
    row(name, r) {
      const rows = name === "a" ? k.aRows : k.bRows;
      return rows ? `looked_up(${name}_rows, ${r}, ${rows.extent})` : `(${r})`;
    },
  };
}
