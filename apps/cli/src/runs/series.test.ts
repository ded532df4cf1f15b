import { expect, it } from "vitest";
import { Series } from "./series.ts";

it("keeps at most so many points, with the mean and the ends of what each stands for", () => {
  const series = new Series(8);
  const value = (step: number) => (step === 777 ? 1e6 : Math.sin(step));
  for (let step = 1; step <= 1000; step++) series.add({ step, tokens: step * 10, x: value(step) });
  expect(series.points.length).toBeLessThanOrEqual(8);
  expect(series.points.length).toBeGreaterThan(3);
  let from = 1;
  for (const { step, tokens, count, values } of series.points) {
    const all = Array.from({ length: step - from + 1 }, (_, i) => value(from + i));
    expect(count).toBe(all.length);
    expect(tokens).toBe(step * 10);
    const spread = values.get("x");
    expect(spread?.mean).toBeCloseTo(all.reduce((a, b) => a + b, 0) / all.length, 6);
    expect([spread?.min, spread?.max]).toEqual([Math.min(...all), Math.max(...all)]);
    from = step + 1;
  }
  expect(from).toBe(1001);
});

it("a run that was gone on with replaces the steps after its checkpoint", () => {
  const series = new Series();
  for (const step of [1, 2, 3, 4]) series.add({ step, loss: step });
  const before = series.version;
  series.add({ step: 3, loss: 30 });
  expect(series.points.map(({ step }) => step)).toEqual([1, 2, 3]);
  expect(series.last("loss")).toBe(30);
  expect(series.version).not.toBe(before);
});

it("tells what changed by its version: only the last point does without", () => {
  const series = new Series(4);
  const seen = new Set<number>();
  for (let step = 1; step <= 9; step++) {
    const { version } = series;
    const firsts = series.points.slice(0, -1).map(({ step }) => step);
    series.add({ step, loss: 1 });
    const now = series.points.slice(0, firsts.length).map(({ step }) => step);
    if (series.version === version) expect(now).toEqual(firsts);
    seen.add(series.version);
  }
  expect(seen.size).toBe(3);
});

it("passes over what is no step, no number or beyond all measure", () => {
  const series = new Series();
  for (const line of [null, 3, "x", [], {}, { step: "1" }, { step: null, loss: 1 }]) {
    series.add(line);
  }
  expect(series.points).toEqual([]);
  series.add({ step: 1, loss: null, text: "hi", deep: { a: { b: 1 }, n: 5 }, list: [1, 2] });
  series.add({ step: 2, loss: 1e308, big: -1e308 });
  series.add({ step: 3, ["x".repeat(1000)]: 1 });
  expect([...series.names]).toEqual(["deep/n", "loss", "big"]);
  const many = Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`m${i}`, i]));
  series.add({ step: 4, ...many });
  expect(series.names.size).toBe(300);
});
