import { expect, it } from "vitest";
import { displayWidth, formatBytes, formatCount, formatDuration, truncate } from "./format.ts";

it.each([
  [0, "0"],
  [950, "950"],
  [0.25, "0.3"],
  [12_345, "12.3k"],
  [999_949, "999.9k"],
  [999_960, "1.0M"],
  [671_026_419_200, "671.0B"],
  [-1500, "-1.5k"],
  [Number.NaN, "?"],
])("formatCount(%d) = %s", (value, text) => {
  expect(formatCount(value)).toBe(text);
});

it.each([
  [0, "0 B"],
  [1023, "1023 B"],
  [1536, "1.5 KiB"],
  [3 * 2 ** 30, "3.0 GiB"],
  [2 ** 60, "1024.0 PiB"],
])("formatBytes(%d) = %s", (value, text) => {
  expect(formatBytes(value)).toBe(text);
});

it.each([
  [0, "0s"],
  [59.4, "59s"],
  [59.6, "1m00s"],
  [125, "2m05s"],
  [3600 * 3 + 7 * 60 + 59, "3h07m"],
  [Number.NaN, "?"],
  [-1, "?"],
])("formatDuration(%d) = %s", (value, text) => {
  expect(formatDuration(value)).toBe(text);
});

it("displayWidth counts terminal columns", () => {
  expect(displayWidth("loss")).toBe(4);
  expect(displayWidth("深度")).toBe(4);
  expect(displayWidth("e\u0301")).toBe(1);
  expect(displayWidth("🙂")).toBe(2);
  expect(displayWidth("\u001b[31mred\u001b[39m")).toBe(3);
});

it("truncate cuts to a width, never through a wide character", () => {
  expect(truncate("training", 8)).toBe("training");
  expect(truncate("training", 5)).toBe("trai…");
  expect(truncate("深度学习", 6)).toBe("深度…");
  expect(truncate("training", 0)).toBe("");
});
