/**
 * Whether the GPU of this machine computes what it should: the conformance suite, a case for each way
 * that kernels are lowered, and the model and its training beside transformers' values. Needs Node and
 * the sources alone, as `pack.ts` packs them.
 */
import { cudaBackend } from "@dsv3/backend-cuda";
import { conformance, referenceBackend } from "@dsv3/tensor/testing";
import {
  PATH_CASES,
  runPathCase,
  worstError,
} from "../../../packages/backend-cuda/src/testing/cases.ts";
import { parity, trainingParity } from "./parity.ts";
import { runSuite } from "./suite.ts";

const start = performance.now();
const suite = await runSuite((runner) => conformance(runner, () => cudaBackend()));
const failures = [...suite.failures];
const [cuda, reference] = [await cudaBackend(), referenceBackend()];
for (const c of PATH_CASES) {
  const error = worstError(runPathCase(cuda, c), runPathCase(reference, c, 1));
  const bound = c.tolerance ?? 3e-6;
  if (!(error <= bound)) failures.push([`path: ${c.name}`, `error ${error} of ${bound}`]);
}
cuda.dispose();
const backend = await cudaBackend();
const rows = [...(await parity(backend)), ...(await trainingParity(backend))];
for (const [name, message] of failures) console.log(`FAILED ${name}\n  ${message}`);
for (const { name, error, bound, fine } of rows) {
  console.log(`${fine ? "  " : "✗ "}${name.padEnd(40)} ${error.toExponential(1)} of ${bound}`);
}
const wrong = rows.filter((r) => !r.fine).length;
const seconds = ((performance.now() - start) / 1000).toFixed(0);
console.log(
  `conformance: ${suite.passed} passed, and ${PATH_CASES.length} ways of lowering; ${failures.length} failed; parity: ${rows.length - wrong} of ${rows.length} within bounds; ${seconds} s`,
);
process.exit(failures.length + wrong > 0 ? 1 : 0);
