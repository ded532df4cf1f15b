import {
  add,
  attention,
  type Backend,
  compile,
  countingSort,
  crossEntropy,
  groupedMatmul,
  iota,
  key,
  linear,
  matmul,
  mean,
  mul,
  normal,
  rem,
  reshape,
  rmsNorm,
  rsqrt,
  scatter,
  setBackend,
  silu,
  sliceAxis,
  softmax,
  square,
  sub,
  sum,
  swiglu,
  type Tensor,
  take,
  tensor,
  topK,
  treeLeaves,
  treeMap,
  valueAndGrad,
  zeros,
} from "@dsv3/tensor";
import { expect, test } from "vitest";
import { wasmBackend } from "./index.ts";
import { agreeing } from "./testing.ts";

const [TOKENS, WIDTH, HEADS, EXPERTS, VOCABULARY] = [192, 96, 3, 4, 515];

const SHAPES = {
  embedding: [VOCABULARY, WIDTH],
  norm: [WIDTH],
  qkv: [3 * WIDTH, WIDTH],
  out: [WIDTH, WIDTH],
  router: [EXPERTS, WIDTH],
  gate: [EXPERTS, 70, WIDTH],
  up: [EXPERTS, 70, WIDTH],
  down: [EXPERTS, WIDTH, 70],
} as const;
type Params = Record<keyof typeof SHAPES, Tensor>;

/** One block of a transformer with attention and routed experts, and its loss. */
function loss(w: Params, tokens: Tensor): Tensor {
  let x = take(w.embedding, tokens);
  const qkv = reshape(linear(rmsNorm(x, w.norm, 1e-6), w.qkv), [
    1,
    TOKENS,
    3 * HEADS,
    WIDTH / HEADS,
  ]);
  const heads = (n: number) => sliceAxis(qkv, 2, n * HEADS, (n + 1) * HEADS);
  const attended = attention(heads(0), heads(1), heads(2), { scale: 0.2, causal: true });
  x = add(x, linear(reshape(attended, [TOKENS, WIDTH]), w.out));
  const h = rmsNorm(x, w.norm, 1e-6);
  const { values, indices } = topK(silu(linear(h, w.router)), 1);
  const { order, offsets } = countingSort(reshape(indices, [TOKENS]), EXPERTS);
  const sent = take(h, order);
  const hidden = swiglu(
    groupedMatmul(sent, w.gate, offsets, { transposeB: true }),
    groupedMatmul(sent, w.up, offsets, { transposeB: true }),
  );
  const back = groupedMatmul(hidden, w.down, offsets, { transposeB: true });
  x = add(x, mul(scatter(zeros([TOKENS, WIDTH]), order, back, "add"), values));
  const logits = matmul(x, w.embedding, { transposeB: true });
  return mean(crossEntropy(logits, rem(add(tokens, 1), VOCABULARY)));
}

/** Three steps of training: losses and weights, as bits. */
async function train(backend: Backend): Promise<Uint8Array[]> {
  setBackend(backend);
  const step = compile((w: Params, tokens: Tensor) => {
    const [value, grads] = valueAndGrad(loss)(w, tokens);
    // Steps of one length, so that rounding anywhere shows in every weight.
    const next = treeMap(
      (p, g) => sub(p, mul(mul(g, rsqrt(add(mean(square(g)), 1e-12))), 1e-3)),
      w,
      grads,
    );
    return { value, next };
  });
  let w = Object.fromEntries(
    Object.entries(SHAPES).map(([name, shape], i) => [name, mul(normal(key(i), shape), 0.1)]),
  ) as Params;
  const results: Uint8Array[] = [];
  for (let s = 0; s < 3; s++) {
    const tokens = rem(iota(TOKENS), 7 + s);
    const { value, next } = step(w, tokens);
    results.push(value.bytesSync());
    w = next as Params;
  }
  results.push(...treeLeaves(w).map((t) => (t as Tensor).bytesSync()));
  return results;
}

test.each([true, false])(
  "training gives the same bits with 1, 2 and 3 threads (relaxed SIMD: %s)",
  async (relaxedSimd) => {
    const backends = await Promise.all(
      [1, 2, 3].map((threads) => wasmBackend({ threads, relaxedSimd })),
    );
    const all = agreeing(backends);
    const first = await train(all);
    expect(Number.isFinite(new Float32Array(first[0]!.buffer)[0])).toBe(true);
    expect(first[0]).not.toEqual(first[1]);
    all.dispose();
  },
  60_000,
);

test("decoding over long and short contexts gives the same bits with 1, 2 and 3 threads", async () => {
  const backends = await Promise.all([1, 2, 3].map((threads) => wasmBackend({ threads })));
  const all = agreeing(backends);
  setBackend(all);
  const [q, cache] = [normal(key(1), [4, 2, 8, 40]), normal(key(2), [4, 1200, 1, 40])];
  const lengths = tensor([1200, 0, 3, 701], { dtype: "i32" });
  const decode = compile((q: Tensor, k: Tensor, lengths: Tensor) =>
    attention(q, k, sliceAxis(k, 3, 0, 32), { scale: 0.3, causal: true, lengths }),
  );
  // As often as it takes for threads to share the parts in different ways.
  const first = decode(q, cache, lengths).bytesSync();
  for (let i = 0; i < 20; i++) expect(decode(q, cache, lengths).bytesSync()).toEqual(first);
  all.dispose();
});

test("the helper of these tests sees a difference of one bit", async () => {
  const [a, b] = await Promise.all([wasmBackend({ threads: 1 }), wasmBackend({ threads: 1 })]);
  const buffers = [a!.alloc(8), b!.alloc(8)];
  a!.write(buffers[0]!, new Uint8Array(8));
  b!.write(buffers[1]!, Uint8Array.of(0, 0, 0, 0, 0, 1, 0, 0));
  const pair = agreeing([
    { ...a!, alloc: () => buffers[0]! },
    { ...b!, alloc: () => buffers[1]! },
  ]);
  expect(() => pair.readSync(pair.alloc(8))).toThrow("backend 1 differs from backend 0 at byte 5");
  pair.dispose();
});

test("a row of a norm, a softmax, a sum or a product is the same in every batch of 5 rows and more", async () => {
  const backend = await wasmBackend({ threads: 2 });
  setBackend(backend);
  // Narrow rows could be worked on side by side or one after another, whichever is quicker; and up to
  // 128 rows multiply weights as they lie.
  for (const width of [4, 8, 12, 16, 96]) {
    const x = normal(key(1), [140, width]);
    const [gain, w] = [normal(key(2), [width]), normal(key(3), [40, width])];
    const rows = compile((x: Tensor) => [
      rmsNorm(x, gain, 1e-6),
      softmax(x),
      sum(silu(x), 1),
      linear(x, w),
    ]);
    const results = async (count: number) => {
      using some = sliceAxis(x, 0, 0, count);
      const all = await Promise.all(rows(some).map((t) => t.data()));
      return all.map((values) => Array.from(values).slice(0, (5 * values.length) / count));
    };
    const expected = await results(8);
    for (const count of [5, 6, 7, 9, 13, 16, 31, 128, 140])
      expect(await results(count)).toEqual(expected);
    rows.dispose();
  }
  backend.dispose();
});
