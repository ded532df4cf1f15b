/**
 * Working copies of weights: matrices in bf16 beside their f32 masters, as products take them. The
 * optimiser has the new master at hand and writes the copy, so that no step has to read all masters
 * again to round them. They are made of the masters whenever a state comes without them, and never saved.
 */
import { type LossOptions, type ModelParams, roundedMatrices } from "@dsv3/model";
import { cast, concat, split, type Tensor, treeMap } from "@dsv3/tensor";

/** One bf16 tensor for each list of `roundedMatrices`, its matrices one below the other. */
export type WorkingCopies = Tensor[];

/** Whether steps with such a loss take working copies. */
export function takesCopies(params: ModelParams, loss: LossOptions): boolean {
  // A layer that is computed again takes its weights one by one.
  const rounds = loss.computeDtype === "bf16" && !loss.remat;
  return (
    rounds &&
    roundedMatrices(params)
      .flat()
      .every((m) => m.dtype === "f32")
  );
}

/** The copies of these parameters. */
export function workingCopies(params: ModelParams): WorkingCopies {
  return roundedMatrices(params).map((matrices) =>
    concat(
      matrices.map((m) => cast(m, "bf16")),
      -2,
    ),
  );
}

/** The parameters, with what lies in the copies (or in their gradients) in the places of their masters. */
export function withCopies(params: ModelParams, copies: WorkingCopies): ModelParams {
  const places = new Map<Tensor, Tensor>();
  roundedMatrices(params).forEach((matrices, i) => {
    const rows = matrices.map((m) => m.shape.at(-2) as number);
    const parts = split(copies[i] as Tensor, rows, -2);
    matrices.forEach((m, j) => {
      places.set(m, parts[j] as Tensor);
    });
  });
  return treeMap((t) => places.get(t) ?? t, params) as ModelParams;
}
