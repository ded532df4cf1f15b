// Operations that no model calls by name, for tests of backends.
export { groupedOuter } from "../ops/matrix.ts";
export { quantize } from "../ops/quantize.ts";
export { conformance, type TestRunner } from "./conformance.ts";
export { referenceBackend } from "./reference-backend.ts";
