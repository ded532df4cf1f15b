/** The backend itself: buffers, the shared scratch arena, executables. */

import { defaultCacheFolder, KernelCompiler, NvrtcThreads } from "./compiler.ts";
import type { Backend, DeviceBuffer, Executable, MemoryStats, Program } from "./contract.ts";
import type { Device } from "./device.ts";
import { CudaDevice, deviceCount } from "./driver.ts";
import { CudaExecutable } from "./executable.ts";
import { findLibrary, NVRTC } from "./libraries.ts";
import { MOST_COLUMNS } from "./loops/columns.ts";
import { MemoryPool } from "./memory.ts";
import { Nvrtc } from "./nvrtc.ts";
import { Staging } from "./staging.ts";

export interface CudaOptions {
  /** Which GPU, counted from 0 as nvidia-smi does (after CUDA_VISIBLE_DEVICES). Default 0. */
  readonly device?: number;
  /** Folder of compiled kernels; default $XDG_CACHE_HOME/dsv3/cuda or ~/.cache/dsv3/cuda. */
  readonly cacheDir?: string;
}

/**
 * A backend on an NVIDIA GPU. Needs the driver, NVRTC and, for matrix products, cuBLASLt.
 *
 * With DSV3_CUDA_SYNC=1 in the environment every step is waited for, so that a device error names the
 * step it came from.
 * @throws CudaUnavailableError when the GPU, its driver, koffi or a library is missing, saying what to
 *   install and where it was looked for
 */
export async function cudaBackend(options: CudaOptions = {}): Promise<Backend> {
  const device = new CudaDevice(options.device);
  const path = findLibrary(NVRTC);
  const threads = new NvrtcThreads(path, new Nvrtc(path).version, device.info.arch);
  const compiler = new KernelCompiler(threads, options.cacheDir ?? defaultCacheFolder());
  return new CudaBackend(device, compiler, () => threads.dispose());
}

/** Whether a CUDA backend can be had here: a driver that sees a GPU, NVRTC, and koffi. */
export function cudaAvailable(): boolean {
  if (deviceCount() === 0) return false;
  try {
    findLibrary(NVRTC);
    return true;
  } catch {
    return false;
  }
}

class CudaBuffer implements DeviceBuffer {
  readonly bytes: number;
  address: number | undefined;

  constructor(bytes: number, address: number) {
    this.bytes = bytes;
    this.address = address;
  }
}

export class CudaBackend implements Backend {
  readonly name = "cuda";
  readonly keepsRows = true;
  readonly quantizes = true;
  readonly readsTails = true;
  readonly sumsColumns: number = MOST_COLUMNS;
  readonly #device: Device;
  readonly #compiler: KernelCompiler;
  readonly #close: () => void;
  readonly #pool: MemoryPool;
  readonly #staging: Staging;
  readonly #executables = new Set<CudaExecutable>();
  #liveBytes = 0;
  #liveBuffers = 0;
  #scratch: { readonly address: number; readonly bytes: number } | undefined;
  #peakBytes = 0;

  /** @param close ends the compiler's threads */
  constructor(device: Device, compiler: KernelCompiler, close: () => void) {
    this.#device = device;
    this.#compiler = compiler;
    this.#close = close;
    this.#pool = new MemoryPool(device);
    this.#staging = new Staging(device);
  }

  /** "NVIDIA H100 80GB HBM3". */
  get deviceName(): string {
    return this.#device.name;
  }

  alloc(bytes: number): DeviceBuffer {
    const address = this.#pool.allocate(bytes, "for a tensor");
    this.#liveBytes += bytes;
    this.#liveBuffers += 1;
    this.#notePeak();
    return new CudaBuffer(bytes, address);
  }

  free(buffer: DeviceBuffer): void {
    this.#pool.free(this.#address(buffer));
    (buffer as CudaBuffer).address = undefined;
    this.#liveBytes -= buffer.bytes;
    this.#liveBuffers -= 1;
  }

  write(buffer: DeviceBuffer, data: Uint8Array, offset = 0): void {
    if (offset + data.length > buffer.bytes) {
      throw new RangeError(
        `${data.length} bytes at offset ${offset} do not fit a buffer of ${buffer.bytes} bytes`,
      );
    }
    this.#staging.write(this.#address(buffer) + offset, data);
  }

  async read(buffer: DeviceBuffer): Promise<Uint8Array> {
    return this.#staging.read(this.#address(buffer), buffer.bytes);
  }

  readSync(buffer: DeviceBuffer): Uint8Array {
    return this.#staging.readSync(this.#address(buffer), buffer.bytes);
  }

  compile(program: Program): Executable {
    const executable = new CudaExecutable(program, {
      device: this.#device,
      compiler: this.#compiler,
      scratch: (bytes, name) => this.#scratchOf(bytes, name),
      address: (buffer) => this.#address(buffer),
      forget: (e) => this.#executables.delete(e),
      stepwise: process.env.DSV3_CUDA_SYNC === "1",
    });
    this.#executables.add(executable);
    return executable;
  }

  memory(): MemoryStats {
    return {
      liveBytes: this.#liveBytes,
      liveBuffers: this.#liveBuffers,
      scratchBytes: this.#scratch?.bytes ?? 0,
      peakBytes: this.#peakBytes,
    };
  }

  dispose(): void {
    this.#device.synchronize();
    for (const executable of this.#executables) executable.dispose();
    this.#staging.dispose();
    this.#pool.dispose();
    this.#device.dispose();
    this.#close();
  }

  #address(buffer: DeviceBuffer): number {
    if (!(buffer instanceof CudaBuffer) || buffer.address === undefined) {
      throw new TypeError(
        buffer instanceof CudaBuffer
          ? `a buffer of ${buffer.bytes} bytes is used after it was freed`
          : "this buffer belongs to another backend than cuda",
      );
    }
    return buffer.address;
  }

  /** The arena that programs share; it grows to the largest need, and graphs are made anew then. */
  #scratchOf(bytes: number, program: string): number {
    if (this.#scratch !== undefined && this.#scratch.bytes >= bytes) return this.#scratch.address;
    if (this.#scratch !== undefined) {
      this.#device.synchronize();
      for (const executable of this.#executables) executable.dropGraphs();
      this.#pool.free(this.#scratch.address);
      this.#scratch = undefined;
    }
    const address = this.#pool.allocate(bytes, `as scratch memory of program ${program}`);
    this.#scratch = { address, bytes };
    this.#notePeak();
    return address;
  }

  #notePeak(): void {
    this.#peakBytes = Math.max(this.#peakBytes, this.#liveBytes + (this.#scratch?.bytes ?? 0));
  }
}
