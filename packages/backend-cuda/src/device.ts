/**
 * What the backend asks of a GPU: memory, modules, launches, graphs, timers. All work goes to one
 * stream and runs in order. Addresses and handles are plain numbers.
 */
import type { Arg, DeviceInfo, Gemm, Launch, Place } from "./kernel.ts";

/** Where an argument's slots and workspace lie in one run. */
export interface Bindings {
  /** Device addresses of the step's slots. */
  readonly slots: readonly number[];
  /** Address of the step's workspace. */
  readonly workspace: number;
}

/** A captured list of work, ready to be launched again. */
export interface Graph {
  launch(): void;
  dispose(): void;
}

/** A matrix product with its algorithm chosen. */
export interface PreparedGemm {
  run(bindings: Bindings): void;
  dispose(): void;
}

export interface Device {
  readonly info: DeviceInfo;
  /** "NVIDIA H100 80GB HBM3". */
  readonly name: string;
  /** Free and total bytes. */
  memory(): { free: number; total: number };
  /** Undefined when there is not enough memory. */
  allocate(bytes: number): number | undefined;
  release(address: number): void;
  /** Page-locked host memory. */
  allocateHost(bytes: number): { address: number; bytes: Uint8Array };
  releaseHost(address: number): void;
  /** Loads machine code once for a name; later calls with the name return at once. */
  loadModule(name: string, image: Uint8Array): number;
  /** @param shared largest dynamic shared memory that it will be launched with */
  getFunction(module: number, entry: string, shared: number): number;
  launch(fn: number, launch: Launch, bindings: Bindings): void;
  prepareGemm(gemm: Gemm): PreparedGemm;
  copyToDevice(to: number, fromHost: number, bytes: number): void;
  copyToHost(toHost: number, from: number, bytes: number): void;
  copy(to: number, from: number, bytes: number): void;
  zero(address: number, bytes: number): void;
  /** Records the work that `enqueue` launches instead of running it. */
  capture(enqueue: () => void): Graph;
  createEvent(): number;
  destroyEvent(event: number): void;
  recordEvent(event: number): void;
  /** True when everything before the event has run. */
  eventDone(event: number): boolean;
  waitEvent(event: number): void;
  milliseconds(start: number, end: number): number;
  synchronize(): void;
  dispose(): void;
}

/** A device call that failed. */
export class CudaError extends Error {
  override readonly name = "CudaError";
}

/** Address that an operand, slot argument or workspace argument stands for. */
export function resolve(at: Place, bindings: Bindings): number {
  if ("workspace" in at) return bindings.workspace + at.workspace;
  const address = bindings.slots[at.slot];
  if (address === undefined)
    throw new RangeError(`a kernel names slot ${at.slot}, which is unbound`);
  return address + (at.offset ?? 0);
}

/** Bytes of parameter memory that one argument takes here. */
const ARG_BYTES = 128;
/** Pointers in the 32,764 bytes of parameters that a kernel may have (CUDA 12.1 and later). */
const MOST_ARGS = 4095;

/** Writes kernel parameters into reusable memory; the pointers to them are what a launch is given. */
export class Parameters {
  readonly #values: DataView;
  readonly #pointers: DataView;
  readonly #valuesAddress: number;
  readonly pointers: Uint8Array;
  readonly #encodeMap: (
    map: Extract<Arg, { tensorMap: unknown }>,
    bindings: Bindings,
    into: number,
  ) => void;

  constructor(
    addressOf: (buffer: Uint8Array) => number,
    encodeMap: (
      map: Extract<Arg, { tensorMap: unknown }>,
      bindings: Bindings,
      into: number,
    ) => void,
  ) {
    const values = new Uint8Array(new ArrayBuffer(ARG_BYTES * (MOST_ARGS + 1)));
    this.pointers = new Uint8Array(new ArrayBuffer(8 * MOST_ARGS));
    const address = addressOf(values);
    const skip = (ARG_BYTES - (address % ARG_BYTES)) % ARG_BYTES; // tensor maps need 64-byte alignment
    this.#values = new DataView(values.buffer, skip);
    this.#valuesAddress = address + skip;
    this.#pointers = new DataView(this.pointers.buffer);
    this.#encodeMap = encodeMap;
  }

  write(args: readonly Arg[], bindings: Bindings): void {
    args.forEach((arg, i) => {
      const at = i * ARG_BYTES;
      const values = this.#values;
      if ("i32" in arg) values.setInt32(at, arg.i32, true);
      else if ("u32" in arg) values.setUint32(at, arg.u32, true);
      else if ("f32" in arg) values.setFloat32(at, arg.f32, true);
      else if ("i64" in arg) values.setBigInt64(at, BigInt(arg.i64), true);
      else if ("tensorMap" in arg) this.#encodeMap(arg, bindings, this.#valuesAddress + at);
      else values.setBigUint64(at, BigInt(resolve(arg, bindings)), true);
      this.#pointers.setBigUint64(i * 8, BigInt(this.#valuesAddress + at), true);
    });
  }
}
