/** The parts that a sequence's keys are split into for latent decoding, and their results together. */
import type { AttentionKernel } from "../contract.ts";
import { at } from "./attention-shape.ts";

/**
 * Into how many parts to split the keys: the count that wastes least, where blocks run in waves over
 * the multiprocessors and every block costs about one tile's time extra.
 */
export function splitCount(blocks: number, keyTiles: number, multiprocessors: number): number {
  let best = 1;
  let bestTime = Infinity;
  for (let splits = 1; splits <= Math.min(keyTiles, 64); splits++) {
    const waves = Math.ceil((blocks * splits) / multiprocessors);
    const time = waves * (Math.ceil(keyTiles / splits) + (splits > 1 ? 1.5 : 1));
    if (time < bestTime * 0.98) [best, bestTime] = [splits, time];
  }
  return best;
}

/** `mla_combine`, which also writes log-sum-exps. Constants as in mla-decode.ts. */
export function combineParts(k: AttentionKernel): string {
  return `
// One block a row: the parts' results weighted by their shares of the softmax. Empty parts wrote no o.
extern "C" __global__ void __launch_bounds__(128) mla_combine(bf16* __restrict__ out, f32* __restrict__ lse,
    const f32* __restrict__ partial, const f32* __restrict__ partial_lse) {
  __shared__ f32 weights[SPLITS];
  const int b = blockIdx.x / ROW_COUNT, row = blockIdx.x % ROW_COUNT, lane = threadIdx.x & 31;
  const f32* logs = partial_lse + (i64)blockIdx.x * SPLITS;
  f32 top = -INF, sum = 0; // by every warp for itself
  for (int i = lane; i < SPLITS; i += 32) top = fmaxf(top, logs[i]);
  top = warp_max(top);
  for (int i = lane; i < SPLITS; i += 32) {
    const f32 w = logs[i] == -INF ? 0.0f : exp2f(logs[i] - top);
    sum += w;
    if (threadIdx.x < 32) weights[i] = w;
  }
  sum = warp_sum(sum);
  const f32 factor = sum > 0 ? 1.0f / sum : 0.0f;
  __syncthreads();
  bf16* to = out + ${at(k.out, "b", "row / HEADS", "row % HEADS")};
  for (int c = threadIdx.x * 4; c < V_WIDTH; c += 512) {
    float4 o = make_float4(0, 0, 0, 0);
    #pragma unroll 8
    for (int i = 0; i < SPLITS; ++i) {
      const f32 w = weights[i];
      const float4 x = *(const float4*)(partial + ((i64)blockIdx.x * SPLITS + i) * V_WIDTH + c);
      if (w > 0) { o.x += w * x.x; o.y += w * x.y; o.z += w * x.z; o.w += w * x.w; }
    }
    *(uint2*)(to + c) = make_uint2(pack(o.x * factor, o.y * factor), pack(o.z * factor, o.w * factor));
  }
  if (threadIdx.x == 0) write_lse(lse, b, row, sum > 0 ? top + log2f(sum) : -INF);
}
`;
}
