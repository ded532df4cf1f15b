import { wasmBackend } from "@dsv3/backend-wasm";
import { conformance, referenceBackend } from "@dsv3/tensor/testing";
import { expect, test } from "vitest";
import { parity, trainingParity } from "./parity.ts";
import { runSuite } from "./suite.ts";

test("failures are counted and named, and stop nothing", async () => {
  const result = await runSuite(({ describe, it }) => {
    describe("a", () => {
      it("works", () => {});
      it("does not", () => {
        throw new Error("why");
      });
    });
    it("works later", async () => {});
  });
  expect(result).toEqual({ passed: 2, failures: [["a › does not", "why"]] });
});

test("a backend's conformance suite runs in it", { timeout: 120_000 }, async () => {
  const result = await runSuite((runner) => conformance(runner, async () => referenceBackend()));
  expect(result.failures).toEqual([]);
  expect(result.passed).toBeGreaterThan(300);
});

test("the reference backend is equal to the published model", { timeout: 120_000 }, async () => {
  const rows = await parity(referenceBackend(), ["base", "mtp"]);
  expect(rows.filter((row) => !row.fine)).toEqual([]);
  expect(rows.map((row) => row.name)).toContain("base: greedy tokens that differ");
});

test("and so is training, on the backend at hand", { timeout: 300_000 }, async () => {
  const backend = await wasmBackend();
  const rows = await trainingParity(backend);
  backend.dispose();
  expect(rows.filter((row) => !row.fine)).toEqual([]);
  expect(rows.map((row) => [row.name, row.bound])).toEqual([
    ["train: loss, the worst of 30", 1e-4],
    ["train: gradient norm, the worst of 30", 1e-3],
    [expect.stringMatching(/^train: final weight/), 1e-4],
  ]);
});
