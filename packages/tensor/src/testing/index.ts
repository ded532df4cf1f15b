export { conformance, type TestRunner } from "./conformance.ts";
export { referenceBackend } from "./reference-backend.ts";
