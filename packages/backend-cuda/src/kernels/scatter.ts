/**
 * Rows written or added by index, in the order of the updates and without atomics. Few updates: every
 * block finds by itself which updates share its row. Many: their order by row is found first, by a
 * stable counting sort of one or two digits of the index.
 */
import { dtypeBytes, type ScatterKernel } from "../contract.ts";
import type { Action, Arg, DeviceInfo, Launch, Lower, Lowered } from "../kernel.ts";
import { storageType } from "../loops/scalar.ts";
import { sortSource } from "./counting-sort.ts";

/** Up to here, looking at every index in every block is cheaper than sorting. */
const FEW = 1024;
/** Most buckets that one digit of the sort may have. */
const DIGIT = 4096;

export const lowerScatter: Lower<ScatterKernel> = (kernel, device) => {
  const { baseRows, rows, width, base, dtype, out } = kernel;
  const bytes = baseRows * width * dtypeBytes(dtype);
  const start: Action =
    base === undefined
      ? { zero: { at: { slot: out }, bytes } }
      : { copy: { from: { slot: base }, to: { slot: out }, bytes } };
  if (bytes === 0) return { source: "", launches: [] };
  if (rows === 0) return { source: "", launches: [start] };
  const lowered = rows <= FEW ? few(kernel) : many(kernel, device);
  return { ...lowered, launches: [start, ...lowered.launches] };
};

/** Columns that a block handles; its threads walk them. */
const COLUMNS = 1024;

function few(kernel: ScatterKernel): Lowered {
  const { baseRows, rows, width, mode, dtype } = kernel;
  const T = storageType(dtype);
  const words = Math.ceil(rows / 32);
  const add = mode === "add";
  return {
    source: `extern "C" __global__ void __launch_bounds__(128) scatter(const i32* indices, const ${T}* updates, ${T}* out) {
  __shared__ u32 same[${words}];
  const u32 r = blockIdx.x, row = (u32)indices[r];
  if (row >= ${baseRows}u) return;
  for (u32 i = threadIdx.x; i < ${words * 32}u; i += 128) {
    const u32 mask = __ballot_sync(FULL, i < ${rows}u && (u32)indices[i] == row);
    if (threadIdx.x % 32 == 0) same[i / 32] = mask;
  }
  __syncthreads();
  // ${add ? "The first update of a row adds them all, in order." : "The last update of a row is the one that stays."}
  ${
    add
      ? "for (u32 w = 0; w < r / 32; w++) if (same[w]) return;\n  if (same[r / 32] & ((1u << (r % 32)) - 1u)) return;"
      : `for (u32 w = r / 32 + 1; w < ${words}u; w++) if (same[w]) return;\n  if ((same[r / 32] >> (r % 32)) != 1u) return;`
  }
  const u32 end = min(${width}u, (blockIdx.y + 1u) * ${COLUMNS}u);
  for (u32 c = blockIdx.y * ${COLUMNS}u + threadIdx.x; c < end; c += 128) {
    ${T}* to = out + (i64)row * ${width} + c;
    ${
      add
        ? `${T} sum = *to;
    for (u32 w = r / 32; w < ${words}u; w++)
      for (u32 mask = same[w]; mask; mask &= mask - 1u)
        sum += updates[(i64)(w * 32 + __ffs(mask) - 1) * ${width} + c];
    *to = sum;`
        : `*to = updates[(i64)r * ${width} + c];`
    }
  }
}`,
    launches: [
      {
        entry: "scatter",
        grid: [rows, Math.ceil(width / COLUMNS)],
        block: [128],
        args: [{ slot: kernel.indices }, { slot: kernel.updates }, { slot: kernel.out }],
      },
    ],
  };
}

function many(kernel: ScatterKernel, device: DeviceInfo): Lowered {
  const { baseRows, rows, width, mode, dtype } = kernel;
  const T = storageType(dtype);
  const low = baseRows <= DIGIT ? baseRows : 2 ** Math.ceil(Math.log2(baseRows) / 2);
  const high = Math.ceil(baseRows / low);
  const bytes = Math.ceil((rows * 4) / 256) * 256;
  const args = (from: number, to: number): Arg[] => [
    { slot: kernel.indices },
    { workspace: to },
    { workspace: from },
    { workspace: 0 },
    { workspace: 2 * bytes },
  ];
  const sorts: Lowered<Launch>[] = [
    sortSource(
      {
        n: rows,
        buckets: low,
        key: `const u32 id = (u32)ids[i]; return id < ${baseRows}u ? id % ${low}u : ${low}u;`,
        place: "order[to] = (i32)i;",
        offsets: false,
      },
      device,
      "low",
      args(0, 0),
      2 * bytes,
    ),
  ];
  if (high > 1) {
    // `rank` is the first digit's order.
    sorts.push(
      sortSource(
        {
          n: rows,
          buckets: high,
          key: `const u32 id = (u32)ids[rank[i]]; return id < ${baseRows}u ? id / ${low}u : ${high}u;`,
          place: "order[to] = rank[i];",
          offsets: false,
        },
        device,
        "high",
        args(0, bytes),
        2 * bytes,
      ),
    );
  }
  const sorted = high > 1 ? bytes : 0;
  const add = mode === "add";
  const source = `extern "C" __global__ void __launch_bounds__(128) scatter(const i32* indices, const ${T}* updates, ${T}* out, const i32* order) {
  const u32 p = blockIdx.x, row = (u32)indices[order[p]];
  if (row >= ${baseRows}u) return;
  ${
    add
      ? "if (p > 0 && (u32)indices[order[p - 1]] == row) return;"
      : `if (p + 1 < ${rows}u && (u32)indices[order[p + 1]] == row) return;`
  }
  const u32 end = min(${width}u, (blockIdx.y + 1u) * ${COLUMNS}u);
  for (u32 c = blockIdx.y * ${COLUMNS}u + threadIdx.x; c < end; c += 128) {
    ${T}* to = out + (i64)row * ${width} + c;
    ${
      add
        ? `${T} sum = *to;
    #pragma unroll 4
    for (u32 q = p; q < ${rows}u && (u32)indices[order[q]] == row; q++) sum += updates[(i64)order[q] * ${width} + c];
    *to = sum;`
        : `*to = updates[(i64)order[p] * ${width} + c];`
    }
  }
}`;
  return {
    source: [...sorts.map((s) => s.source), source].join("\n"),
    launches: [
      ...sorts.flatMap((s) => s.launches),
      {
        entry: "scatter",
        grid: [rows, Math.ceil(width / COLUMNS)],
        block: [128],
        args: [
          { slot: kernel.indices },
          { slot: kernel.updates },
          { slot: kernel.out },
          { workspace: sorted },
        ],
      },
    ],
    workspace: Math.max(2 * bytes, ...sorts.map((s) => s.workspace ?? 0)),
  };
}
