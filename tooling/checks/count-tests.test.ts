import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { countTests } from "./count-tests.ts";

let root = "";

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "dsv3-count-"));
});
afterEach(() => rmSync(root, { recursive: true }));

/** A package with the given source and the given statuses of tests, one list per test file. */
function addPackage(name: string, source: string, files?: string[][]): void {
  const folder = join(root, "packages", name);
  mkdirSync(join(folder, "src"), { recursive: true });
  mkdirSync(join(folder, ".reports"));
  writeFileSync(
    join(folder, "package.json"),
    JSON.stringify({ name: `@dsv3/${name}`, scripts: { test: "vitest run" } }),
  );
  writeFileSync(join(folder, "src/index.ts"), source);
  if (!files) return;
  const testResults = files.map((statuses) => ({
    status: statuses.length === 0 || statuses.includes("failed") ? "failed" : "passed",
    assertionResults: statuses.map((status) => ({ status })),
  }));
  writeFileSync(join(folder, ".reports/vitest.json"), JSON.stringify({ testResults }));
}

it("adds up passed and failed tests of all packages, and leaves out skipped ones", () => {
  addPackage("a", "code", [
    ["passed", "passed", "skipped"],
    ["failed", "passed"],
  ]);
  addPackage("b", "code", [["passed", "todo"]]);
  expect(countTests(root)).toEqual({ passed: 4, failed: 1, untested: [] });
});

it("counts a test file that could not be loaded as a failure", () => {
  addPackage("a", "code", [[], ["passed"]]);
  expect(countTests(root)).toEqual({ passed: 1, failed: 1, untested: [] });
});

it("names packages with code of which no test ran, and lets empty ones be", () => {
  addPackage("empty", "export {};\n");
  addPackage("missing", "export const x = 1;\n");
  addPackage("skipped", "export const x = 1;\n", [["skipped"]]);
  expect(countTests(root).untested).toEqual([
    "@dsv3/missing (packages/missing) has code but ran no test",
    "@dsv3/skipped (packages/skipped) has code but ran no test",
  ]);
});
