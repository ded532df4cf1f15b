/** Large programs, made but not run; for a backend that keeps rows: what is computed from one is computed beside it. */
import { beforeAll, expect, test } from "vitest";
import type { Backend } from "../backend.ts";
import { compile } from "../compile.ts";
import { quantizeFp8 } from "../fp8.ts";
import { valueAndGrad } from "../grad.ts";
import { crossEntropy } from "../nn.ts";
import { zeros } from "../ops/create.ts";
import { div, mul } from "../ops/pointwise.ts";
import { sum } from "../ops/reduce.ts";
import { concat, reshape, split } from "../ops/shape.ts";
import { setBackend, type Tensor } from "../tensor.ts";
import { referenceBackend } from "../testing/index.ts";

/** Programs are made for it, but not run: gigabytes of logits need not exist. */
const planner: Backend = {
  ...referenceBackend(),
  name: "planner",
  keepsRows: true,
  alloc: (bytes) => ({ bytes }),
  free() {},
  compile: () => ({ run() {}, profile: async () => [], dispose() {} }),
};
beforeAll(() => setBackend(planner));

test.each([
  [32, 129_280],
  [1000, 32_768],
  [4096, 129_280],
  [16_384, 32_768],
])("that of %i rows over %i logits needs no f32 memory of their size", (rows, vocabulary) => {
  // As the model's loss has it: logits [B, T, V], the mean to differentiate, each token's loss beside it.
  const fn = compile((logits: Tensor, targets: Tensor) =>
    valueAndGrad((l: Tensor) => {
      const each = crossEntropy(reshape(l, [-1, vocabulary]), reshape(targets, [-1]));
      return [div(sum(each), rows), each] as [Tensor, Tensor];
    })(logits),
  );
  const logits = zeros([2, rows / 2, vocabulary], "bf16");
  const { program } = fn.program(logits, zeros([2, rows / 2], "i32"));
  const large = program.buffers.filter((b) => b.elements >= logits.size);
  expect(large.map((b) => `${b.role} ${b.dtype}`)).toEqual(["input bf16", "output bf16"]);
  // One kernel has all of them, from the logits to their gradient.
  expect(
    program.steps.filter(({ writes, buffers }) =>
      writes.some((s) => (program.buffers[buffers[s] as number]?.elements ?? 0) >= logits.size),
    ),
  ).toHaveLength(1);
});

test("a matrix quantised in blocks of rows and columns is read by one kernel", () => {
  const quantize = compile((x: Tensor, width: number) => {
    const { values, scale } = quantizeFp8(x, [128, width]);
    return { values, scale };
  });
  for (const shape of [
    [512, 512],
    [3, 256, 384],
  ]) {
    for (const width of [128, 1]) {
      const { program } = quantize.program(zeros(shape, "bf16"), width);
      expect(program.steps).toHaveLength(1);
      expect(program.buffers.filter((b) => b.role === "temp")).toHaveLength(0);
    }
  }
});

test("a long concatenation is written part by part, whatever the parts' sizes", () => {
  const text = compile((x: Tensor) => {
    const [front, back] = split(x, [64, 32], 1) as [Tensor, Tensor];
    return concat([front, mul(back, 2)], 1);
  })
    .program(zeros([32_768, 96], "bf16"))
    .toString();
  expect(text).toContain("2 kernels");
  expect(text).toContain("output0[96v0+v1] = input0[96v0+v1]");
  expect(text).toContain("output0[96v0+v1+64] = bf16((input0[96v0+v1+64] · 2))");
});
