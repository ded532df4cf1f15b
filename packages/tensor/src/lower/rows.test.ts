/** Large programs, made but not run; for a backend that keeps rows: what is computed from one is computed beside it. */
import { beforeEach, expect, test } from "vitest";
import type { Backend } from "../backend.ts";
import { compile } from "../compile.ts";
import { quantizeFp8 } from "../fp8.ts";
import { valueAndGrad } from "../grad.ts";
import { crossEntropy, rmsNorm } from "../nn.ts";
import { zeros } from "../ops/create.ts";
import { add, cast, div, mul } from "../ops/pointwise.ts";
import { sum } from "../ops/reduce.ts";
import { concat, reshape, split } from "../ops/shape.ts";
import { sizeOf } from "../spec.ts";
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
beforeEach(() => setBackend(planner));

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

/** The gradients of a norm's input, to which another is added, and of its weights, rounded. */
const normGradients = compile((x: Tensor, w: Tensor, dy: Tensor, other: Tensor) => {
  const norm = (x: Tensor, w: Tensor) => sum(mul(rmsNorm(x, w, 1e-6), dy));
  const [, [dx, dw]] = valueAndGrad(norm, { argnums: [0, 1] })(x, w);
  return [add(dx, other), cast(dw, "f32")];
});
const ofRows = (...shape: number[]) => {
  const rows = () => zeros(shape, "bf16");
  return normGradients.program(rows(), zeros([shape.at(-1) as number], "bf16"), rows(), rows());
};

test("the gradient of a norm's weights is summed beside that of its input", () => {
  for (const shape of [
    [16_384, 7168],
    [8, 2048, 1024],
    [4, 2, 256, 33],
  ]) {
    setBackend({ ...planner, sumsColumns: 8192 });
    const { program } = ofRows(...shape);
    const large = program.steps.filter((s) => s.traffic > sizeOf(shape));
    expect(large).toHaveLength(1);
    const [step] = large;
    const stages = step?.kernel.kind === "loop" ? step.kernel.stages : [];
    expect(stages.flatMap((s) => s.columnSums)).toHaveLength(1);
    // x, dy, w and the other gradient are read, two results written, and one rounded sum widened.
    expect(step?.buffers).toHaveLength(6);
    expect(program.steps.length).toBeLessThanOrEqual(2);
  }
});

test("of few, narrow or too wide rows, and for a backend that does not sum columns, it is not", () => {
  const kernels = (sumsColumns: number | undefined, ...shape: number[]) => {
    setBackend({ ...planner, ...(sumsColumns !== undefined && { sumsColumns }) });
    const { program } = ofRows(...shape);
    for (const { kernel } of program.steps)
      if (kernel.kind === "loop")
        expect(kernel.stages.flatMap((s) => s.columnSums)).toHaveLength(0);
  };
  kernels(8192, 64, 1024);
  kernels(8192, 16_384, 16);
  kernels(8192, 2048, 16_384);
  kernels(undefined, 16_384, 1024);
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
