// Adds up the reports that vitest left in each package's .reports/vitest.json and prints
// "N passed, N failed" as the last line. Exits with 1 if a test failed, if none ran at all, or if a
// published package that has code has no test.
import { join } from "node:path";
import { hasSource, readJson, workspacePackages } from "./workspace.ts";

/** The part of vitest's JSON report that is counted. */
interface Report {
  testResults: { status: string; message: string; assertionResults: { status: string }[] }[];
}

/** What one workspace's reports add up to. */
export interface TestCount {
  passed: number;
  failed: number;
  /** Packages with code of which no test ran, each with the reason. */
  untested: string[];
}

/** Sums the reports under `root`; a test file that could not be loaded counts as one failure. */
export function countTests(root: string): TestCount {
  const count: TestCount = { passed: 0, failed: 0, untested: [] };
  for (const { folder, name, manifest } of workspacePackages(root)) {
    const report = readJson(join(root, folder, ".reports/vitest.json")) as Report | undefined;
    let ran = 0;
    for (const file of report?.testResults ?? []) {
      const passed = file.assertionResults.filter(({ status }) => status === "passed").length;
      const failed = file.assertionResults.filter(({ status }) => status === "failed").length;
      const broken = file.status === "failed" && failed === 0 ? 1 : 0;
      count.passed += passed;
      count.failed += failed + broken;
      ran += passed + failed + broken;
    }
    const needsTests = !manifest.private || manifest.scripts?.test;
    if (ran === 0 && needsTests && hasSource(root, folder)) {
      const reason = !manifest.scripts?.test ? 'has no "test" script' : "ran no test";
      count.untested.push(`${name} (${folder}) has code but ${reason}`);
    }
  }
  return count;
}

if (import.meta.main) {
  const { passed, failed, untested } = countTests(join(import.meta.dirname, "../.."));
  for (const line of untested) console.log(`untested: ${line}`);
  if (passed + failed === 0)
    console.log("no test ran at all: was `npm test` run with --reporter=json?");
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed > 0 || passed === 0 || untested.length > 0 ? 1 : 0;
}
