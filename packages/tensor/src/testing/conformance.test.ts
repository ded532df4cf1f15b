import { describe, it } from "vitest";
import { conformance } from "./conformance.ts";
import { referenceBackend } from "./reference-backend.ts";

conformance({ describe, it }, referenceBackend);

// Programs differ for it: what is computed from a reduction of a row or block, and sums over its rows,
// stand beside it, and what attention reads is not joined.
describe("a backend that keeps rows, sums columns and reads tails", () =>
  conformance({ describe, it }, () => ({
    ...referenceBackend(),
    keepsRows: true,
    sumsColumns: 8192,
    readsTails: true,
  })));
