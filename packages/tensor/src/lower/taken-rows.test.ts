/** Rows that grouped products look up themselves. */
import { beforeAll, expect, test } from "vitest";
import type { GroupedMatmulKernel } from "../backend.ts";
import { compile } from "../compile.ts";
import { zeros } from "../ops/create.ts";
import { take } from "../ops/indexed.ts";
import { groupedMatmul, groupedOuter } from "../ops/matrix.ts";
import { mul } from "../ops/pointwise.ts";
import { transpose } from "../ops/shape.ts";
import { setBackend, type Tensor } from "../tensor.ts";
import { referenceBackend } from "../testing/index.ts";

beforeAll(() => setBackend(referenceBackend()));

const w = () => zeros([3, 8, 16]);
const offsets = () => zeros([4], "i32");

function steps(fn: (...xs: Tensor[]) => unknown, ...args: Tensor[]) {
  const { program } = compile(fn as (...xs: Tensor[]) => Tensor[]).program(...args);
  const products = program.steps.map(({ kernel }) => kernel as GroupedMatmulKernel);
  return { program, products, kinds: products.map(({ kind }) => kind) };
}

test("rows taken for grouped products alone are not stored", () => {
  const { program, products } = steps(
    (x, y, w, o, ids) => {
      const [a, b] = [take(x as Tensor, ids as Tensor), take(y as Tensor, ids as Tensor)];
      return [
        groupedMatmul(a, w as Tensor, o as Tensor),
        groupedOuter(a, b, o as Tensor, "f32"),
        groupedOuter(b, a, o as Tensor, "f32"),
      ];
    },
    zeros([5, 32]),
    zeros([6, 24]),
    zeros([3, 32, 16]),
    offsets(),
    zeros([20], "i32"),
  );
  expect(program.scratchBytes).toBe(0);
  expect(products.map(({ aRows, bRows }) => [aRows?.extent, bRows?.extent])).toEqual([
    [5, undefined],
    [5, 6],
    [6, 5],
  ]);
  // What is read is counted once, as it lies: the matrix, not its rows.
  const bytes = 4 * (5 * 32 + 3 * 32 * 16 + 4 + 20 + 20 * 16);
  expect(program.steps[0]).toMatchObject({ traffic: bytes, flops: 2 * 20 * 32 * 16 });
});

test("what rows are taken from is stored if it is computed, and lives until it is read", () => {
  const { program, kinds } = steps(
    (x, w, o, ids) =>
      groupedMatmul(take(mul(x as Tensor, 2), mul(ids as Tensor, 2)), w as Tensor, o as Tensor),
    zeros([5, 8]),
    w(),
    offsets(),
    zeros([20], "i32"),
  );
  expect(kinds).toEqual(["loop", "loop", "groupedMatmul"]);
  const temps = program.buffers.filter(({ role }) => role === "temp");
  expect(temps.map(({ elements }) => elements)).toEqual([40, 20]);
  expect(new Set(temps.map((t) => t.role === "temp" && t.offset)).size).toBe(2);
});

test("rows are stored where others need them, and where that takes less", () => {
  const ids = zeros([20], "i32");
  const gathered = (fn: (x: Tensor, w: Tensor, o: Tensor, ids: Tensor) => unknown, x: Tensor) => {
    const { products, kinds } = steps(fn as (...xs: Tensor[]) => unknown, x, w(), offsets(), ids);
    expect(products.filter(({ aRows }) => aRows)).toEqual([]);
    return kinds;
  };
  // A result, and one that is read as it is stored.
  expect(
    gathered(
      (x, w, o, ids) => {
        const rows = take(x, ids);
        return [groupedMatmul(rows, w, o), rows];
      },
      zeros([5, 8]),
    ),
  ).toEqual(["loop", "groupedMatmul"]);
  // A few rows of a large matrix that would have to be computed.
  expect(
    gathered((x, w, o, ids) => groupedMatmul(take(mul(x, 2), ids), w, o), zeros([50, 8])),
  ).toEqual(["loop", "groupedMatmul"]);
  // Rows that are not contiguous.
  expect(
    gathered((x, w, o, ids) => groupedMatmul(take(transpose(x), ids), w, o), zeros([8, 5])),
  ).toEqual(["loop", "groupedMatmul"]);
  // Columns: w is as wide as there are indices.
  const wide = (x: Tensor, _: Tensor, o: Tensor, ids: Tensor) =>
    groupedMatmul(take(x, ids, 1), zeros([3, 20, 16]), o);
  expect(gathered(wide, zeros([9, 3])).at(-1)).toBe("groupedMatmul");
});
