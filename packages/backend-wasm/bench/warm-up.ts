/**
 * Products through a backend with 1 and 2 threads: how fast the first calls are, before the engine has
 * optimised a kernel, and how fast later ones.
 *
 *     node bench/warm-up.ts
 */
import { compile, disposeTree, matmul, ones, setBackend, type Tensor } from "@dsv3/tensor";
import { wasmBackend } from "../src/index.ts";

for (const threads of [1, 2]) {
  for (const size of [256, 1000, 1024]) {
    const backend = await wasmBackend({ threads });
    setBackend(backend);
    const product = compile((a: Tensor, b: Tensor) => matmul(a, b));
    const x = ones([size, size]);
    const start = performance.now();
    let best = Number.POSITIVE_INFINITY;
    const first: string[] = [];
    let warm = 0;
    for (let call = 0; performance.now() - start < 2500; call++) {
      const begin = performance.now();
      product(x, x).dispose();
      const ms = performance.now() - begin;
      const rate = (2 * size ** 3) / ms / 1e6;
      if (call < 6) first.push(rate.toFixed(0));
      if (warm === 0 && rate > 30 * threads) warm = performance.now() - start;
      best = Math.min(best, ms);
      await new Promise((r) => setTimeout(r, 0));
    }
    const rate = ((2 * size ** 3) / best / 1e6).toFixed(1);
    console.log(
      `${threads} thread(s), ${size}³: best ${rate} GFLOP/s; first calls ${first.join(" ")}; ` +
        `${30 * threads} reached after ${warm.toFixed(0)} ms`,
    );
    disposeTree(x);
    backend.dispose();
  }
}
