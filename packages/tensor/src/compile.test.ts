import { beforeAll, describe, expect, test } from "vitest";
import { compile } from "./compile.ts";
import { grad } from "./grad.ts";
import { crossEntropy, linear, rmsNorm } from "./nn.ts";
import { full, zeros } from "./ops/create.ts";
import { matmul } from "./ops/matrix.ts";
import { add, div, mul, silu, sqrt, square, sub } from "./ops/pointwise.ts";
import { softmax, sum } from "./ops/reduce.ts";
import { permute, reshape, sliceAxis } from "./ops/shape.ts";
import { setBackend, type Tensor, tensor } from "./tensor.ts";
import { referenceBackend } from "./testing/index.ts";

beforeAll(() => setBackend(referenceBackend()));

const kernels = (
  compiled: { program(...xs: Tensor[]): { program: { steps: readonly unknown[] } } },
  ...xs: Tensor[]
) => compiled.program(...xs).program.steps.length;

describe("fusion", () => {
  const x = () => full([32, 48], 1);

  test("element-wise chains, shape operations included, are one kernel", () => {
    const fn = compile((a: Tensor) => add(mul(permute(silu(a), [1, 0]), 2), 1));
    expect(kernels(fn, x())).toBe(1);
  });
  test("a softmax is one kernel", () => {
    expect(
      kernels(
        compile((a: Tensor) => softmax(a)),
        x(),
      ),
    ).toBe(1);
  });
  test("a norm is one kernel", () => {
    expect(
      kernels(
        compile((a: Tensor) => rmsNorm(a, full([48], 1), 1e-6)),
        x(),
      ),
    ).toBe(1);
  });
  test("a loss and its gradient for the logits are few kernels", () => {
    const targets = zeros([32], "i32");
    const fn = compile((a: Tensor) => grad((l: Tensor) => sum(crossEntropy(l, targets)))(a));
    expect(kernels(fn, x())).toBe(1);
  });
  test("an optimiser's updates of one parameter are one kernel", () => {
    const fn = compile((w: Tensor, m: Tensor, v: Tensor, g: Tensor) => {
      const m1 = add(mul(m, 0.9), mul(g, 0.1));
      const v1 = add(mul(v, 0.99), mul(square(g), 0.01));
      return [sub(w, div(m1, add(sqrt(v1), 1e-8))), m1, v1];
    });
    expect(kernels(fn, x(), x(), x(), x())).toBe(1);
  });
  test("matrix products read transposes and slices as views", () => {
    const fn = compile((a: Tensor, b: Tensor) =>
      matmul(sliceAxis(a, 1, 8, 24), sliceAxis(permute(b, [1, 0]), 0, 0, 16)),
    );
    expect(kernels(fn, x(), x())).toBe(1);
  });
});

describe("programs", () => {
  test("plain values are constants; another value is another program", () => {
    const fn = compile((a: Tensor, k: number) => mul(a, k));
    expect(Array.from(fn(tensor([1, 2]), 3).dataSync())).toEqual([3, 6]);
    expect(Array.from(fn(tensor([1, 2]), 4).dataSync())).toEqual([4, 8]);
  });
  test("tensors closed over are read at each call", () => {
    const bias = tensor([1, 2]);
    const fn = compile((a: Tensor) => add(a, bias));
    expect(Array.from(fn(tensor([1, 1])).dataSync())).toEqual([2, 3]);
    bias.dispose();
    expect(() => fn(tensor([1, 1]))).toThrow(/f32\[2\] tensor was used after dispose/);
  });
  test("inputs passed through and repeated results own their memory", () => {
    const fn = compile((a: Tensor) => [a, a, add(a, 1)]);
    const input = tensor([5]);
    const [a, b] = fn(input) as [Tensor, Tensor];
    input.dispose();
    a.dispose();
    expect(Array.from(b.dataSync())).toEqual([5]);
  });
  test("a symbol that escapes its trace is refused with a reason", () => {
    let leaked: Tensor | undefined;
    compile((a: Tensor) => {
      leaked = add(a, 1);
      return leaked;
    })(tensor([1]));
    expect(() => compile((b: Tensor) => add(b, leaked as Tensor))(tensor([1]))).toThrow(
      /outside it; return it/,
    );
    expect(() => leaked?.dataSync()).toThrow(/not known while a function is traced/);
  });
  test("a donated tensor is gone, and cannot be given twice", () => {
    const fn = compile((a: Tensor, b: Tensor) => add(a, b), { donate: [0] });
    const a = tensor([1]);
    const b = tensor([2]);
    expect(() => fn(a, a)).toThrow(/also used elsewhere/);
    expect(Array.from(fn(a, b).dataSync())).toEqual([3]);
    expect(a.disposed).toBe(true);
    expect(() => fn(a, b)).toThrow(/took it over/);
  });
  test("a program prints its kernels", () => {
    const text = compile((a: Tensor) => softmax(a), { name: "soft" })
      .program(full([2, 3], 1))
      .toString();
    expect(text).toMatch(/program soft: 1 kernels/);
    expect(text).toMatch(/a0 = max input0\[3v0\+v1\]/);
  });
  test("profiles name every kernel", async () => {
    const rows = await compile((a: Tensor) => linear(a, a)).profile(full([4, 4], 1));
    expect(rows.map((r) => r.label)).toEqual(["matmul f32[4, 4]"]);
  });
});

describe("errors", () => {
  const cases: [string, () => unknown, RegExp][] = [
    [
      "dtypes differ",
      () => add(tensor([1]), tensor([1], { dtype: "i32" })),
      /one dtype, got f32\[1\] and i32\[1\]; cast/,
    ],
    [
      "shapes differ",
      () => add(tensor([1, 2]), tensor([1, 2, 3])),
      /do not broadcast: axis -1 is 2 and 3/,
    ],
    [
      "inner extents",
      () => matmul(zeros([2, 3]), zeros([4, 5])),
      /inner extents differ: 3 in f32\[2, 3\], 4/,
    ],
    ["reshape", () => reshape(zeros([4]), [3]), /cannot reshape f32\[4\] \(4 elements\) to \[3\]/],
    ["ragged nested arrays", () => tensor([[1], [1, 2]]), /rectangular/],
    [
      "wrong element count",
      () => tensor(new Float32Array(3), { shape: [2] }),
      /needs 2 elements, got 3/,
    ],
    ["grad of a vector", () => grad((a: Tensor) => a)(tensor([1, 2])), /must return one number/],
  ];
  test.each(cases)("%s", (_, fn, message) => {
    expect(fn).toThrow(message);
  });
});
