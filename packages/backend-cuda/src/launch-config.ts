/**
 * CUlaunchConfig and its attributes (CUDA driver API, "Execution Control"), in memory that is written
 * anew for each launch.
 */
import type { Launch } from "./kernel.ts";

const CONFIG_BYTES = 56;
const ATTRIBUTE_BYTES = 72;
const CLUSTER_DIMENSION = 4;
const PROGRAMMATIC_STREAM_SERIALIZATION = 6;
/** From here on a kernel may start before the one in front of it has ended. */
const HOPPER = 90;

export class LaunchConfig {
  readonly bytes: Uint8Array = new Uint8Array(new ArrayBuffer(CONFIG_BYTES));
  readonly #config = new DataView(this.bytes.buffer);
  readonly #attributes = new DataView(new ArrayBuffer(2 * ATTRIBUTE_BYTES));
  readonly #overlaps: boolean;

  constructor(
    addressOf: (buffer: Uint8Array) => number,
    stream: number,
    computeCapability: number,
  ) {
    this.#overlaps = computeCapability >= HOPPER;
    this.#config.setBigUint64(32, BigInt(stream), true);
    const attributes = new Uint8Array(this.#attributes.buffer);
    this.#config.setBigUint64(40, BigInt(addressOf(attributes)), true);
  }

  write({ grid, block, shared = 0, cluster }: Launch): void {
    [0, 1, 2].forEach((axis) => {
      this.#config.setUint32(4 * axis, grid[axis] ?? 1, true);
      this.#config.setUint32(12 + 4 * axis, block[axis] ?? 1, true);
    });
    this.#config.setUint32(24, shared, true);
    let count = 0;
    const attribute = (id: number, values: readonly number[]) => {
      const at = ATTRIBUTE_BYTES * count++;
      this.#attributes.setInt32(at, id, true);
      values.forEach((value, i) => {
        this.#attributes.setUint32(at + 8 + 4 * i, value, true);
      });
    };
    if (cluster)
      attribute(
        CLUSTER_DIMENSION,
        [0, 1, 2].map((axis) => cluster[axis] ?? 1),
      );
    // Its blocks are set up meanwhile; all kernels wait before they touch memory (prelude.ts).
    if (this.#overlaps) attribute(PROGRAMMATIC_STREAM_SERIALIZATION, [1]);
    this.#config.setUint32(48, count, true);
  }
}
