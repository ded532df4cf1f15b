/** What the engine can do, asked of `WebAssembly.validate`. */
import { f32x4, Module } from "./asm.ts";
import { MEMORY_IMPORT } from "./driver.ts";

/** Whether relaxed SIMD is there (fused multiply-add, int8 dot products). */
export function hasRelaxedSimd(): boolean {
  const m = new Module({ memory: MEMORY_IMPORT });
  m.func("probe", ["v128"], "v128", (_, x) => f32x4.relaxedMadd(x, x, x));
  return WebAssembly.validate(m.bytes());
}

/** Whether memory can be shared with workers: in browsers only in a cross-origin isolated page. */
export function hasThreads(): boolean {
  return globalThis.crossOriginIsolated === true;
}
