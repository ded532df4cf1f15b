/** Queries and keys that attention reads in two parts. */
import { beforeAll, describe, expect, test } from "vitest";
import type { AttentionGradKernel, AttentionKernel, SplitHeadsView } from "../backend.ts";
import { compile } from "../compile.ts";
import { valueAndGrad } from "../grad.ts";
import { attention } from "../ops/attention.ts";
import { zeros } from "../ops/create.ts";
import { matmul } from "../ops/matrix.ts";
import { mul } from "../ops/pointwise.ts";
import { sum } from "../ops/reduce.ts";
import { broadcastTo, concat, expandDims, reshape, split } from "../ops/shape.ts";
import { setBackend, type Tensor } from "../tensor.ts";
import { referenceBackend } from "../testing/index.ts";
import { treeLeaves } from "../tree.ts";

const [B, T, H, N, R, V] = [2, 8, 4, 32, 16, 16];

function program(fn: (...xs: Tensor[]) => unknown, ...args: Tensor[]) {
  const { program } = compile((...xs: Tensor[]) => treeLeaves(fn(...xs) as Tensor[])).program(
    ...args,
  );
  const kernels = program.steps.flatMap(({ kernel }) =>
    kernel.kind === "attention" || kernel.kind === "attentionGrad"
      ? [kernel as AttentionKernel | AttentionGradKernel]
      : [],
  );
  return { program, kernels, kinds: program.steps.map(({ kernel }) => kernel.kind) };
}

/** As Multi-head Latent Attention makes them: a product's part beside one that is computed. */
function parts(x: Tensor, wq: Tensor, wkv: Tensor, rope: Tensor) {
  const qs = reshape(matmul(x, wq), [B, T, H, N + R]);
  const [q, qRope] = split(qs, [N, R], 3) as [Tensor, Tensor];
  const kvs = reshape(matmul(x, wkv), [B, T, H, N + V]);
  const [k, v] = split(kvs, [N, V], 3) as [Tensor, Tensor];
  const shared = broadcastTo(expandDims(mul(rope, 2), 2), [B, T, H, R]);
  return { q: concat([q, mul(qRope, 2)], 3), k: concat([k, shared], 3), v };
}

const latent = (...args: Tensor[]) => {
  const { q, k, v } = parts(...(args as [Tensor, Tensor, Tensor, Tensor]));
  return attention(q, k, v, { scale: 0.1, causal: true });
};
const args = () => [
  zeros([B, T, 24]),
  zeros([24, H * (N + R)]),
  zeros([24, H * (N + V)]),
  zeros([B, T, R]),
];
const tails = ({ q, k }: { q: SplitHeadsView; k: SplitHeadsView }) => [q.tail, k.tail];

describe("for a backend that reads tails", () => {
  beforeAll(() => setBackend({ ...referenceBackend(), readsTails: true }));

  test("parts that lie in products or are computed are read there", () => {
    const { program: made, kernels, kinds } = program(latent, ...args());
    expect(kinds).toEqual(["matmul", "matmul", "loop", "loop", "attention"]);
    const [kernel] = kernels as [AttentionKernel];
    const { q, k, v } = kernel;
    expect(q.strides).toEqual([T * H * (N + R), H * (N + R), N + R, 1]);
    expect(q.tail).toMatchObject({ from: N, offset: 0, strides: [T * H * R, H * R, R, 1] });
    expect(k.slot).toBe(v.slot);
    // One head for all.
    expect(k.tail).toMatchObject({ from: N, offset: 0, strides: [T * R, R, 0, 1] });
    const temps = made.buffers.filter(({ role }) => role === "temp");
    expect(temps.map(({ elements }) => elements).sort((a, b) => a - b)).toEqual(
      [B * T * R, B * H * T, B * T * H * R, B * T * H * (N + R), B * T * H * (N + V)].sort(
        (a, b) => a - b,
      ),
    );
  });

  test("the derivative reads the same parts", () => {
    const step = (...xs: Tensor[]) =>
      valueAndGrad((...ys: Tensor[]) => sum(latent(...ys)), { argnums: [0, 1, 2, 3] })(...xs);
    const { kernels, program: made } = program(step, ...args());
    const [forward, backward] = kernels as [AttentionKernel, AttentionGradKernel];
    expect(kernels.map(({ kind }) => kind)).toEqual(["attention", "attentionGrad"]);
    for (const tail of [...tails(forward), ...tails(backward)]) expect(tail).toBeDefined();
    const buffers = (kernel: AttentionKernel | AttentionGradKernel) => {
      const bound = made.steps.find((step) => step.kernel === kernel)?.buffers as number[];
      const views = [kernel.q, kernel.k, ...tails(kernel)] as SplitHeadsView[];
      return views.map(({ slot }) => bound[slot]);
    };
    expect(buffers(forward)).toEqual(buffers(backward));
    expect(new Set(buffers(forward)).size).toBe(4);
  });

  test("what others need, too, is read as a whole", () => {
    const both = program(
      (...xs) => {
        const { q, k, v } = parts(...(xs as [Tensor, Tensor, Tensor, Tensor]));
        return [attention(q, k, v, { scale: 0.1 }), k];
      },
      ...args(),
    );
    const [qTail, kTail] = tails(both.kernels[0] as AttentionKernel);
    expect(qTail).toBeDefined();
    expect(kTail).toBeUndefined();
  });

  test("parts that the contract excludes, or that lie in something larger yet to be computed, are joined", () => {
    const joined = (a: number, b: number, of: (x: Tensor) => Tensor = (x) => x, cut = a) => {
      const fn = (x: Tensor, y: Tensor, v: Tensor) => {
        const [first] = split(of(x), [a, cut], 3) as [Tensor];
        const q = concat([first, y], 3);
        return attention(q, q, v, { scale: 0.1 });
      };
      const { kernels } = program(
        fn as (...xs: Tensor[]) => unknown,
        zeros([B, T, H, a + cut]),
        zeros([B, T, H, b]),
        zeros([B, T, H, V]),
      );
      return tails(kernels[0] as AttentionKernel).every((tail) => tail === undefined);
    };
    expect(joined(16, 16)).toBe(false);
    expect(joined(24, 16)).toBe(true);
    expect(joined(16, 24)).toBe(true);
    expect(joined(16, 16, (x) => x, 4)).toBe(true); // heads 20 elements apart
    expect(joined(16, 16, (x) => mul(x, 2))).toBe(true);
  });
});

test("other backends find queries and keys joined", () => {
  setBackend(referenceBackend());
  const { kernels, kinds } = program(latent, ...args());
  expect(kinds).toEqual(["matmul", "matmul", "loop", "loop", "attention"]);
  expect(tails(kernels[0] as AttentionKernel)).toEqual([undefined, undefined]);
});
