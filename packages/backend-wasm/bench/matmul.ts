/**
 * Rates of matrix products on one thread, without a backend around them:
 *     node bench/matmul.ts
 */
import type { DType, GroupedMatmulKernel, MatmulKernel } from "@dsv3/tensor";
import { dtypeBytes } from "@dsv3/tensor/dtype";
import { groupedMatmul } from "../src/kernels/grouped-matmul.ts";
import { matmul } from "../src/kernels/matmul.ts";
import { loadKernel } from "../src/kernels/run-kernel.ts";

const target = { relaxedSimd: true };

/** Best time of a call, in seconds, once the engine has optimised it. */
export async function best(run: () => void, seconds = 0.6): Promise<number> {
  const end = performance.now() + 1000 * seconds;
  let least = Number.POSITIVE_INFINITY;
  while (performance.now() < end) {
    const start = performance.now();
    run();
    least = Math.min(least, performance.now() - start);
    // Lets the engine install optimised code.
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  return least / 1000;
}

function report(name: string, flops: number, bytes: number, seconds: number): void {
  const gflops = (flops / seconds / 1e9).toFixed(1).padStart(7);
  const bandwidth = (bytes / seconds / 1e9).toFixed(1).padStart(6);
  console.log(
    `${name.padEnd(44)} ${(seconds * 1e3).toFixed(3).padStart(9)} ms ${gflops} GFLOP/s ${bandwidth} GB/s`,
  );
}

async function dense(m: number, n: number, k: number, layout: "NN" | "NT" | "TN"): Promise<void> {
  const [ta, tb] = [layout[0] === "T", layout[1] === "T"];
  const kernel: MatmulKernel = {
    kind: "matmul",
    batch: [],
    m,
    n,
    k,
    a: { slot: 0, dtype: "f32", offset: 0, batch: [], row: ta ? 1 : k, col: ta ? m : 1 },
    b: { slot: 1, dtype: "f32", offset: 0, batch: [], row: tb ? 1 : n, col: tb ? k : 1 },
    out: { slot: 2, dtype: "f32", offset: 0, batch: [], row: n, col: 1 },
  };
  const sizes = [m * k, k * n, m * n];
  const loaded = loadKernel(
    matmul(kernel, target),
    sizes.map((size) => new Uint8Array(4 * size)),
  );
  const seconds = await best(() => loaded.run());
  report(
    `${layout} [${m}, ${k}] × [${k}, ${n}]`,
    2 * m * n * k,
    4 * (m * k + k * n + m * n),
    seconds,
  );
}

/** A few rows past weights [n, k] that are too many for the caches. */
async function few(m: number, k: number, n: number, dtype: DType, scaled = false): Promise<void> {
  const view = { slot: 1, dtype, offset: 0, batch: [], row: 1, col: k };
  const scale = { slot: 3, block: [128, 1] as const, batch: [], row: 1, col: k / 128 };
  const kernel: MatmulKernel = {
    kind: "matmul",
    batch: [],
    m,
    n,
    k,
    a: { slot: 0, dtype: "f32", offset: 0, batch: [], row: k, col: 1 },
    b: scaled ? { ...view, scale } : view,
    out: { slot: 2, dtype: "f32", offset: 0, batch: [], row: n, col: 1 },
  };
  const bytes = k * n * dtypeBytes(dtype);
  const sizes = [4 * m * k, bytes, 4 * m * n, (4 * n * k) / 128];
  const loaded = loadKernel(
    matmul(kernel, target),
    sizes.map((size) => new Uint8Array(size)),
  );
  const seconds = await best(() => loaded.run());
  report(`few rows [${m}, ${k}] × ${dtype} [${k}, ${n}]`, 2 * m * n * k, bytes, seconds);
}

async function grouped(
  form: "rows" | "groups",
  rows: number,
  groups: number,
  k: number,
  n: number,
) {
  const kernel: GroupedMatmulKernel = {
    kind: "groupedMatmul",
    form,
    groups,
    rows,
    k,
    n,
    offsets: 3,
    a: { slot: 0, dtype: "f32", offset: 0, batch: [], row: k, col: 1 },
    b:
      form === "rows"
        ? { slot: 1, dtype: "f32", offset: 0, batch: [k * n], row: 1, col: k }
        : { slot: 1, dtype: "f32", offset: 0, batch: [], row: n, col: 1 },
    out: {
      slot: 2,
      dtype: "f32",
      offset: 0,
      batch: form === "rows" ? [] : [k * n],
      row: n,
      col: 1,
    },
  };
  const sizes =
    form === "rows" ? [rows * k, groups * k * n, rows * n] : [rows * k, rows * n, groups * k * n];
  // Uneven runs, some of them empty.
  const offsets = new Int32Array(groups + 1).map((_, g) => Math.floor(rows * (g / groups) ** 1.5));
  offsets[groups] = rows;
  const slots = [...sizes.map((size) => new Uint8Array(4 * size)), new Uint8Array(offsets.buffer)];
  const loaded = loadKernel(groupedMatmul(kernel, target), slots);
  const seconds = await best(() => loaded.run());
  const bytes = 4 * sizes.reduce((x, y) => x + y, 0);
  report(
    `grouped ${form} ${rows} rows, ${groups} of [${k}, ${n}]`,
    2 * rows * n * k,
    bytes,
    seconds,
  );
}

for (const size of [64, 128, 256, 512, 1024, 2048]) await dense(size, size, size, "NN");
await dense(1024, 1024, 1024, "NT");
await dense(2048, 768, 256, "NT");
await dense(2048, 256, 768, "NN");
await dense(768, 256, 2048, "TN");
await dense(1024, 4096, 256, "NT");
await dense(1024, 256, 4096, "NN");
await dense(4096, 256, 1024, "TN");
for (const m of [8, 16, 32, 128]) await dense(m, 2048, 2048, "NT");
for (const m of [1, 4]) await few(m, 2048, 8192, "f32");
for (const dtype of ["bf16", "f16", "f8e4m3", "i8"] as const)
  await few(1, 2048, 8192, dtype, dtype === "f8e4m3" || dtype === "i8");
await grouped("rows", 64, 32, 512, 256);
await grouped("rows", 512, 256, 512, 256);
await grouped("rows", 4096, 32, 256, 128);
await grouped("rows", 4096, 64, 128, 256);
await grouped("groups", 4096, 32, 256, 128);
await grouped("groups", 4096, 64, 128, 256);
