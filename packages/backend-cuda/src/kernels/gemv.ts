/**
 * Products of few rows with a large matrix, as in decoding: up to eight, or a few eights of a
 * small matrix, which the library's kernels take longer to begin and end. They are bound by reading the
 * weights once, so each weight is loaded 16 bytes at a time, widened in registers and used for all rows.
 *
 *   by rows    weights lie along k (a linear layer's [out, in]): a warp, or several that share k, takes
 *              a few columns of the result
 *   by columns weights lie along n: a thread takes neighbouring columns, the threads of a block share k
 *
 * Weights may be f32, bf16, f16, f8 or i8, with block scales that are constant over a load.
 */
import {
  type DType,
  dtypeBytes,
  isFloat,
  type MatmulKernel,
  type MatrixView,
} from "../contract.ts";
import type { DeviceInfo, Lower, Lowered } from "../kernel.ts";
import { narrow, storageType, widen } from "../loops/scalar.ts";

const MOST_ROWS = 8;
const MOST_EIGHTS = 4;
const SMALL_MATRIX = 1 << 18;

export const lowerGemv: Lower<MatmulKernel> = (given, device) => {
  const kernel = inEights(given);
  const { m, n, k, batch, a, b, out } = kernel;
  if (m > MOST_ROWS || m * n * k === 0 || batch.some((size) => size === 0)) return undefined;
  if (n * k < 4096 || !isFloat(a.dtype) || a.scale !== undefined || a.col !== 1) return undefined;
  if (!isFloat(out.dtype) || (!isFloat(b.dtype) && (b.dtype !== "i8" || b.scale === undefined))) {
    return undefined;
  }
  const lanes = 16 / dtypeBytes(b.dtype);
  if (b.row === 1 && k % lanes === 0 && movable(b, lanes, "col") && loadable(a, lanes)) {
    const { scale } = b;
    if (scale === undefined || scale.block[0] % lanes === 0) return byRows(kernel, lanes, device);
  }
  const columns = Math.min(lanes, 8);
  if (b.col === 1 && n % columns === 0 && movable(b, columns, "row")) {
    const { scale } = b;
    if (scale === undefined || scale.block[1] % columns === 0)
      return byColumns(kernel, columns, device);
  }
  return undefined;
};

/** More than eight rows as a batch of eights, each of which reads the matrix. */
function inEights(kernel: MatmulKernel): MatmulKernel {
  const { m, n, k, batch, b } = kernel;
  const eights = m / MOST_ROWS;
  const fits = Number.isInteger(eights) && eights > 1 && eights <= MOST_EIGHTS;
  if (!fits || n * k > SMALL_MATRIX) return kernel;
  const cut = (view: MatrixView): MatrixView => ({
    ...view,
    batch: [...view.batch, MOST_ROWS * view.row],
  });
  const scale = b.scale && { ...b.scale, batch: [...b.scale.batch, 0] };
  return {
    ...kernel,
    batch: [...batch, eights],
    m: MOST_ROWS,
    a: cut(kernel.a),
    b: { ...b, batch: [...b.batch, 0], ...(scale ? { scale } : {}) },
    out: cut(kernel.out),
    ...(kernel.add ? { add: cut(kernel.add) } : {}),
  };
}

/** Whether `lanes` elements along the contiguous axis are always one aligned load. */
function movable(view: MatrixView, lanes: number, across: "row" | "col"): boolean {
  return [view.offset, view[across], ...view.batch].every((stride) => stride % lanes === 0);
}

/** Rows are read in pieces as long as the weights' loads, of at most 16 bytes each. */
function loadable(a: MatrixView, lanes: number): boolean {
  const unit = Math.min(lanes, 16 / dtypeBytes(a.dtype));
  return [a.offset, a.row, ...a.batch].every((stride) => stride % unit === 0);
}

/** The offset of batch element `z` in a view. */
function batchOffset(batch: readonly number[], strides: readonly number[], offset: number): string {
  let after = batch.reduce((x, y) => x * y, 1);
  const parts = [`${offset}LL`];
  batch.forEach((size, i) => {
    after /= size;
    if (strides[i]) parts.push(`(i64)(z / ${after}u % ${size}u) * ${strides[i]}`);
  });
  return parts.join(" + ");
}

