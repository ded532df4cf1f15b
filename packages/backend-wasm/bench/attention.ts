/**
 * Rates of attention and its derivative on one thread, with vectors of 128 bits or of 256:
 *     node bench/attention.ts [wide]
 */
import type { AttentionGradKernel, AttentionKernel, HeadsView } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { attention } from "../src/kernels/attention.ts";
import { attentionGrad } from "../src/kernels/attention-grad.ts";
import { loadKernel } from "../src/kernels/run-kernel.ts";
import { widenVectors } from "../src/wide-vectors.ts";

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

const wideVectors = process.argv.includes("wide") && (await widenVectors());
const target = { relaxedSimd: true, wideVectors };
const view = (slot: number, time: number, heads: number, width: number): HeadsView => ({
  slot,
  dtype: "f32",
  offset: 0,
  strides: [time * heads * width, heads * width, width, 1],
});

function report(name: string, flops: number, milliseconds: number): void {
  const rate = (flops / milliseconds / 1e6).toFixed(1);
  console.log(
    `${name.padEnd(64)} ${milliseconds.toFixed(3).padStart(9)} ms ${rate.padStart(7)} GFLOP/s`,
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

/** Tokens of a page of the cache. */
const PAGE = 64;

/** Absorbed decoding: all heads over one latent cache in pages, of which sequences fill `length` tokens. */
async function decoding(
  batch: number,
  { length, capacity }: { length: number; capacity: number },
  heads: number,
  rank: number,
  rope: number,
  { queries = 1, dtype = "f32" }: { queries?: number; dtype?: "f32" | "bf16" } = {},
) {
  const width = rank + rope;
  const cache = { ...view(1, PAGE, 1, width), dtype };
  const kernel: AttentionKernel = {
    kind: "attention",
    batch,
    queries,
    keys: capacity,
    heads,
    keyHeads: 1,
    qkWidth: width,
    vWidth: rank,
    scale: 0.1,
    causal: true,
    q: view(0, queries, heads, width),
    k: cache,
    v: cache,
    out: view(2, queries, heads, rank),
    lse: 3,
    lengths: 4,
    pages: { slot: 5, pageSize: PAGE },
  };
  const rows = batch * queries * heads;
  const floats = [rows * width, batch * capacity * width, rows * rank, rows];
  const lengths = new Int32Array(batch).fill(length);
  const table = Int32Array.from({ length: (batch * capacity) / PAGE }, (_, i) => i);
  const loaded = loadKernel(attention(kernel, target), [
    ...floats.map((n) => new Uint8Array(4 * n)),
    ...[lengths, table].map((ints) => new Uint8Array(ints.buffer)),
  ]);
  const milliseconds = await best(() => loaded.run());
  const bytes = dtypeBytes(dtype) * batch * length * width;
  const what = `${batch} × ${queries} after ${length}, ${heads} heads, ${rank}+${rope} ${dtype}`;
  report(
    `decode ${what}: ${(bytes / milliseconds / 1e6).toFixed(1)} GB/s`,
    2 * rows * length * (width + rank),
    milliseconds,
  );
}

await training(4, 256, 8, 48, 32);
await training(2, 512, 8, 96, 64);
await training(1, 1024, 4, 192, 128);
for (const length of [128, 1024, 4096]) {
  await decoding(1, { length, capacity: 8192 }, 8, 128, 16);
}
await decoding(1, { length: 4096, capacity: 8192 }, 8, 128, 16, { dtype: "bf16" });
await decoding(1, { length: 4096, capacity: 8192 }, 8, 128, 16, { queries: 3 });
await decoding(8, { length: 1024, capacity: 8192 }, 16, 256, 32);
await decoding(1, { length: 2048, capacity: 8192 }, 16, 512, 64);
await decoding(1, { length: 1024, capacity: 8192 }, 128, 512, 64);
