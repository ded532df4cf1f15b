import { conformance } from "@dsv3/tensor/testing";
import { describe, it } from "vitest";
import { wasmBackend } from "./index.ts";
import { agreeing } from "./testing.ts";

describe("1, 2 and 3 threads, with the same bits", () =>
  conformance({ describe, it }, async () =>
    agreeing(await Promise.all([1, 2, 3].map((threads) => wasmBackend({ threads })))),
  ));
