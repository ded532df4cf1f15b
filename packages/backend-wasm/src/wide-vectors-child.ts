/**
 * The conformance suite with wide vectors and without, which must agree bit for bit. A program of its own,
 * since engines widen vectors in optimised code only: run it with `node --no-liftoff`.
 */
import { describe, it } from "node:test";
import { conformance } from "@dsv3/tensor/testing";
import { wasmBackend } from "./index.ts";
import { agreeing } from "./testing.ts";

describe("wide vectors", () =>
  conformance({ describe, it }, async () =>
    agreeing(
      await Promise.all([
        wasmBackend({ threads: 1 }),
        wasmBackend({ threads: 2, wideVectors: true }),
      ]),
    ),
  ));
