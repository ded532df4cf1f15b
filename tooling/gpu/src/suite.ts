/** Runs tests written for a test runner where there is none: on a machine with nothing but Node. */
import type { TestRunner } from "@dsv3/tensor/testing";

export interface SuiteResult {
  readonly passed: number;
  /** Name and message of what failed. */
  readonly failures: readonly (readonly [name: string, message: string])[];
}

/** Collects what `declare` declares, and runs it, one test after another. */
export async function runSuite(declare: (runner: TestRunner) => void): Promise<SuiteResult> {
  const tests: { name: string; body: () => void | Promise<void> }[] = [];
  const path: string[] = [];
  declare({
    describe(name, body) {
      path.push(name);
      body();
      path.pop();
    },
    it(name, body) {
      tests.push({ name: [...path, name].join(" › "), body });
    },
  });
  let passed = 0;
  const failures: [string, string][] = [];
  for (const { name, body } of tests) {
    try {
      await body();
      passed++;
    } catch (error) {
      failures.push([name, (error as Error).message]);
    }
  }
  return { passed, failures };
}
