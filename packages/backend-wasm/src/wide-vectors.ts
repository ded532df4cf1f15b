/**
 * Vectors of 256 bits. WebAssembly has none, but V8 can make one of two operations of 128 bits that are
 * alike and lie side by side (`--experimental-wasm-revectorize`): the bits of results stay the same,
 * and products run nearly twice as fast on x86 with AVX2.
 */
import { isNode } from "./pool.ts";

/** The V8 whose experiment our tests run with; others may not know the flag. */
const TESTED_V8 = "14.";

/**
 * Tells V8 to widen vectors, in all WebAssembly that this process compiles from now on.
 * @returns false where that is not to be had: nothing was changed
 */
export async function widenVectors(): Promise<boolean> {
  if (!isNode() || process.arch !== "x64" || !process.versions.v8.startsWith(TESTED_V8)) {
    return false;
  }
  if (!(await hasAvx2())) return false;
  const { setFlagsFromString } = await import("node:v8");
  setFlagsFromString("--experimental-wasm-revectorize");
  return true;
}

/** Linux tells; elsewhere nearly every x86 that runs a current Node has it. */
async function hasAvx2(): Promise<boolean> {
  if (process.platform !== "linux") return true;
  const { readFile } = await import("node:fs/promises");
  const text = await readFile("/proc/cpuinfo", "utf8").catch(() => "avx2");
  return /\bavx2\b/.test(text);
}
