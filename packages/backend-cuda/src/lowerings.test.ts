/** What can be checked without a GPU: every kernel of the contract has a lowering, and its launches are sane. */
import type { Kernel } from "@dsv3/tensor";
import { expect, test } from "vitest";
import { CudaUnavailableError, cudaAvailable, cudaBackend } from "./index.ts";
import { H100 } from "./kernel.ts";
import { lower } from "./kernels/index.ts";

const matrix = (slot: number, row: number, batch: number[] = []) => ({
  slot,
  dtype: "f32" as const,
  offset: 0,
  batch,
  row,
  col: 1,
});
const heads = (slot: number, t: number, h: number, d: number) => ({
  slot,
  dtype: "f32" as const,
  offset: 0,
  strides: [t * h * d, h * d, d, 1] as const,
});
const shape = {
  batch: 2,
  queries: 5,
  keys: 5,
  heads: 2,
  keyHeads: 2,
  qkWidth: 8,
  vWidth: 4,
  scale: 0.3,
  causal: true,
};

const KERNELS: Kernel[] = [
  { kind: "topK", rows: 3, n: 9, k: 2, input: 0, values: 1, indices: 2 },
  { kind: "countingSort", n: 100, buckets: 7, ids: 0, order: 1, rank: 2, offsets: 3 },
  { kind: "cumsum", outer: 2, n: 9, inner: 3, input: 0, output: 1, dtype: "f32" },
  {
    kind: "scatter",
    mode: "add",
    baseRows: 4,
    rows: 3,
    width: 5,
    dtype: "f32",
    base: 0,
    indices: 1,
    updates: 2,
    out: 3,
  },
  {
    kind: "groupedMatmul",
    form: "rows",
    groups: 3,
    rows: 10,
    k: 8,
    n: 6,
    offsets: 2,
    a: matrix(0, 8),
    b: matrix(1, 6, [48]),
    out: matrix(3, 6),
  },
  {
    kind: "groupedMatmul",
    form: "groups",
    groups: 3,
    rows: 10,
    k: 8,
    n: 6,
    offsets: 2,
    a: matrix(0, 8),
    b: matrix(1, 6),
    out: matrix(3, 6, [48]),
  },
  {
    kind: "quantize",
    rows: 10,
    width: 20,
    x: matrix(0, 20),
    alongRows: { values: 1, scale: 2 },
    alongColumns: {
      values: 3,
      scale: 4,
      length: 384,
      runs: { groups: 3, offsets: 5, starts: 6 },
    },
  },
  {
    kind: "attention",
    ...shape,
    q: heads(0, 5, 2, 8),
    k: heads(1, 5, 2, 8),
    v: heads(2, 5, 2, 4),
    out: heads(3, 5, 2, 4),
    lse: 4,
  },
  {
    kind: "attentionGrad",
    ...shape,
    q: heads(0, 5, 2, 8),
    k: heads(1, 5, 2, 8),
    v: heads(2, 5, 2, 4),
    out: heads(3, 5, 2, 4),
    dout: heads(4, 5, 2, 4),
    lse: 5,
    dq: heads(6, 5, 2, 8),
    dk: heads(7, 5, 2, 8),
    dv: heads(8, 5, 2, 4),
  },
];

test.each(KERNELS.map((k) => [k.kind, k] as const))(
  "%s becomes CUDA sources that define what is launched",
  (_, kernel) => {
    const { source, launches } = lower(kernel, H100);
    expect(launches.length).toBeGreaterThan(0);
    for (const launch of launches) {
      if (!("entry" in launch)) continue;
      expect(source).toContain(launch.entry as string);
      const {
        block,
        grid,
        shared = 0,
      } = launch as unknown as { block: number[]; grid: number[]; shared?: number };
      expect(block.reduce((a, b) => a * b, 1)).toBeLessThanOrEqual(1024);
      expect(grid.every((g) => Number.isInteger(g) && g > 0)).toBe(true);
      expect(shared).toBeLessThanOrEqual(H100.sharedPerBlock);
    }
  },
);

test("without a GPU the backend says what is missing", async () => {
  if (await cudaAvailable()) return;
  await expect(cudaBackend()).rejects.toThrow(CudaUnavailableError);
});
