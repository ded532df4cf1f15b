/**
 * Dense matrix products. cuBLASLt multiplies; this file brings every view that the contract allows into
 * a form that it takes: operands of one dtype, one axis contiguous, at most one batch stride. What
 * doesn't fit is first converted into the workspace by a loop kernel, and a result or addend of another
 * dtype is finished by one.
 */
import { type DType, isFloat, type MatmulKernel, type MatrixView } from "../contract.ts";
import type { Lower, Lowered } from "../kernel.ts";
import { element, fp8Scales, Workspace, whole, zero } from "./matmul-workspace.ts";

export const lowerMatmul: Lower<MatmulKernel> = (original, device) => {
  const folded = foldBatch(original);
  const { batch, m, n, k, out, add } = folded;
  const count = batch.reduce((a, b) => a * b, 1);
  if (count * m * n === 0) return { source: "", launches: [] };
  const work = new Workspace(device);
  if (k === 0) {
    work.element([...batch, m, n], add === undefined ? zero : whole(add), element(out));
    return work.lowered();
  }
  const type = productType(folded);
  if (type === undefined) return lowerIntegerMatmul(folded);

  const kernel = type === "f8" ? work.alongContraction(folded) : folded;
  const scales = type === "f8" ? fp8Scales(kernel) : undefined;
  const native = type === "f8" && scales !== undefined;
  const dtype: DType = type === "f8" ? "bf16" : type;
  const a = native ? kernel.a : work.operand(kernel.a, batch, m, k, dtype);
  const b = native ? kernel.b : work.operand(kernel.b, batch, k, n, dtype);

  // The library adds only what looks like its result; anything else is added by a loop afterwards.
  const results: readonly DType[] = dtype === "f32" ? ["f32"] : [dtype, "f32"];
  const direct = results.includes(out.dtype);
  const fused =
    direct &&
    add !== undefined &&
    add.dtype === out.dtype &&
    add.col === 1 &&
    (add.row >= n || m === 1);
  const later = add !== undefined && !fused;
  const d = direct && !later ? out : work.temporary(batch, m, n, "f32");
  work.products(batch, m, n, k, a, b, fused ? add : undefined, d, scales);
  if (d !== out) {
    const sum = later ? [whole(d), whole(add)] : [whole(d)];
    work.element([...batch, m, n], sum, element(out));
  }
  return work.lowered();
};

/** Turns batch axes into rows where `b` is shared by them and the rows go on evenly. */
function foldBatch(kernel: MatmulKernel): MatmulKernel {
  let { batch, m, a, b, out, add } = kernel;
  const drop = (view: MatrixView): MatrixView => ({
    ...view,
    batch: view.batch.slice(0, -1),
    row: m === 1 ? (view.batch.at(-1) as number) : view.row,
  });
  const even = (view: MatrixView) => m === 1 || view.batch.at(-1) === m * view.row;
  const scaled = (view: MatrixView) => view.scale !== undefined;
  while (
    batch.length > 0 &&
    b.batch.at(-1) === 0 &&
    !scaled(a) &&
    (b.scale === undefined || b.scale.batch.at(-1) === 0) &&
    even(a) &&
    even(out) &&
    (add === undefined || even(add))
  ) {
    [a, out, add] = [drop(a), drop(out), add && drop(add)];
    const { scale } = b;
    b = {
      ...b,
      batch: b.batch.slice(0, -1),
      ...(scale ? { scale: { ...scale, batch: scale.batch.slice(0, -1) } } : {}),
    };
    m *= batch.at(-1) as number;
    batch = batch.slice(0, -1);
  }
  return { kind: "matmul", batch, m, n: kernel.n, k: kernel.k, a, b, out, ...(add ? { add } : {}) };
}

/**
 * The dtype of the factors; "f8" natively; undefined: integers. An f32 factor is rounded where the
 * other one and the result are 16 bits wide: the result's own rounding is as large, and f32 products
 * take ten times as long (the gradient of an f32 loss for bf16 weights).
 */
function productType({ a, b, out }: MatmulKernel): DType | "f8" | undefined {
  const integer = (view: MatrixView) => !isFloat(view.dtype) && view.scale === undefined;
  if (integer(a) && integer(b)) return undefined;
  const isF8 = (view: MatrixView) => view.dtype === "f8e4m3" || view.dtype === "f8e5m2";
  if (isF8(a) && isF8(b)) return "f8";
  const half = (view: MatrixView) =>
    view.dtype === "bf16" || view.dtype === "f16" ? view.dtype : undefined;
  const narrow = (view: MatrixView) =>
    isF8(view) || (view.dtype === "i8" && view.scale !== undefined);
  const [ha, hb] = [half(a), half(b)];
  if (ha !== undefined && (hb === ha || narrow(b))) return ha;
  if (hb !== undefined && narrow(a)) return hb;
  const rounded = ha ?? hb;
  const f32 = a.dtype === "f32" || b.dtype === "f32";
  return rounded !== undefined && f32 && out.dtype === rounded ? rounded : "f32";
}

/** Integers, exactly; a thread for every element of the result. */
function lowerIntegerMatmul({ batch, m, n, k, a, b, out, add }: MatmulKernel): Lowered {
  const count = batch.reduce((x, y) => x * y, 1);
  const at = (view: MatrixView, row: string, col: string) => {
    let divisor = count;
    const parts = batch.map((size, i) => {
      divisor /= size;
      return `(i64)(z / ${divisor}u % ${size}u) * ${view.batch[i]}`;
    });
    return [
      String(view.offset),
      ...parts,
      `(i64)${row} * ${view.row}`,
      `(i64)${col} * ${view.col}`,
    ].join(" + ");
  };
  const type = (view: MatrixView) => (view.dtype === "bool" ? "u8" : view.dtype);
  const float = isFloat(out.dtype);
  const plus =
    add === undefined
      ? ""
      : ` + ${isFloat(add.dtype) ? "to_f32" : "(i32)"}(add[${at(add, "r", "c")}])`;
  const views = [a, b, out, ...(add ? [add] : [])];
  return {
    source: `extern "C" __global__ void integer_matmul(${[
      `const ${type(a)}* a`,
      `const ${type(b)}* b`,
      `${type(out)}* out`,
      ...(add ? [`const ${type(add)}* add`] : []),
    ].join(", ")}) {
  const u32 c = blockIdx.x * 32 + threadIdx.x, r = blockIdx.y * 8 + threadIdx.y, z = blockIdx.z;
  if (c >= ${n}u || r >= ${m}u) return;
  u32 sum = 0;
  for (u32 k = 0; k < ${k}u; k++) sum += (u32)a[${at(a, "r", "k")}] * (u32)b[${at(b, "k", "c")}];
  out[${at(out, "r", "c")}] = ${float ? `from_f32<${out.dtype}>((f32)(i32)sum${plus})` : `(${type(out)})((i32)sum${plus})`};
}`,
    launches: [
      {
        entry: "integer_matmul",
        grid: [Math.ceil(n / 32), Math.ceil(m / 8), count],
        block: [32, 8],
        args: views.map((view) => ({ slot: view.slot })),
      },
    ],
  };
}
