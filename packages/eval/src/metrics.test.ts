import { describe, expect, it } from "vitest";
import harness from "./__fixtures__/harness.json" with { type: "json" };
import {
  argmax,
  BITS_PER_BYTE,
  groupScore,
  MEAN,
  PERPLEXITY,
  WEIGHTED_PERPLEXITY,
} from "./metrics.ts";

describe("MEAN", () => {
  it("has the sample standard deviation over √n as its error", () => {
    // Deviations ±½ of 4: variance 4 · ¼ / 3, over 4.
    expect(MEAN.aggregate([0, 1, 1, 0])).toBe(0.5);
    expect(MEAN.stderr([0, 1, 1, 0])).toBeCloseTo(Math.sqrt(1 / 3 / 4), 15);
    expect(MEAN.stderr([1])).toBeNull();
    expect(() => MEAN.aggregate([])).toThrow("no documents");
  });
});

it("perplexity is e to the mean of the losses, its error the mean's times itself", () => {
  const values = [-1, -3];
  expect(PERPLEXITY.aggregate(values)).toBeCloseTo(Math.exp(2), 12);
  expect(PERPLEXITY.stderr(values)).toBeCloseTo(Math.exp(2) * 1, 12);
});

it("bits per byte, and perplexity of bytes, are over all documents together", () => {
  const values = [
    [-6 * Math.LN2, 4],
    [-2 * Math.LN2, 12],
  ] as const;
  expect(BITS_PER_BYTE.aggregate(values)).toBeCloseTo(0.5, 12);
  expect(WEIGHTED_PERPLEXITY.aggregate(values)).toBeCloseTo(Math.SQRT2, 12);
  expect(BITS_PER_BYTE.stderr(values)).toBeNull();
  expect(() => BITS_PER_BYTE.aggregate([[0, 0]])).toThrow("empty");
});

it("argmax takes the first of the largest", () => {
  expect(argmax([-3, -1, -1, -2])).toBe(1);
  expect(argmax([-Infinity, -Infinity])).toBe(0);
});

describe("groups", () => {
  it("are scored as the harness's own functions do it", () => {
    for (const { parts, bySize, equal } of harness.groups) {
      const given = parts.map(([value = 0, stderr = 0, size = 0]) => ({ value, stderr, size }));
      for (const [sized, expected] of [
        [true, bySize],
        [false, equal],
      ] as const) {
        const { value, stderr } = groupScore(given, sized);
        expect(value).toBeCloseTo(expected[0] as number, 12);
        expect(stderr).toBeCloseTo(expected[1] as number, 12);
      }
    }
  });

  it("have no error if a part has none", () => {
    const parts = [
      { value: 1, stderr: null, size: 1 },
      { value: 0, stderr: 0.1, size: 3 },
    ];
    expect(groupScore(parts, true)).toEqual({ value: 0.25, stderr: null });
  });
});
