/**
 * Products of f32 on the tensor cores, which multiply bf16: a number of 24 bits is the sum of three of
 * 8, so a product with a bf16 matrix is three products, added in f32, and no bit of the factors is
 * lost. (The library's f32 products run on the ordinary cores, at a fifteenth of the rate.) Where the
 * result is rounded to bf16, two parts of each factor and three products do.
 */
import { dtypeBytes, type MatmulKernel, type MatrixView } from "../contract.ts";
import type { Action, DeviceInfo, GemmOperand, Lowered, Place } from "../kernel.ts";
import { constants } from "./hopper.ts";

/** Below so many multiplications launches take longer than products. */
const LARGE = 2 ** 26;
const THREADS = 256;

export function splitMatmul(kernel: MatmulKernel, device: DeviceInfo): Lowered | undefined {
  const { batch, m, n, k, a, b, out, add } = kernel;
  const plain = batch.length === 0 && add === undefined && out.col === 1 && out.row === n;
  const countable = [m * n, m * k, k * n].every((size) => size < 2 ** 31);
  if (!plain || !countable || device.computeCapability < 80 || m * n * k < LARGE) return undefined;
  if (layoutOf(a, m, k) === undefined || layoutOf(b, k, n) === undefined) return undefined;
  const dtypes = `${a.dtype} ${b.dtype} ${out.dtype}`;
  const work = new Parts();
  if (dtypes === "f32 f32 bf16") {
    // (h + l) · (h' + l') without l · l', which is below the result's rounding.
    const left = work.split(a, m, k, { along: "columns", parts: [0, 0, 1] });
    const right = work.split(b, k, n, { along: "rows", parts: [0, 1, 0] });
    return work.product(m, n, 3 * k, left, right, { at: place(out), dtype: "bf16" });
  }
  if (dtypes === "bf16 f32 f32") {
    const right = work.split(b, k, n, { along: "columns", parts: [0, 1, 2] });
    const sums = work.reserve(3 * m * n * 4);
    work.product(m, 3 * n, k, operand(a, m, k), right, { at: sums, dtype: "f32" });
    return work.sum(m, n, sums, { part: n, row: 3 * n }, out);
  }
  if (dtypes === "f32 bf16 f32") {
    const left = work.split(a, m, k, { along: "rows", parts: [0, 1, 2] });
    const sums = work.reserve(3 * m * n * 4);
    work.product(3 * m, n, k, left, operand(b, k, n), { at: sums, dtype: "f32" });
    return work.sum(m, n, sums, { part: m * n, row: n }, out);
  }
  return undefined;
}

/** Which axis is contiguous; undefined when neither is, or there are scales. */
function layoutOf(view: MatrixView, rows: number, columns: number): "rows" | "columns" | undefined {
  if (view.scale !== undefined) return undefined;
  if (view.col === 1 && view.row >= columns) return "rows";
  return view.row === 1 && view.col >= rows ? "columns" : undefined;
}

function place(view: MatrixView): Place {
  return { slot: view.slot, offset: view.offset * dtypeBytes(view.dtype) };
}

/** A view as the library takes it. */
function operand(view: MatrixView, rows: number, columns: number): GemmOperand {
  const transposed = layoutOf(view, rows, columns) === "columns";
  const leading = transposed ? view.col : view.row;
  return { at: place(view), dtype: view.dtype, transposed, leading, batchStride: 0 };
}

/** Collects the actions of one product and lays out its workspace. */
class Parts {
  readonly #actions: Action[] = [];
  #source = "";
  #bytes = 0;

  reserve(bytes: number): { workspace: number } {
    const at = { workspace: this.#bytes };
    this.#bytes += Math.ceil(bytes / 256) * 256;
    return at;
  }

  /** The given parts of an f32 matrix (0: the upper 8 bits, 1: the next …) beside or below one another. */
  split(
    view: MatrixView,
    rows: number,
    columns: number,
    { along, parts }: { along: "rows" | "columns"; parts: readonly number[] },
  ): GemmOperand {
    const transposed = layoutOf(view, rows, columns) === "columns";
    const count = parts.length;
    const [fast, slow] = transposed ? [rows, columns] : [columns, rows];
    const alongFast = (along === "rows") === transposed;
    const leading = alongFast ? count * fast : fast;
    const at = this.reserve(count * rows * columns * 2);
    const entry = `split${this.#actions.length}`;
    this.#source += `
extern "C" __global__ void __launch_bounds__(${THREADS}) ${entry}(const f32* __restrict__ from, bf16* __restrict__ to) {
  const int i = blockIdx.x * ${THREADS} + threadIdx.x;
  if (i >= ${fast * slow}) return;
  const int x = i % ${fast}, y = i / ${fast};
  f32 rest = from[(i64)y * ${transposed ? view.col : view.row} + x];
  bf16 part[3];
  #pragma unroll
  for (int p = 0; p < 3; ++p) { part[p] = from_f32<bf16>(rest); rest -= to_f32(part[p]); }
  bf16* at = to + (i64)y * ${leading} + x;
${parts.map((p, place) => `  at[${place * (alongFast ? fast : fast * slow)}ll] = part[${p}];`).join("\n")}
}
`;
    this.#actions.push({
      entry,
      grid: [Math.ceil((fast * slow) / THREADS)],
      block: [THREADS],
      args: [{ slot: view.slot, offset: view.offset * 4 }, at],
    });
    return { at, dtype: "bf16", transposed, leading, batchStride: 0 };
  }

  product(
    m: number,
    n: number,
    k: number,
    a: GemmOperand,
    b: GemmOperand,
    to: Pick<GemmOperand, "at" | "dtype">,
  ): Lowered {
    const d: GemmOperand = { ...to, transposed: false, leading: n, batchStride: 0 };
    this.#actions.push({ gemm: { m, n, k, batch: 1, a, b, d } });
    return { source: this.#source, launches: this.#actions, workspace: this.#bytes };
  }

  /** out [m, n] = the sum of three products, which lie `part` apart, the smallest first. */
  sum(
    m: number,
    n: number,
    from: { workspace: number },
    { part, row }: { part: number; row: number },
    out: MatrixView,
  ): Lowered {
    this.#source += `${constants({ COUNT: m * n, N: n })}
extern "C" __global__ void __launch_bounds__(${THREADS}) sum_parts(const f32* __restrict__ from, f32* __restrict__ out) {
  const int i = blockIdx.x * ${THREADS} + threadIdx.x;
  if (i >= COUNT) return;
  const f32* at = from + (i64)(i / N) * ${row} + i % N;
  out[i] = at[${2 * part}ll] + at[${part}ll] + at[0];
}
`;
    this.#actions.push({
      entry: "sum_parts",
      grid: [Math.ceil((m * n) / THREADS)],
      block: [THREADS],
      args: [from, { slot: out.slot, offset: out.offset * 4 }],
    });
    return { source: this.#source, launches: this.#actions, workspace: this.#bytes };
  }
}
