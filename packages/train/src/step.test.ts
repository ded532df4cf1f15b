import { wasmBackend } from "@dsv3/backend-wasm";
import { getBackend, setBackend } from "@dsv3/tensor";
import { afterAll, beforeAll, expect, test } from "vitest";
import { thirtySteps } from "./testing/thirty-steps.ts";

beforeAll(async () => setBackend(await wasmBackend()));
afterAll(() => getBackend().dispose());

test("30 steps: every loss within 1e-4, gradient norm within 1e-3, final weights within 1e-4", {
  timeout: 300_000,
}, async () => {
  const errors = await thirtySteps();
  expect(errors.filter(({ error, bound }) => !(error < bound))).toEqual([]);
  const compared = (of: string) => errors.filter((e) => e.of === of).length;
  expect([compared("loss"), compared("gradient norm")]).toEqual([30, 30]);
  expect(compared("final weight")).toBeGreaterThan(0);
});
