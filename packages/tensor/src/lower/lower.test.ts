import { beforeAll, expect, test } from "vitest";
import { compile } from "../compile.ts";
import { zeros } from "../ops/create.ts";
import { scatter } from "../ops/indexed.ts";
import { matmul } from "../ops/matrix.ts";
import { add, cast, mul, sub } from "../ops/pointwise.ts";
import { concat, reshape, split } from "../ops/shape.ts";
import { setBackend, type Tensor, tensor } from "../tensor.ts";
import { referenceBackend } from "../testing/index.ts";

beforeAll(() => setBackend(referenceBackend()));

/** A cache of pages [2, 3, 2] with a row written at each of two places. */
const append = (cache: Tensor, rows: Tensor, at: Tensor) =>
  reshape(scatter(reshape(cache, [6, 2]), at, rows, "set"), [2, 3, 2]);
const rows = () => tensor([1, 2, 3, 4], { shape: [2, 2] });
const at = () => tensor([4, 1], { dtype: "i32" });
const WRITTEN = [0, 0, 3, 4, 0, 0, 0, 0, 1, 2, 0, 0];

test("a donated cache is written in place, through any reshapes", async () => {
  const run = compile(append, { donate: [0] });
  const program = run.program(zeros([2, 3, 2]), rows(), at());
  expect(program.toString()).toContain("1 kernels");
  expect(program.toString()).toContain("0.00 MiB scratch");
  let cache = zeros([2, 3, 2]);
  cache = run(cache, rows(), at());
  expect(cache.shape).toEqual([2, 3, 2]);
  expect(Array.from(await cache.data())).toEqual(WRITTEN);
});

test("a cache that is not given away stays as it was", async () => {
  const cache = zeros([2, 3, 2]);
  const updated = compile(append)(cache, rows(), at());
  expect(Array.from(await updated.data())).toEqual(WRITTEN);
  expect(Array.from(await cache.data())).toEqual(new Array(12).fill(0));
});

test("two results of the same elements have memory of their own", async () => {
  const run = compile((a: Tensor) => {
    const product = matmul(a, a);
    return { square: product, flat: reshape(product, [4]), column: reshape(product, [4, 1]) };
  });
  const { square, flat, column } = run(tensor([1, 2, 3, 4], { shape: [2, 2] }));
  square.dispose();
  flat.dispose();
  expect(Array.from(await column.data())).toEqual([7, 10, 15, 22]);
});

test("a reshape of an argument is a copy, unless the argument is given away", async () => {
  const x = tensor([1, 2]);
  const flat = compile((x: Tensor) => reshape(x, [2, 1]))(x);
  flat.dispose();
  expect(Array.from(await x.data())).toEqual([1, 2]);
  const moved = compile((x: Tensor) => ({ same: reshape(x, [2, 1]), more: add(x, 1) }), {
    donate: [0],
  })(x);
  expect(Array.from(await moved.same.data())).toEqual([1, 2]);
  expect(Array.from(await moved.more.data())).toEqual([2, 3]);
});

test("a stored concatenation of computed values is written part by part, by whom else they serve", () => {
  const program = compile((a: Tensor, b: Tensor, c: Tensor) => {
    const joined = concat([cast(a, "bf16"), cast(b, "bf16")], 0); // two loops, of different operands
    const both = concat([mul(c, 2), add(c, 1)], 1); // one loop
    return [matmul(joined, joined, { transposeB: true }), matmul(both, both, { transposeB: true })];
  }).program(zeros([4, 16]), zeros([4, 16]), zeros([8, 16]));
  const text = program.toString();
  expect(text).toContain("5 kernels");
  expect(text).not.toContain("where");
});

test("a concatenation does not overwrite what its other parts are made of", async () => {
  const swap = (x: Tensor) => {
    const [a, b] = split(x, [64, 64], 0) as [Tensor, Tensor];
    return concat([mul(b, 2), add(a, b)], 0);
  };
  const values = Float32Array.from({ length: 128 }, (_, i) => i);
  const got = await compile(swap, { donate: [0] })(tensor(values)).data();
  const expected = values.map((v, i) => (i < 64 ? 2 * (v + 64) : v - 64 + v));
  expect(Array.from(got)).toEqual(Array.from(expected));
});

test("updates from two slices of one tensor are two kernels, from the same slice one", () => {
  const steps = (second: number) =>
    compile((joined: Tensor, p: Tensor, q: Tensor) => {
      const slices = split(joined, [8, 8], 1) as [Tensor, Tensor];
      return [sub(p, slices[0]), sub(q, slices[second] as Tensor)];
    }).program(zeros([4, 16, 8]), zeros([4, 8, 8]), zeros([4, 8, 8])).program.steps;
  expect(steps(1).map((s) => s.buffers.length)).toEqual([3, 3]);
  expect(steps(0).map((s) => s.buffers.length)).toEqual([5]);
});

test("pieces that do not add up are refused, and so are those of no size", () => {
  expect(() => split(zeros([4]), [1, 2], 0)).toThrow(/add up to 3/);
  expect(() => split(zeros([4]), [6, -2], 0)).toThrow(/got -2/);
  expect(() => split(zeros([4]), [1.5, 2.5], 0)).toThrow(/got 1.5/);
});
