import { expect, test } from "vitest";
import { batchRamp, deepseekSchedule, scheduled, scheduleSchema } from "./schedule.ts";
import { problemsOf } from "./schema.ts";

test("pieces follow one another and the last value stays", () => {
  const schedule = [
    { shape: "linear", steps: 4, to: 1 },
    { shape: "constant", steps: 2, to: 1 },
    { shape: "cosine", steps: 4, to: 0.2 },
    { shape: "constant", steps: 1, to: 0.1 },
  ] as const;
  const values = Array.from({ length: 13 }, (_, s) => scheduled(schedule, s));
  expect(values.slice(0, 6)).toEqual([0.25, 0.5, 0.75, 1, 1, 1]);
  expect(values[7]).toBeCloseTo(0.6, 12); // halfway down the cosine
  expect(values.slice(9)).toEqual([0.2, 0.1, 0.1, 0.1]);
});

test("the report's shape: warm-up, peak, cosine to a tenth, final constants", () => {
  const schedule = deepseekSchedule(1000, 2.2e-4, 20);
  expect(scheduled(schedule, 19)).toBeCloseTo(2.2e-4, 12);
  expect(scheduled(schedule, 679)).toBeCloseTo(2.2e-4, 12);
  expect(scheduled(schedule, 969)).toBeCloseTo(2.2e-5, 12);
  expect(scheduled(schedule, 989)).toBeCloseTo(2.2e-5, 12);
  expect(scheduled(schedule, 999)).toBeCloseTo(7.3e-6, 12);
});

test("the batch grows in multiples", () => {
  const ramp = batchRamp(8, 32, 10, 8);
  expect([0, 3, 4, 7, 10, 99].map(ramp)).toEqual([8, 8, 16, 24, 32, 32]);
});

test("schedules that make no sense are refused with the place", () => {
  const problem = (schedule: unknown) => problemsOf(scheduleSchema, schedule)[0];
  expect(problem([])).toContain("has no pieces");
  expect(problem([{ shape: "linear", steps: 1.5, to: 1 }])).toBe(
    "[0].steps should be a whole number of 0 or more, got 1.5",
  );
  expect(problem([{ shape: "linear", steps: 1, to: Number.NaN }])).toContain("[0].to should be");
  expect(problem([{ shape: "square", steps: 1, to: 1 }])).toContain("[0].shape");
});
