/**
 * Stable counting sort of small integers. The ids are cut into chunks, one warp each, which walks its
 * chunk 32 ids at a time: a match of equal ids within the warp gives each its place among them, and the
 * warp's own counters carry the rest, so no order depends on timing.
 *
 * Short inputs are sorted by one block, whose warps' counters lie in shared memory; long ones take
 * three launches (count, scan, place) with the counters in the workspace.
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

// f(i, bucket, place), where place is the bucket's counter plus the equal ids before i.
const WALK = `
template <class F> DEVICE void walk(u32 begin, u32 end, u32* counts, const i32* ids, const i32* rank, F f) {
  const u32 lane = threadIdx.x % 32;
  for (u32 start = begin; start < end; start += 32) {
    const u32 i = start + lane;
    const bool live = i < end;
    const u32 bucket = live ? key_of(ids, rank, i) : 0xffffffffu;
    const u32 same = __match_any_sync(FULL, bucket);
    const u32 before = __popc(same & ((1u << lane) - 1u));
    if (live) f(i, bucket, counts[bucket] + before);
    __syncwarp();
    if (live && before == 0) counts[bucket] += __popc(same);
    __syncwarp();
  }
}
`;

/** Exclusive scan of the counters by bucket, then chunk, by one block. */
function scanSource(buckets: number, chunks: number, threads: number, offsets: boolean): string {
  const total = (buckets + 1) * chunks;
  const each = Math.ceil(total / threads);
  return `
DEVICE void scan(u32* counters, i32* offsets) {
  __shared__ u32 sums[32];
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 begin = threadIdx.x * ${each}u;
  const u32 end = min(begin + ${each}u, ${total}u);
  u32 own = 0;
  for (u32 k = begin; k < end; k++) own += counters[(k % ${chunks}u) * ${buckets + 1}u + k / ${chunks}u];
  u32 sum = own;
  for (u32 d = 1; d < 32; d <<= 1) { u32 left = __shfl_up_sync(FULL, sum, d); if (lane >= d) sum += left; }
  if (lane == 31) sums[warp] = sum;
  __syncthreads();
  u32 before = sum - own;
  for (u32 w = 0; w < warp; w++) before += sums[w];
  for (u32 k = begin; k < end; k++) {
    const u32 at = (k % ${chunks}u) * ${buckets + 1}u + k / ${chunks}u;
    const u32 count = counters[at];
    counters[at] = before;
    ${offsets ? `if (k % ${chunks}u == 0) offsets[k / ${chunks}u] = (i32)before;` : ""}
    before += count;
  }
}
`;
}

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
  const row = (buckets + 1) * 4;
  const helpers = `DEVICE u32 key_of(const i32* ids, const i32* rank, u32 i) { ${key} }\n${WALK}`;
  const parameters = "const i32* ids, i32* order, i32* rank, i32* offsets, u32* counters";
  const placing = `[=](u32 i, u32 bucket, u32 to) { ${place} }`;
  const warps = Math.min(32, Math.floor((device.sharedPerBlock - 1024) / row));
  if (n <= 16_384 && warps >= 8) {
    const chunk = Math.ceil(n / warps / 32) * 32;
    return {
      source: `namespace ${name}_ {
${helpers}${scanSource(buckets, warps, warps * 32, offsets)}
}
extern "C" __global__ void __launch_bounds__(${warps * 32}) ${name}(${parameters}) {
  extern __shared__ u32 shared[];
  const u32 warp = threadIdx.x / 32;
  u32* counts = shared + warp * ${buckets + 1}u;
  for (u32 k = threadIdx.x; k < ${warps * (buckets + 1)}u; k += ${warps * 32}u) shared[k] = 0;
  __syncthreads();
  const u32 begin = min(warp * ${chunk}u, ${n}u), end = min(begin + ${chunk}u, ${n}u);
  ${name}_::walk(begin, end, counts, ids, rank, [](u32, u32, u32) {});
  __syncthreads();
  ${name}_::scan(shared, offsets);
  __syncthreads();
  ${name}_::walk(begin, end, counts, ids, rank, ${placing});
}`,
      launches: [{ entry: name, grid: [1], block: [warps * 32], shared: warps * row, args }],
    };
  }
  const chunk = Math.max(512, Math.ceil(n / 4096 / 32) * 32);
  const chunks = Math.ceil(n / chunk);
  const source = `namespace ${name}_ {
${helpers}${scanSource(buckets, chunks, 1024, offsets)}
}
extern "C" __global__ void ${name}_count(${parameters}) {
  u32* counts = counters + (i64)blockIdx.x * ${buckets + 1};
  for (u32 k = threadIdx.x; k < ${buckets + 1}u; k += 32) counts[k] = 0;
  __syncwarp();
  const u32 begin = blockIdx.x * ${chunk}u, end = min(begin + ${chunk}u, ${n}u);
  ${name}_::walk(begin, end, counts, ids, rank, [](u32, u32, u32) {});
}
extern "C" __global__ void __launch_bounds__(1024) ${name}_scan(${parameters}) { ${name}_::scan(counters, offsets); }
extern "C" __global__ void ${name}_place(${parameters}) {
  u32* counts = counters + (i64)blockIdx.x * ${buckets + 1};
  const u32 begin = blockIdx.x * ${chunk}u, end = min(begin + ${chunk}u, ${n}u);
  ${name}_::walk(begin, end, counts, ids, rank, ${placing});
}`;
  return {
    source,
    launches: [
      { entry: `${name}_count`, grid: [chunks], block: [32], args },
      { entry: `${name}_scan`, grid: [1], block: [1024], args },
      { entry: `${name}_place`, grid: [chunks], block: [32], args },
    ],
    workspace: workspace + chunks * row,
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
