/** Every lowering, by the kind of kernel that it takes. */
import type { Kernel } from "../contract.ts";
import type { DeviceInfo, Lower, Lowered } from "../kernel.ts";
import { lowerLoop } from "../loops/lower.ts";
import { attentionGradLowerings, attentionLowerings } from "./attention.ts";
import { lowerCountingSort } from "./counting-sort.ts";
import { lowerGemv } from "./gemv.ts";
import { hopperGroupedMatmul } from "./grouped-matmul.ts";
import { plainGroupedMatmul } from "./grouped-plain.ts";
import { lowerMatmul } from "./matmul.ts";
import { lowerQuantize } from "./quantize.ts";
import { lowerCumsum } from "./scan.ts";
import { lowerScatter } from "./scatter.ts";
import { skinnyMatmul } from "./skinny-matmul.ts";
import { splitMatmul } from "./split-matmul.ts";
import { lowerTopK } from "./top-k.ts";

type Lowerings = {
  readonly [K in Kernel["kind"]]?: readonly Lower<Extract<Kernel, { kind: K }>>[];
};

/** Asked in order; the first that does not return undefined is taken. */
const LOWERINGS: Lowerings = {
  loop: [(kernel, device) => lowerLoop(kernel, device)],
  matmul: [skinnyMatmul, lowerGemv, splitMatmul, lowerMatmul],
  groupedMatmul: [hopperGroupedMatmul, plainGroupedMatmul],
  attention: attentionLowerings,
  attentionGrad: attentionGradLowerings,
  topK: [lowerTopK],
  countingSort: [lowerCountingSort],
  cumsum: [lowerCumsum],
  scatter: [lowerScatter],
  quantize: [lowerQuantize],
};

export function lower(kernel: Kernel, device: DeviceInfo): Lowered {
  const candidates = (LOWERINGS[kernel.kind] ?? []) as readonly Lower<Kernel>[];
  for (const candidate of candidates) {
    const lowered = candidate(kernel, device);
    if (lowered !== undefined) return lowered;
  }
  throw new Error(
    `the CUDA backend has no kernel for this ${kernel.kind}: ${JSON.stringify(kernel)}`,
  );
}
