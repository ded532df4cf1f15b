/**
 * Products of f32 on the tensor cores, which multiply bf16: a number of 24 bits is the sum of three of
 * 8, so a product with a bf16 matrix is three products, added in f32, and no bit of the factors is
 * lost. (The library's f32 products run on the ordinary cores, at a fifteenth of the rate.) Where the
 * result is rounded to bf16, two parts of each factor and three products do.
 */
import type { MatmulKernel, MatrixView } from "../contract.ts";
import type { DeviceInfo, Lowered } from "../kernel.ts";
import { element, Workspace } from "./matmul-workspace.ts";

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
  const work = new Workspace(device);
  const product = (m: number, n: number, k: number, a: MatrixView, b: MatrixView, d: MatrixView) =>
    work.products([], m, n, k, a, b, undefined, d, undefined);
  /** Three products, which lie `part` numbers apart, the smallest first. */
  const sum = (from: MatrixView, part: number) => {
    const nth = (i: number) => [element({ ...from, offset: i * part })];
    work.element([m, n], [nth(2), nth(1), nth(0)], element(out));
  };
  if (dtypes === "f32 f32 bf16") {
    // (h + l) · (h' + l') without l · l', which is below the result's rounding.
    const left = split(work, a, m, k, { along: "columns", parts: [0, 0, 1] });
    const right = split(work, b, k, n, { along: "rows", parts: [0, 1, 0] });
    product(m, n, 3 * k, left, right, out);
  } else if (dtypes === "bf16 f32 f32") {
    const right = split(work, b, k, n, { along: "columns", parts: [0, 1, 2] });
    const three = work.temporary([], m, 3 * n, "f32");
    product(m, 3 * n, k, a, right, three);
    sum(three, n);
  } else if (dtypes === "f32 bf16 f32") {
    const left = split(work, a, m, k, { along: "rows", parts: [0, 1, 2] });
    const three = work.temporary([], 3 * m, n, "f32");
    product(3 * m, n, k, left, b, three);
    sum(three, m * n);
  } else return undefined;
  return work.lowered();
}

/** Which axis is contiguous; undefined when neither is, or there are scales. */
function layoutOf(view: MatrixView, rows: number, columns: number): "rows" | "columns" | undefined {
  if (view.scale !== undefined) return undefined;
  if (view.col === 1 && view.row >= columns) return "rows";
  return view.row === 1 && view.col >= rows ? "columns" : undefined;
}

/** The given parts of an f32 matrix (0: the upper 8 bits, 1: the next …) beside or below one another. */
function split(
  work: Workspace,
  view: MatrixView,
  rows: number,
  columns: number,
  { along, parts }: { along: "rows" | "columns"; parts: readonly number[] },
): MatrixView {
  const transposed = layoutOf(view, rows, columns) === "columns";
  const [fast, slow] = transposed ? [rows, columns] : [columns, rows];
  const alongFast = (along === "rows") === transposed;
  const count = parts.length;
  const to = alongFast
    ? work.temporary([], slow, count * fast, "bf16")
    : work.temporary([], count * slow, fast, "bf16");
  const entry = `split_${along}`;
  const source = `
extern "C" __global__ void __launch_bounds__(${THREADS}) ${entry}(const f32* __restrict__ from, bf16* __restrict__ to) {
  const int i = blockIdx.x * ${THREADS} + threadIdx.x;
  if (i >= ${fast * slow}) return;
  const int x = i % ${fast}, y = i / ${fast};
  f32 rest = from[(i64)y * ${transposed ? view.col : view.row} + x];
  bf16 part[3];
  #pragma unroll
  for (int p = 0; p < 3; ++p) { part[p] = from_f32<bf16>(rest); rest -= to_f32(part[p]); }
  bf16* at = to + (i64)y * ${to.row} + x;
${parts.map((p, place) => `  at[${place * (alongFast ? fast : fast * slow)}ll] = part[${p}];`).join("\n")}
}
`;
  work.kernel(source, {
    entry,
    grid: [Math.ceil((fast * slow) / THREADS)],
    block: [THREADS],
    args: [{ slot: view.slot, offset: view.offset * 4 }, { slot: to.slot }],
  });
  return transposed ? { ...to, row: to.col, col: to.row } : to;
}