/** Parameters, arguments and pointers to batch element `z`, shared by both kernels. */
function frame({ batch, a, b, out, add }: MatmulKernel) {
  const weights = b.scale;
  const views = [
    { name: "a", view: a, isConst: true },
    { name: "b", view: b, isConst: true },
    { name: "out", view: out, isConst: false },
    ...(add ? [{ name: "add", view: add, isConst: true }] : []),
  ];
  const parameters = views.map(
    ({ name, view, isConst }) => `${isConst ? "const " : ""}${storageType(view.dtype)}* ${name}`,
  );
  const pointers = views.map(
    ({ name, view }) => `${name} += ${batchOffset(batch, view.batch, view.offset)};`,
  );
  const args = views.map(({ view }) => ({ slot: view.slot }));
  if (weights) {
    parameters.push("const f32* scales");
    pointers.push(`scales += ${batchOffset(batch, weights.batch, 0)};`);
    args.push({ slot: weights.slot });
  }
  return {
    parameters: parameters.join(", "),
    pointers: `const u32 z = blockIdx.y;\n  ${pointers.join("\n  ")}`,
    args,
    count: batch.reduce((x, y) => x * y, 1),
  };
}

function scaleAt({ b }: MatmulKernel, k: string, n: string): string {
  const { scale } = b;
  if (scale === undefined) return "1.0f";
  return `scales[(i64)((${k}) / ${scale.block[0]}u) * ${scale.row} + (i64)((${n}) / ${scale.block[1]}u) * ${scale.col}]`;
}

/** The statement that stores a sum. */
function store({ out, add }: MatmulKernel, r: string, c: string, sum: string): string {
  const plus =
    add === undefined
      ? sum
      : `${sum} + (f32)${widen(`add[(i64)(${r}) * ${add.row} + (i64)(${c}) * ${add.col}]`, add.dtype)}`;
  return `out[(i64)(${r}) * ${out.row} + (i64)(${c}) * ${out.col}] = ${narrow(plus, out.dtype)};`;
}

/** Weights of so few products are read in about the time that a kernel takes to begin. */
const SHORT = 1 << 22;

function byRows(kernel: MatmulKernel, lanes: number, device: DeviceInfo): Lowered {
  const { m, n, k, a, b } = kernel;
  const { parameters, pointers, args, count } = frame(kernel);
  // More columns a warp reuse the rows' values more; more warps a column fill the chip.
  let columns = m <= 2 ? 2 : 4;
  while (columns > 1 && n % columns !== 0) columns /= 2;
  const groups = (n / columns) * count;
  let share = 1;
  while (share < 8 && groups * share < device.multiprocessors * 32 && k / (share * 2) >= 32 * lanes)
    share *= 2;
  const perBlock = 8 / share;
  const step = 32 * lanes * share;
  const B = storageType(b.dtype);
  return {
    source: `extern "C" __global__ void __launch_bounds__(256) gemv(${parameters}) {
  ${pointers}
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const u32 group = blockIdx.x * ${perBlock}u + warp / ${share}u, part = warp % ${share}u;
  const u32 c0 = min(group, ${n / columns - 1}u) * ${columns}u;
  ${
    n * k * count > SHORT
      ? ""
      : `// Weights may come into the cache while the kernels before this one still run.
  if (lane % 8 == 0)
    for (u32 k = (part * 32 + lane) * ${lanes}u; k < ${k}u; k += ${step}u)
      UNROLL for (int c = 0; c < ${columns}; c++) prefetch(b + (i64)(c0 + c) * ${b.col} + k);
  after_previous();`
  }
  f32 sum[${columns}][${m}];
  UNROLL for (int c = 0; c < ${columns}; c++) UNROLL for (int r = 0; r < ${m}; r++) sum[c][r] = 0.0f;
  #pragma unroll 2
  for (u32 k = (part * 32 + lane) * ${lanes}u; k < ${k}u; k += ${step}u) {
    alignas(16) ${B} w[${columns}][${lanes}];
    UNROLL for (int c = 0; c < ${columns}; c++) load_vec(w[c], b + (i64)(c0 + c) * ${b.col} + k);
    UNROLL for (int r = 0; r < ${m}; r++) {
      alignas(16) ${storageType(a.dtype)} x[${lanes}];
      load_vec(x, a + (i64)r * ${a.row} + k);
      UNROLL for (int c = 0; c < ${columns}; c++) {
        ${
          b.scale
            ? `f32 dot = 0.0f;
        UNROLL for (int j = 0; j < ${lanes}; j++) dot += to_f32(x[j]) * (f32)${widen("w[c][j]", b.dtype)};
        sum[c][r] += dot * ${scaleAt(kernel, "k", "c0 + c")};`
            : `UNROLL for (int j = 0; j < ${lanes}; j++) sum[c][r] += to_f32(x[j]) * (f32)${widen("w[c][j]", b.dtype)};`
        }
      }
    }
  }
  UNROLL for (int c = 0; c < ${columns}; c++) UNROLL for (int r = 0; r < ${m}; r++) sum[c][r] = warp_sum(sum[c][r]);
${
  share === 1
    ? `  const bool own = group < ${n / columns}u;`
    : `  __shared__ f32 shared[8][${columns * m}];
  if (lane == 0) UNROLL for (int c = 0; c < ${columns}; c++) UNROLL for (int r = 0; r < ${m}; r++) shared[warp][c * ${m} + r] = sum[c][r];
  __syncthreads();
  UNROLL for (int c = 0; c < ${columns}; c++) UNROLL for (int r = 0; r < ${m}; r++) {
    sum[c][r] = 0.0f;
    UNROLL for (int p = 0; p < ${share}; p++) sum[c][r] += shared[warp / ${share} * ${share} + p][c * ${m} + r];
  }
  const bool own = group < ${n / columns}u && part == 0;`
}
  if (own && lane == 0) {
    UNROLL for (int c = 0; c < ${columns}; c++) UNROLL for (int r = 0; r < ${m}; r++) { ${store(kernel, "r", "c0 + c", "sum[c][r]")} }
  }
}`,
    launches: [
      {
        entry: "gemv",
        grid: [Math.ceil(n / columns / perBlock), count],
        block: [256],
        args,
      },
    ],
  };
}

