import { cudaAvailable } from "@dsv3/backend-cuda";
import { describe, expect, it } from "vitest";
import { openBackend } from "./backend.ts";

describe("--backend", () => {
  it("auto takes a GPU where there is one, and the processor elsewhere", async () => {
    const backend = await openBackend("auto");
    expect(backend.name).toBe(cudaAvailable() ? "cuda" : "wasm");
    backend.dispose();
  });

  it("wasm is the processor everywhere", async () => {
    const backend = await openBackend("wasm");
    expect(backend.name).toBe("wasm");
    backend.dispose();
  });

  it.skipIf(cudaAvailable())("cuda, where it is missing, says what to install", async () => {
    await expect(openBackend("cuda")).rejects.toThrow(/driver|install|libcuda/i);
  });
});
