/** What a benchmark is: a program, its floor, and some of its results computed in float64. */
import type { DType, Program } from "../src/contract.ts";
import { dtypeBytes, fromF32, toF32 } from "../src/contract.ts";

/** One element of a result: buffer of the program, index, value. */
export interface Sample {
  readonly buffer: number;
  readonly index: number;
  readonly value: number;
}

export interface Case {
  readonly name: string;
  readonly program: Program;
  /** Contents of inputs that are not drawn at random, by buffer. */
  readonly given: ReadonlyMap<number, Int32Array | Float32Array>;
  readonly flops: number;
  readonly bytes: number;
  /** Operations per second of the unit that does them. */
  readonly rate: number;
  /** Results in float64, from a reader of the inputs. */
  expected(input: (buffer: number, index: number) => number): Sample[];
  /** Largest relative error that rounding explains. */
  readonly tolerance: number;
}

// Measured on an H100 SXM, as copies and products of 8192 × 8192 go there.
export const RATE = { bf16: 800e12, f8e4m3: 1335e12, f32: 60e12 } as const;
export const BANDWIDTH = 3.0e12;

/** No power of two, so that no two experts, heads or sequences get the same numbers. */
const PERIOD = 4_000_037;

/** Random numbers of magnitude 1 to 2, repeated every PERIOD: what random inputs hold. */
export class RandomValues {
  readonly #bytes = new Map<DType, Uint8Array>();
  readonly #values = new Map<DType, ArrayLike<number>>();

  at(dtype: DType, index: number): number {
    this.bytes(dtype);
    return (this.#values.get(dtype) as ArrayLike<number>)[index % PERIOD] as number;
  }

  bytes(dtype: DType): Uint8Array {
    let bytes = this.#bytes.get(dtype);
    if (bytes === undefined) {
      let state = 12345;
      const numbers = Float32Array.from({ length: PERIOD }, () => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        const magnitude = 1 + (state >>> 9) / 2 ** 23;
        return state & 0x80 ? -magnitude : magnitude;
      });
      bytes = fromF32(numbers, dtype);
      this.#bytes.set(dtype, bytes);
      this.#values.set(dtype, toF32(bytes, dtype));
    }
    return bytes;
  }
}

/** `count` numbers below n, first and last among them, spread without pattern. */
export function some(n: number, count: number): number[] {
  const picked = new Set([0, n - 1]);
  for (let i = 1; picked.size < Math.min(n, count); i++) picked.add((i * 2_654_435_761) % n);
  return [...picked].filter((i) => i < n);
}

export function totalBytes(dtype: DType, elements: number): number {
  return elements * dtypeBytes(dtype);
}
