/** What the engine can do, asked of `WebAssembly.validate`. */
import { f32x4, i8x16, i32, i32x4, Module } from "./asm.ts";
import { MEMORY_IMPORT } from "./driver.ts";

/** Whether relaxed SIMD is there (fused multiply-add, int8 dot products). */
export function hasRelaxedSimd(): boolean {
  const m = new Module({ memory: MEMORY_IMPORT });
  m.func("probe", ["v128"], "v128", (_, x) => f32x4.relaxedMadd(x, x, x));
  return WebAssembly.validate(m.bytes());
}

/**
 * Whether relaxed dot products of int8 are one instruction. Without one, x86 takes four for them, among
 * them vpmaddubsw, which shows: it saturates products of 127 with bytes of 255 in 16 bits.
 */
export function hasQuickDots(): boolean {
  if (!hasRelaxedSimd()) return false;
  const m = new Module({ memory: MEMORY_IMPORT });
  m.func("dot", ["i32"], "i32", (_, byte) => {
    const [a, b] = [i8x16.splat(i32.const(127)), i8x16.splat(byte)];
    return i32x4.extractLane(i32x4.relaxedDotI8x16I7x16AddS(a, b, i32x4.const(0)), 0);
  });
  const memory = new WebAssembly.Memory({ ...MEMORY_IMPORT, maximum: 1 });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(m.bytes()), {
    env: { memory },
  });
  return (exports.dot as (byte: number) => number)(255) !== 2 * 0x7fff;
}

/** Whether memory can be shared with workers: in browsers only in a cross-origin isolated page. */
export function hasThreads(): boolean {
  return globalThis.crossOriginIsolated === true;
}
