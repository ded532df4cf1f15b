import { expect, it } from "vitest";
import { passAtK } from "./pass-at-k.ts";

/** C(n, k) of small numbers. */
function choose(n: number, k: number): number {
  let ways = 1;
  for (let i = 1; i <= k; i++) ways = (ways * (n - k + i)) / i;
  return k > n ? 0 : ways;
}

it("is the share of all choices of k answers that hold a right one", () => {
  for (let n = 1; n <= 8; n++) {
    for (let c = 0; c <= n; c++) {
      for (let k = 1; k <= n; k++) {
        expect(passAtK(n, c, k)).toBeCloseTo(1 - choose(n - c, k) / choose(n, k), 12);
      }
    }
  }
  expect(passAtK(200, 3, 1)).toBeCloseTo(3 / 200, 12);
});

it.each([
  [0, 0, 1],
  [4, 5, 1],
  [4, -1, 1],
  [4, 1, 5],
  [4, 1, 0],
  [4, 1.5, 1],
  [Number.NaN, 1, 1],
])("refuses n = %d, c = %d, k = %d", (n, c, k) => {
  expect(() => passAtK(n, c, k)).toThrow(RangeError);
});
