import { conformance, referenceBackend } from "@dsv3/tensor/testing";
import { expect, test } from "vitest";
import { parity } from "./parity.ts";
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
