/** Foreign functions: koffi, loaded only when a CUDA backend is asked for. */
import { createRequire } from "node:module";
import { CudaUnavailableError } from "./libraries.ts";

/** The few parts of koffi that are used. Handles and device addresses are plain numbers (< 2^53). */
interface Koffi {
  load(path: string): { func(signature: string): NativeFunction };
  address(buffer: Uint8Array): bigint | number;
  view(address: bigint | number, length: number): ArrayBuffer;
}

/** A C function; its `_Out_` parameters are one-element arrays. */
// biome-ignore lint/suspicious/noExplicitAny: the signature given to koffi is the type
export type NativeFunction = (...args: any[]) => any;

let koffi: Koffi | undefined;

function loadKoffi(): Koffi {
  if (koffi !== undefined) return koffi;
  try {
    koffi = createRequire(import.meta.url)("koffi") as Koffi;
  } catch (cause) {
    throw new CudaUnavailableError(
      "the CUDA backend calls NVIDIA's libraries through the npm package koffi, which could not be " +
        "loaded; install it beside @dsv3/backend-cuda: npm install koffi",
      { cause },
    );
  }
  return koffi;
}

/** An open shared library. */
export class NativeLibrary {
  readonly #library: { func(signature: string): NativeFunction };

  /** @throws CudaUnavailableError when the library can't be opened; `remedy` ends the message. */
  constructor(path: string, remedy: string) {
    const ffi = loadKoffi();
    try {
      this.#library = ffi.load(path);
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new CudaUnavailableError(`${path} could not be opened (${reason}); ${remedy}`, {
        cause,
      });
    }
  }

  /** Declares a function by its C signature. */
  function(signature: string): NativeFunction {
    return this.#library.func(signature);
  }
}

/** Address of a buffer's first byte. The caller keeps the buffer alive. */
export function addressOf(buffer: Uint8Array): number {
  return Number(loadKoffi().address(buffer));
}

/** Native memory seen as bytes, without copying. */
export function nativeBytes(address: number, length: number): Uint8Array {
  return new Uint8Array(loadKoffi().view(BigInt(address), length));
}
