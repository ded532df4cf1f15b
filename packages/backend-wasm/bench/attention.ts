/**
 * Rates of attention and its derivative on one thread:
 *     node bench/attention.ts
 */
import type { AttentionGradKernel, AttentionKernel, HeadsView } from "@dsv3/tensor";
import { attention } from "../src/kernels/attention.ts";
import { attentionGrad } from "../src/kernels/attention-grad.ts";
import { loadKernel } from "../src/kernels/run-kernel.ts";

async function best(run: () => void): Promise<number> {
  const end = performance.now() + 800;
  let least = Number.POSITIVE_INFINITY;
  while (performance.now() < end) {
    const start = performance.now();
    run();
    least = Math.min(least, performance.now() - start);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  return least;
}

const target = { relaxedSimd: true };
const view = (slot: number, time: number, heads: number, width: number): HeadsView => ({
  slot,
  dtype: "f32",
  offset: 0,
  strides: [time * heads * width, heads * width, width, 1],
});

function report(name: string, flops: number, milliseconds: number): void {
  const rate = (flops / milliseconds / 1e6).toFixed(1);
  console.log(
    `${name.padEnd(52)} ${milliseconds.toFixed(3).padStart(9)} ms ${rate.padStart(7)} GFLOP/s`,
  );
}

async function training(
  batch: number,
  time: number,
  heads: number,
  qkWidth: number,
  vWidth: number,
) {
  const sizes = { qk: batch * time * heads * qkWidth, v: batch * time * heads * vWidth };
  const bytes = [sizes.qk, sizes.qk, sizes.v, sizes.v, batch * heads * time].map(
    (n) => new Uint8Array(4 * n),
  );
  const shape = {
    batch,
    queries: time,
    keys: time,
    heads,
    keyHeads: heads,
    qkWidth,
    vWidth,
    scale: 0.1,
    causal: true,
    lse: 4,
  };
  const [q, k] = [view(0, time, heads, qkWidth), view(1, time, heads, qkWidth)];
  const [v, out] = [view(2, time, heads, vWidth), view(3, time, heads, vWidth)];
  const forward: AttentionKernel = { kind: "attention", ...shape, q, k, v, out };
  // Multiply-adds of the lower triangle.
  const pairs = (batch * heads * time * (time + 1)) / 2;
  const name = `[${batch}, ${time}, ${heads}, ${qkWidth}/${vWidth}] causal`;
  const loaded = loadKernel(attention(forward, target), bytes);
  report(`attention ${name}`, 2 * pairs * (qkWidth + vWidth), await best(() => loaded.run()));
  const backward: AttentionGradKernel = {
    kind: "attentionGrad",
    ...shape,
    q,
    k,
    v,
    out,
    dout: { ...out, slot: 5 },
    dq: { ...q, slot: 6 },
    dk: { ...k, slot: 7 },
    dv: { ...v, slot: 8 },
  };
  const more = [sizes.v, sizes.qk, sizes.qk, sizes.v].map((n) => new Uint8Array(4 * n));
  const grad = loadKernel(attentionGrad(backward, target), [...bytes, ...more]);
  report(
    `attentionGrad ${name}`,
    2 * pairs * (3 * qkWidth + 2 * vWidth),
    await best(() => grad.run()),
  );
}

/** Absorbed decoding: all heads over one latent cache. */
async function decoding(batch: number, keys: number, heads: number, rank: number, rope: number) {
  const width = rank + rope;
  const kernel: AttentionKernel = {
    kind: "attention",
    batch,
    queries: 1,
    keys,
    heads,
    keyHeads: 1,
    qkWidth: width,
    vWidth: rank,
    scale: 0.1,
    causal: true,
    q: view(0, 1, heads, width),
    k: view(1, keys, 1, width),
    v: view(1, keys, 1, width),
    out: view(2, 1, heads, rank),
    lse: 3,
  };
  const sizes = [batch * heads * width, batch * keys * width, batch * heads * rank, batch * heads];
  const loaded = loadKernel(
    attention(kernel, target),
    sizes.map((n) => new Uint8Array(4 * n)),
  );
  const milliseconds = await best(() => loaded.run());
  const cache = ((4 * batch * keys * width) / milliseconds / 1e6).toFixed(1);
  report(
    `decode ${batch} × ${keys} keys, ${heads} heads, ${rank}+${rope}: ${cache} GB/s`,
    2 * batch * keys * heads * (width + rank),
    milliseconds,
  );
}

await training(4, 256, 8, 48, 32);
await training(2, 512, 8, 96, 64);
await training(1, 1024, 4, 192, 128);
await decoding(1, 2048, 8, 128, 32);
await decoding(1, 2048, 16, 512, 64);
await decoding(8, 1024, 16, 256, 32);
