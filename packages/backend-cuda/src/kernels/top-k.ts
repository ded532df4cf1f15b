/**
 * The k largest of each row, largest first, equal values by lower index, NaN last. Places are taken by
 * rank (the float's order as an integer), then by index, which is unique within the row: any way of
 * finding the next one gives the same answer.
 */
import type { TopKKernel } from "../contract.ts";
import type { DeviceInfo, Lower, Lowered } from "../kernel.ts";

const RANKS = `
/** Order of a float as an integer; NaN is 0, below −inf, and −0 equals 0. */
DEVICE u32 rank_of(f32 x) {
  const u32 bits = __float_as_uint(x == 0.0f ? 0.0f : x);
  return x != x ? 0u : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
`;

/** Rows of up to this many values are held in a warp's registers. */
const WARP_VALUES = 1024;
/** Keys that a block can sort in shared memory: 128 KiB. */
const SORTED_KEYS = 16_384;

export const lowerTopK: Lower<TopKKernel> = (kernel, device) => {
  const { rows, n, k } = kernel;
  if (rows === 0 || k === 0) return { source: "", launches: [] };
  if (n <= WARP_VALUES && (k <= 64 || n <= 64)) return byWarp(kernel, device);
  if (k <= SORTED_KEYS) return bySelection(kernel);
  throw new RangeError(
    `top ${k} of ${n}: the CUDA backend sorts at most ${SORTED_KEYS} values of a row; ask for fewer`,
  );
};

/** Largest of a warp's values, in every lane. */
const warpMax = (device: DeviceInfo): string =>
  device.computeCapability >= 80
    ? `
DEVICE u32 largest_rank(u32 x) { u32 r; asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(r) : "r"(x)); return r; }`
    : `
DEVICE u32 largest_rank(u32 x) { for (int d = 16; d; d >>= 1) x = max(x, __shfl_xor_sync(FULL, x, d)); return x; }`;

/**
 * A warp per row. In each round all lanes agree on the largest rank left; the first place that has it, in
 * the order of the row, is found by votes, noted by the lane of that round, and emptied.
 */
function byWarp({ rows, n, k, input, values, indices }: TopKKernel, device: DeviceInfo): Lowered {
  const each = Math.ceil(n / 32);
  return {
    source: `${RANKS}${warpMax(device)}
extern "C" __global__ void __launch_bounds__(128) top_k(const f32* x, f32* values, i32* indices) {
  const u32 row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= ${rows}u) return;
  x += (i64)row * ${n}; values += (i64)row * ${k}; indices += (i64)row * ${k};
  u32 left[${each}]; // ranks from 1; 0 where there is nothing
  UNROLL for (u32 j = 0; j < ${each}; j++) { const u32 i = j * 32 + lane; left[j] = i < ${n}u ? rank_of(x[i]) + 1u : 0u; }
  u32 mine = 0;
  for (u32 r = 0; r < ${k}u; r++) {
    u32 best = left[0];
    UNROLL for (u32 j = 1; j < ${each}; j++) best = max(best, left[j]);
    best = largest_rank(best);
    UNROLL for (u32 j = 0; j < ${each}; j++) {
      const u32 having = __ballot_sync(FULL, left[j] == best);
      if (having != 0) {
        const u32 first = __ffs(having) - 1;
        if (lane == first) left[j] = 0;
        if (lane == r % 32) mine = j * 32 + first;
        break;
      }
    }
    if (r % 32 == 31 || r == ${k - 1}u) {
      const u32 at = r - r % 32 + lane;
      if (at <= r) { indices[at] = (i32)mine; values[at] = x[mine]; }
    }
  }
}`,
    launches: [
      {
        entry: "top_k",
        grid: [Math.ceil(rows / 4)],
        block: [128],
        args: [{ slot: input }, { slot: values }, { slot: indices }],
      },
    ],
  };
}

/**
 * One block per row: the rank of the k-th largest value is found a byte at a time from histograms, the
 * values above it and the first of those equal to it are collected, and the k keys are sorted.
 */
function bySelection({ rows, n, k, input, values, indices }: TopKKernel): Lowered {
  const size = 2 ** Math.ceil(Math.log2(k));
  return {
    source: `${RANKS}
extern "C" __global__ void __launch_bounds__(1024) top_k(const f32* x, f32* values, i32* indices) {
  extern __shared__ u64 keys[];
  __shared__ u32 histogram[256], prefix, wanted, count, sums[32];
  x += (i64)blockIdx.x * ${n}; values += (i64)blockIdx.x * ${k}; indices += (i64)blockIdx.x * ${k};
  const u32 t = threadIdx.x, lane = t % 32, warp = t / 32;
  if (t == 0) { prefix = 0; wanted = ${k}u; count = 0; }
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (t < 256) histogram[t] = 0;
    __syncthreads();
    const u32 known = prefix;
    for (u32 i = t; i < ${n}u; i += 1024) {
      const u32 rank = rank_of(x[i]);
      if (shift == 24 || (rank >> (shift + 8)) == known) atomicAdd(&histogram[(rank >> shift) & 255u], 1u);
    }
    __syncthreads();
    if (t == 0) {
      u32 left = wanted, digit = 255;
      while (histogram[digit] < left) left -= histogram[digit--];
      wanted = left; prefix = (known << 8) | digit;
    }
    __syncthreads();
  }
  // Values above the threshold in any order; of those equal to it, the first \`wanted\` by index.
  const u32 threshold = prefix, equals = wanted, above = ${k}u - equals;
  u32 taken = 0;
  for (u32 start = 0; start < ${n}u; start += 1024) {
    const u32 i = start + t;
    const u32 rank = i < ${n}u ? rank_of(x[i]) : 0;
    if (i < ${n}u && rank > threshold) keys[atomicAdd(&count, 1u)] = ((u64)rank << 32) | (u32)~i;
    const bool equal = i < ${n}u && rank == threshold;
    const u32 mask = __ballot_sync(FULL, equal);
    if (lane == 0) sums[warp] = __popc(mask);
    __syncthreads();
    u32 before = taken + __popc(mask & ((1u << lane) - 1u));
    for (u32 w = 0; w < 32; w++) { if (w < warp) before += sums[w]; taken += sums[w]; }
    if (equal && before < equals) keys[above + before] = ((u64)rank << 32) | (u32)~i;
    __syncthreads();
  }
  for (u32 i = ${k}u + t; i < ${size}u; i += 1024) keys[i] = 0;
  __syncthreads();
  for (u32 span = 2; span <= ${size}u; span <<= 1) {
    for (u32 step = span / 2; step > 0; step >>= 1) {
      for (u32 i = t; i < ${size}u; i += 1024) {
        const u32 other = i ^ step;
        if (other > i) {
          const u64 a = keys[i], b = keys[other];
          if ((i & span) == 0 ? a < b : a > b) { keys[i] = b; keys[other] = a; }
        }
      }
      __syncthreads();
    }
  }
  for (u32 i = t; i < ${k}u; i += 1024) { const u32 at = ~(u32)keys[i]; indices[i] = (i32)at; values[i] = x[at]; }
}`,
    launches: [
      {
        entry: "top_k",
        grid: [rows],
        block: [1024],
        shared: size * 8,
        args: [{ slot: input }, { slot: values }, { slot: indices }],
      },
    ],
  };
}
