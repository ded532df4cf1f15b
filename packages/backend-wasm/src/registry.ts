/** Which emitter makes which kernel. */
import type { Kernel } from "@dsv3/tensor";
import type { KernelCode, Target } from "./kernel.ts";
import { attention } from "./kernels/attention.ts";
import { attentionGrad } from "./kernels/attention-grad.ts";
import { countingSort } from "./kernels/counting-sort.ts";
import { cumsum } from "./kernels/cumsum.ts";
import { groupedMatmul } from "./kernels/grouped-matmul.ts";
import { matmul } from "./kernels/matmul.ts";
import { scatter } from "./kernels/scatter.ts";
import { topK } from "./kernels/top-k.ts";
import { loop } from "./loops/emit.ts";

type Emitters = {
  readonly [K in Kernel["kind"]]?: (
    kernel: Extract<Kernel, { kind: K }>,
    target: Target,
  ) => KernelCode;
};

const EMITTERS: Emitters = {
  loop,
  matmul,
  groupedMatmul,
  attention,
  topK,
  countingSort,
  cumsum,
  scatter,
  attentionGrad,
};

/** Code of a kernel. */
export function emitKernel(kernel: Kernel, target: Target): KernelCode {
  const emit = EMITTERS[kernel.kind] as ((k: Kernel, t: Target) => KernelCode) | undefined;
  if (!emit) {
    throw new Error(
      `the wasm backend has no kernel of kind ${JSON.stringify(kernel.kind)}; it has ${Object.keys(EMITTERS).join(", ")}`,
    );
  }
  return emit(kernel, target);
}
