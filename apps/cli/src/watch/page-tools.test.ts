import { describe, expect, it } from "vitest";
import { pageTools } from "./page-tools.ts";

describe("what the page reckons with", () => {
  const { format, duration, smoothed, logTicks, nearest, increasing } = pageTools();

  it.each([
    [0, "0"],
    [-1.23456, "-1.235"],
    [9999, "9999"],
    [12_345, "12.35k"],
    [6e10, "60G"],
    [2e-4, "2e-4"],
    [1e300, "1e300"],
    [null, ""],
  ])("format(%d) = %s", (value, text) => expect(format(value)).toBe(text));

  it("durations", () => {
    expect([0, 59.6, 125, 3600 * 3 + 59].map(duration)).toEqual(["0s", "1m00s", "2m05s", "3h00m"]);
  });

  it("smooths without being drawn to the first value", () => {
    expect(smoothed([4, null, 4, 4], 0.9).map((v) => v?.toFixed(6))).toEqual([
      "4.000000",
      undefined,
      "4.000000",
      "4.000000",
    ]);
    expect(smoothed([0, 1], 0.5)).toEqual([0, 2 / 3]);
    expect(smoothed([3, 5], 0)).toEqual([3, 5]);
  });

  it("marks logarithmic axes at powers of ten, and narrow ones at round numbers", () => {
    expect(logTicks(0.5, 2000)).toEqual([1, 10, 100, 1000]);
    expect(logTicks(1e-9, 1e9)).toEqual([1e-9, 1e-5, 0.1, 1e3, 1e7]);
    expect(logTicks(2.1, 8)).toEqual([4, 6, 8]);
  });

  it("finds a run's value beside a place where only others have one", () => {
    expect([0, 1, 2, 3, 4].map((at) => nearest([null, 5, null, null, 6], at))).toEqual([
      undefined,
      5,
      5,
      6,
      6,
    ]);
    expect(nearest([], 0)).toBeUndefined();
    expect(increasing([1, 3, 2, 4])).toEqual([1, 3, 3, 4]);
  });
});
