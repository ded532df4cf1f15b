/**
 * Stable counting sort of small integers. The ids are cut into chunks, one warp each, which walks its
 * chunk 32 ids at a time: a match of equal ids within the warp gives each its place among them, and the
 * warp's own counters carry the rest, so no order depends on timing.
 *
 * Short inputs are sorted by one block, whose warps' counters lie in shared memory; long ones take
 * four launches (count, sums over chunks, over buckets, place) with the warps' counters in the workspace.
 */
import type { CountingSortKernel } from "../contract.ts";
import type { Arg, DeviceInfo, Launch, Lower, Lowered } from "../kernel.ts";

/** A stable sort of positions by bucket; scatter builds on it too. */
export interface SortSpec {
  readonly n: number;
  readonly buckets: number;
  /** C++ statements that return the bucket of position `i`, `buckets` for one in none. */
  readonly key: string;
  /** C++ statements that put position `i` at place `to`. */
  readonly place: string;
  /** Whether offsets are written. */
  readonly offsets: boolean;
}

// f(i, bucket, place), where place is the bucket's counter plus the equal ids before i. The next ids
// are read before the present ones are placed: the reads would otherwise wait for the writes.
const WALK = `
template <class F> DEVICE void walk(u32 begin, u32 end, u32* counts, const i32* ids, const i32* rank, F f) {
  const u32 lane = threadIdx.x % 32;
  u32 next = begin + lane < end ? key_of(ids, rank, begin + lane) : 0xffffffffu;
  for (u32 start = begin; start < end; start += 32) {
    const u32 i = start + lane, bucket = next;
    const bool live = i < end;
    next = i + 32 < end ? key_of(ids, rank, i + 32) : 0xffffffffu;
    const u32 same = __match_any_sync(FULL, bucket);
    const u32 before = __popc(same & ((1u << lane) - 1u));
    if (live) f(i, bucket, counts[bucket * STRIDE] + before);
    __syncwarp();
    if (live && before == 0) counts[bucket * STRIDE] += __popc(same);
    __syncwarp();
  }
}
`;

// Exclusive sums of `count` numbers in place by a whole block, and their total.
const SCAN = `
DEVICE u32 scan(u32* numbers, u32 count) {
  __shared__ u32 sums[32];
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u32 carry = 0;
  for (u32 start = 0; start < count; start += blockDim.x) {
    const u32 k = start + threadIdx.x;
    const u32 own = k < count ? numbers[k] : 0u;
    u32 sum = own;
    for (u32 d = 1; d < 32; d <<= 1) { u32 left = __shfl_up_sync(FULL, sum, d); if (lane >= d) sum += left; }
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    u32 before = carry;
    for (u32 w = 0; w < blockDim.x / 32; w++) { if (w < warp) before += sums[w]; carry += sums[w]; }
    if (k < count) numbers[k] = before + sum - own;
    __syncthreads();
  }
  return carry;
}
`;

/**
 * Entries take (ids, order, rank, offsets, counters).
 * @param name start of the entries' names
 * @param workspace where the counters begin, the last of `args` pointing there
 */
