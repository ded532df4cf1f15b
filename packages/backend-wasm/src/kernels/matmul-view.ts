/** Addresses of the matrices of a batch. */
import type { MatrixView } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, i32, type Local, type Value } from "../asm.ts";
import type { PhaseArguments } from "../kernel.ts";

/** Σ strides[d] · (place of matrix `index` along batch axis d), times `bytes`. */
export function batchOffset(
  f: Func,
  index: Local<"i32">,
  batch: readonly number[],
  strides: readonly number[],
  bytes: number,
): Value<"i32"> {
  let offset: Value<"i32"> = i32.const(0);
  let rest: Value<"i32"> = index;
  for (let d = batch.length - 1; d >= 0; d--) {
    const extent = batch[d] as number;
    const stride = (strides[d] ?? 0) * bytes;
    if (extent === 1) continue;
    const first = batch.slice(0, d).every((n) => n === 1);
    if (stride !== 0) {
      const place = first ? rest : i32.remU(rest, extent);
      offset = i32.add(offset, i32.mul(place, stride));
    }
    if (!first) rest = f.keep(i32.divU(rest, extent));
  }
  return offset;
}

/** Address of the first element of matrix `index` of a view. */
export function matrixAddress(
  f: Func,
  args: PhaseArguments,
  view: MatrixView,
  batch: readonly number[],
  index: Local<"i32">,
): Local<"i32"> {
  const bytes = dtypeBytes(view.dtype);
  const offset = batchOffset(f, index, batch, view.batch, bytes);
  return f.keep(i32.add(i32.add(args.slot(view.slot), view.offset * bytes), offset));
}

/** Address of the scales of matrix `index` of a view that has them. */
export function scalesAddress(
  f: Func,
  args: PhaseArguments,
  view: MatrixView,
  batch: readonly number[],
  index: Local<"i32">,
): Local<"i32"> | undefined {
  const { scale } = view;
  if (!scale) return undefined;
  return f.keep(i32.add(args.slot(scale.slot), batchOffset(f, index, batch, scale.batch, 4)));
}

/** Whether all matrices of a batch are the same one. */
export function isShared(view: MatrixView, batch: readonly number[]): boolean {
  const still = (strides: readonly number[]) =>
    batch.every((n, d) => n === 1 || (strides[d] ?? 0) === 0);
  return still(view.batch) && (!view.scale || still(view.scale.batch));
}