/** Products of less than this end sooner than the library's two kernels begin. */
const LONG = 512;

function byColumns(kernel: MatmulKernel, lanes: number, device: DeviceInfo): Lowered | undefined {
  const { m, n, k, a, b } = kernel;
  const { parameters, pointers, args, count } = frame(kernel);
  const across = Math.ceil(n / lanes / 32);
  // With too few blocks to fill the chip, the library's split of a long k is faster.
  if (across * count < device.multiprocessors / 2 && k >= LONG) return undefined;
  const B: DType | string = storageType(b.dtype);
  return {
    source: `extern "C" __global__ void __launch_bounds__(256) gemv(${parameters}) {
  ${pointers}
  const u32 lane = threadIdx.x % 32, part = threadIdx.x / 32;
  const u32 column = blockIdx.x * 32 + lane;
  const bool live = column < ${n / lanes}u;
  const u32 c0 = min(column, ${n / lanes - 1}u) * ${lanes}u;
  f32 sum[${m}][${lanes}];
  UNROLL for (int r = 0; r < ${m}; r++) UNROLL for (int j = 0; j < ${lanes}; j++) sum[r][j] = 0.0f;
  #pragma unroll 4
  for (u32 k = part; k < ${k}u; k += 8) {
    alignas(16) ${B} w[${lanes}];
    load_vec(w, b + (i64)k * ${b.row} + c0);
    ${b.scale ? `const f32 scale = ${scaleAt(kernel, "k", "c0")};` : ""}
    UNROLL for (int r = 0; r < ${m}; r++) {
      const f32 x = to_f32(a[(i64)r * ${a.row} + k])${b.scale ? " * scale" : ""};
      UNROLL for (int j = 0; j < ${lanes}; j++) sum[r][j] += x * (f32)${widen("w[j]", b.dtype)};
    }
  }
  __shared__ f32 shared[8][32 * ${lanes}];
  UNROLL for (int r = 0; r < ${m}; r++) {
    UNROLL for (int j = 0; j < ${lanes}; j++) shared[part][j * 32 + lane] = sum[r][j];
    __syncthreads();
    // Warp p finishes lanes p, p + 8, …, in the order of the parts.
    for (u32 j = part; j < ${lanes}u; j += 8) {
      f32 total = shared[0][j * 32 + lane];
      UNROLL for (int p = 1; p < 8; p++) total += shared[p][j * 32 + lane];
      if (live) { ${store(kernel, "r", "c0 + j", "total")} }
    }
    __syncthreads();
  }
}`,
    launches: [{ entry: "gemv", grid: [across, count], block: [256], args }],
  };
}
