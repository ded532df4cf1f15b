import { describe, it } from "vitest";
import { conformance } from "./conformance.ts";
import { referenceBackend } from "./reference-backend.ts";

conformance({ describe, it }, referenceBackend);
