export { type WasmOptions, wasmBackend } from "./backend.ts";
export type { MemorySize } from "./memory.ts";
export { widenVectors } from "./wide-vectors.ts";