export function sortSource(
  { n, buckets, key, place, offsets }: SortSpec,
  device: DeviceInfo,
  name: string,
  args: readonly Arg[],
  workspace: number,
): Lowered<Launch> {
  const all = buckets + 1;
  const most = device.sharedPerBlock - 1024;
  // Few ids are sorted sooner by few warps, whose counters are added up.
  const useful = Math.max(8, Math.ceil(n / 64));
  const warps = Math.min(32, useful, Math.floor(most / (all * 4)));
  const isShort = n <= 16_384 && warps >= 8;
  const helpers = `namespace ${name}_ {
constexpr u32 STRIDE = ${isShort ? warps : 1}; // between a warp's counters
DEVICE u32 key_of(const i32* ids, const i32* rank, u32 i) { ${key} }
${WALK}${SCAN}}`;
  const parameters = "const i32* ids, i32* order, i32* rank, i32* offsets, u32* counters";
  const placing = `[=](u32 i, u32 bucket, u32 to) { ${place} }`;
  if (isShort) {
    const chunk = Math.ceil(n / warps / 32) * 32;
    // Counters by bucket, then warp: sums over them in that order are the places.
    return {
      source: `${helpers}
extern "C" __global__ void __launch_bounds__(${warps * 32}) ${name}(${parameters}) {
  extern __shared__ u32 shared[];
  const u32 warp = threadIdx.x / 32;
  u32* counts = shared + warp;
  for (u32 k = threadIdx.x; k < ${warps * all}u; k += ${warps * 32}u) shared[k] = 0;
  __syncthreads();
  const u32 begin = min(warp * ${chunk}u, ${n}u), end = min(begin + ${chunk}u, ${n}u);
  ${name}_::walk(begin, end, counts, ids, rank, [](u32, u32, u32) {});
  __syncthreads();
  ${name}_::scan(shared, ${warps * all}u);
  ${offsets ? `for (u32 k = threadIdx.x; k < ${all}u; k += ${warps * 32}u) offsets[k] = (i32)shared[k * ${warps}u];\n  __syncthreads();` : ""}
  ${name}_::walk(begin, end, counts, ids, rank, ${placing});
}`,
      launches: [{ entry: name, grid: [1], block: [warps * 32], shared: warps * all * 4, args }],
    };
  }
  // A warp counts in shared memory; a table in the workspace, by bucket, then chunk, joins the warps,
  // followed by each bucket's total.
  const chunk = Math.max(512, Math.ceil(n / 4096 / 32) * 32);
  const chunks = Math.ceil(n / chunk);
  const isShared = all * 4 <= most;
  const table = all * (chunks + 1);
  const counts = isShared
    ? "extern __shared__ u32 counts[];"
    : `u32* counts = counters + ${table}u + (i64)blockIdx.x * ${all};`;
  const range = `const u32 begin = blockIdx.x * ${chunk}u, end = min(begin + ${chunk}u, ${n}u);`;
  const source = `${helpers}
extern "C" __global__ void __launch_bounds__(32) ${name}_count(${parameters}) {
  ${counts}
  for (u32 k = threadIdx.x; k < ${all}u; k += 32) counts[k] = 0;
  __syncwarp();
  ${range}
  ${name}_::walk(begin, end, counts, ids, rank, [](u32, u32, u32) {});
  for (u32 k = threadIdx.x; k < ${all}u; k += 32) counters[(i64)k * ${chunks} + blockIdx.x] = counts[k];
}
extern "C" __global__ void __launch_bounds__(128) ${name}_chunks(${parameters}) {
  const u32 total = ${name}_::scan(counters + (i64)blockIdx.x * ${chunks}, ${chunks}u);
  if (threadIdx.x == 0) counters[${all * chunks}u + blockIdx.x] = total;
}
extern "C" __global__ void __launch_bounds__(1024) ${name}_buckets(${parameters}) {
  u32* totals = counters + ${all * chunks}u;
  ${name}_::scan(totals, ${all}u);
  ${offsets ? `for (u32 k = threadIdx.x; k < ${all}u; k += 1024) offsets[k] = (i32)totals[k];` : ""}
}
extern "C" __global__ void __launch_bounds__(32) ${name}_place(${parameters}) {
  ${counts}
  for (u32 k = threadIdx.x; k < ${all}u; k += 32)
    counts[k] = counters[(i64)k * ${chunks} + blockIdx.x] + counters[${all * chunks}u + k];
  __syncwarp();
  ${range}
  ${name}_::walk(begin, end, counts, ids, rank, ${placing});
}`;
  const shared = isShared ? all * 4 : 0;
  return {
    source,
    launches: [
      { entry: `${name}_count`, grid: [chunks], block: [32], shared, args },
      { entry: `${name}_chunks`, grid: [all], block: [128], args },
      { entry: `${name}_buckets`, grid: [1], block: [1024], args },
      { entry: `${name}_place`, grid: [chunks], block: [32], shared, args },
    ],
    workspace: workspace + (table + (isShared ? 0 : chunks * all)) * 4,
  };
}

export const lowerCountingSort: Lower<CountingSortKernel> = (kernel, device) => {
  const { n, buckets } = kernel;
  const args = [
    { slot: kernel.ids },
    { slot: kernel.order },
    { slot: kernel.rank },
    { slot: kernel.offsets },
    { workspace: 0 },
  ];
  return sortSource(
    {
      n,
      buckets,
      key: `const i32 id = ids[i]; return id < 0 || id >= ${buckets} ? ${buckets}u : (u32)id;`,
      place: "order[to] = (i32)i; rank[i] = (i32)to;",
      offsets: true,
    },
    device,
    "sort",
    args,
    0,
  );
};
