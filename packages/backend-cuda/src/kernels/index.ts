/** Every lowering, by the kind of kernel that it takes. */
import type { Kernel } from "../contract.ts";
import type { DeviceInfo, Lower, Lowered } from "../kernel.ts";

type Lowerings = {
  readonly [K in Kernel["kind"]]?: readonly Lower<Extract<Kernel, { kind: K }>>[];
};

/** Asked in order; the first that does not return undefined is taken. */
const LOWERINGS: Lowerings = {};

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
