/** Running sums along the middle axis of [outer, n, inner]. */
import type { CumsumKernel } from "../contract.ts";
import type { Lower } from "../kernel.ts";

export const lowerCumsum: Lower<CumsumKernel> = (kernel) => {
  const { outer, n, inner, dtype, input, output } = kernel;
  const total = outer * inner;
  if (total === 0 || n === 0) return { source: "", launches: [] };
  const args = [{ slot: input }, { slot: output }];
  if (inner > 1 || n <= 32) {
    // A thread for every column: neighbours in `inner` read side by side.
    return {
      source: `extern "C" __global__ void cumsum(const ${dtype}* x, ${dtype}* y) {
  const u32 t = blockIdx.x * 128u + threadIdx.x;
  if (t >= ${total}u) return;
  i64 at = (i64)(t / ${inner}u) * ${n * inner}LL + t % ${inner}u;
  ${dtype} sum = 0;
  #pragma unroll 4
  for (u32 i = 0; i < ${n}u; i++, at += ${inner}) y[at] = sum += x[at];
}`,
      launches: [{ entry: "cumsum", grid: [Math.ceil(total / 128)], block: [128], args }],
    };
  }
  // A block for every row; in each round a thread adds four neighbours, then the threads are scanned.
  const threads = n >= 2048 ? 512 : 128;
  return {
    source: `extern "C" __global__ void __launch_bounds__(${threads}) cumsum(const ${dtype}* x, ${dtype}* y) {
  __shared__ ${dtype} sums[${threads / 32}];
  x += (i64)blockIdx.x * ${n}; y += (i64)blockIdx.x * ${n};
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  ${dtype} carry = 0;
  for (u32 start = 0; start < ${n}u; start += ${threads * 4}u) {
    const u32 at = start + threadIdx.x * 4;
    ${dtype} v[4];
    UNROLL for (u32 j = 0; j < 4; j++) v[j] = at + j < ${n}u ? x[at + j] : 0;
    UNROLL for (u32 j = 1; j < 4; j++) v[j] += v[j - 1];
    ${dtype} sum = v[3];
    UNROLL for (u32 d = 1; d < 32; d <<= 1) { ${dtype} left = __shfl_up_sync(FULL, sum, d); if (lane >= d) sum += left; }
    __syncthreads();
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    ${dtype} before = carry;
    for (u32 w = 0; w < ${threads / 32}; w++) { if (w < warp) before += sums[w]; carry += sums[w]; }
    before += sum - v[3];
    UNROLL for (u32 j = 0; j < 4; j++) if (at + j < ${n}u) y[at + j] = before + v[j];
  }
}`,
    launches: [{ entry: "cumsum", grid: [outer], block: [threads], args }],
  };
};
