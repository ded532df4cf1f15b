import { conformance } from "@dsv3/tensor/testing";
import { describe, it } from "vitest";
import { wasmBackend } from "./index.ts";

describe("2 threads", () => conformance({ describe, it }, () => wasmBackend({ threads: 2 })));
