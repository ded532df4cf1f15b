export { type WasmOptions, wasmBackend } from "./backend.ts";
export type { MemorySize } from "./memory.ts";
