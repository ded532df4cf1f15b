/**
 * Whether the GPU of this machine computes what it should: the conformance suite, and the model
 * beside transformers' values. Needs Node and the sources alone, as `pack.ts` packs them.
 */
import { cudaBackend } from "@dsv3/backend-cuda";
import { conformance } from "@dsv3/tensor/testing";
import { parity } from "./parity.ts";
import { runSuite } from "./suite.ts";

const start = performance.now();
const { passed, failures } = await runSuite((runner) => conformance(runner, () => cudaBackend()));
const rows = await parity(await cudaBackend());
for (const [name, message] of failures) console.log(`FAILED ${name}\n  ${message}`);
for (const { name, error, bound, fine } of rows) {
  console.log(`${fine ? "  " : "✗ "}${name.padEnd(36)} ${error.toExponential(1)} of ${bound}`);
}
const wrong = rows.filter((r) => !r.fine).length;
const seconds = ((performance.now() - start) / 1000).toFixed(0);
console.log(
  `conformance: ${passed} passed, ${failures.length} failed; parity: ${rows.length - wrong} of ${rows.length} within bounds; ${seconds} s`,
);
process.exit(failures.length + wrong > 0 ? 1 : 0);
