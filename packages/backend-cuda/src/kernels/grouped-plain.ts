/** Grouped products of any dtypes and strides on the ordinary cores. */
import type { GroupedMatmulKernel, MatrixView } from "../contract.ts";
import type { Lowered } from "../kernel.ts";
import { lookups, matrixArgs, RUNS, scaleArgs } from "./grouped-shape.ts";
import { constants } from "./hopper.ts";

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
  const look = lookups(k);
  const rowsForm = k.form === "rows";
  const scaled = (["a", "b"] as const).filter((name) => k[name].scale !== undefined);
  const source = `${constants({ ROWS: k.rows, GROUPS: k.groups, K: k.k, N: k.n })}${RUNS}
extern "C" __global__ void __launch_bounds__(256) grouped_matmul_plain(const ${k.a.dtype}* __restrict__ a, const ${k.b.dtype}* __restrict__ b,
    ${k.out.dtype}* __restrict__ out, const i32* __restrict__ offsets${look.params}${scaled.map((name) => `, const f32* __restrict__ ${name}_scale`).join("")}) {
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
      as[ka][r] = k0 + ka < inner && row0 + r < end ? ${rowsForm ? element(k.a, "a", "0", look.row("a", "row0 + r"), "k0 + ka") : element(k.a, "a", "0", look.row("a", "begin + k0 + ka"), "row0 + r")} : 0.0f;
      ${rowsForm && k.b.row === 1 ? "const int kb = i & 15, c = i >> 4;" : "const int kb = i >> 6, c = i & 63;"}
      bs[kb][c] = k0 + kb < inner && column0 + c < N ? ${rowsForm ? element(k.b, "b", "g", "k0 + kb", "column0 + c") : element(k.b, "b", "0", look.row("b", "begin + k0 + kb"), "column0 + c")} : 0.0f;
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
        args: [...matrixArgs(k), ...look.args, ...scaleArgs(k)],
      },
    ],
  };
}
