/** The CUDA driver API (libcuda), typed, with every status checked. */
import { CublasLt } from "./cublaslt.ts";
import {
  type Bindings,
  CudaError,
  type Device,
  type Graph,
  Parameters,
  type PreparedGemm,
  resolve,
} from "./device.ts";
import { addressOf, type NativeFunction, NativeLibrary, nativeBytes } from "./ffi.ts";
import type { Arg, DeviceInfo, Gemm, Launch } from "./kernel.ts";
import { LaunchConfig } from "./launch-config.ts";
import { CudaUnavailableError } from "./libraries.ts";

const NO_DRIVER =
  "an NVIDIA GPU and its driver are needed (nvidia-smi shows both); in a container, start it with " +
  "GPU access, for example docker run --gpus all";

/** Enumerators of cuda.h that are used. */
const ATTRIBUTE = {
  multiprocessors: 16,
  l2Bytes: 38,
  major: 75,
  minor: 76,
  sharedOptIn: 97,
} as const;
const FUNCTION_MAX_DYNAMIC_SHARED = 8;
const FUNCTION_NON_PORTABLE_CLUSTER = 14;
const NOT_READY = 600;
const OUT_OF_MEMORY = 2;
/** CUtensorMapDataType; both f8 formats travel as bytes. */
const TENSOR_MAP_TYPE = {
  u8: 0,
  i8: 0,
  bool: 0,
  f8e4m3: 0,
  f8e5m2: 0,
  u32: 2,
  i32: 3,
  f16: 6,
  f32: 7,
  bf16: 9,
} as const;

const SIGNATURES = {
  cuInit: "int cuInit(unsigned int)",
  cuDriverGetVersion: "int cuDriverGetVersion(_Out_ int*)",
  cuDeviceGetCount: "int cuDeviceGetCount(_Out_ int*)",
  cuDeviceGet: "int cuDeviceGet(_Out_ int*, int)",
  cuDeviceGetName: "int cuDeviceGetName(void*, int, int)",
  cuDeviceGetAttribute: "int cuDeviceGetAttribute(_Out_ int*, int, int)",
  cuDevicePrimaryCtxRetain: "int cuDevicePrimaryCtxRetain(_Out_ uintptr_t*, int)",
  cuDevicePrimaryCtxRelease: "int cuDevicePrimaryCtxRelease_v2(int)",
  cuCtxSetCurrent: "int cuCtxSetCurrent(uintptr_t)",
  cuGetErrorName: "int cuGetErrorName(int, _Out_ const char**)",
  cuGetErrorString: "int cuGetErrorString(int, _Out_ const char**)",
  cuMemGetInfo: "int cuMemGetInfo_v2(_Out_ size_t*, _Out_ size_t*)",
  cuMemAlloc: "int cuMemAlloc_v2(_Out_ uint64_t*, size_t)",
  cuMemFree: "int cuMemFree_v2(uint64_t)",
  cuMemHostAlloc: "int cuMemHostAlloc(_Out_ uintptr_t*, size_t, unsigned int)",
  cuMemFreeHost: "int cuMemFreeHost(uintptr_t)",
  cuMemcpyHtoDAsync: "int cuMemcpyHtoDAsync_v2(uint64_t, uintptr_t, size_t, uintptr_t)",
  cuMemcpyDtoHAsync: "int cuMemcpyDtoHAsync_v2(uintptr_t, uint64_t, size_t, uintptr_t)",
  cuMemcpyDtoDAsync: "int cuMemcpyDtoDAsync_v2(uint64_t, uint64_t, size_t, uintptr_t)",
  cuMemsetD8Async: "int cuMemsetD8Async(uint64_t, unsigned char, size_t, uintptr_t)",
  cuModuleLoadData: "int cuModuleLoadData(_Out_ uintptr_t*, void*)",
  cuModuleUnload: "int cuModuleUnload(uintptr_t)",
  cuModuleGetFunction: "int cuModuleGetFunction(_Out_ uintptr_t*, uintptr_t, const char*)",
  cuFuncSetAttribute: "int cuFuncSetAttribute(uintptr_t, int, int)",
  cuLaunchKernelEx: "int cuLaunchKernelEx(void*, uintptr_t, void*, void*)",
  cuStreamCreate: "int cuStreamCreate(_Out_ uintptr_t*, uint)",
  cuStreamDestroy: "int cuStreamDestroy_v2(uintptr_t)",
  cuStreamSynchronize: "int cuStreamSynchronize(uintptr_t)",
  cuStreamBeginCapture: "int cuStreamBeginCapture_v2(uintptr_t, int)",
  cuStreamEndCapture: "int cuStreamEndCapture(uintptr_t, _Out_ uintptr_t*)",
  cuGraphInstantiate: "int cuGraphInstantiateWithFlags(_Out_ uintptr_t*, uintptr_t, uint64_t)",
  cuGraphLaunch: "int cuGraphLaunch(uintptr_t, uintptr_t)",
  cuGraphExecDestroy: "int cuGraphExecDestroy(uintptr_t)",
  cuGraphDestroy: "int cuGraphDestroy(uintptr_t)",
  cuEventCreate: "int cuEventCreate(_Out_ uintptr_t*, uint)",
  cuEventDestroy: "int cuEventDestroy_v2(uintptr_t)",
  cuEventRecord: "int cuEventRecord(uintptr_t, uintptr_t)",
  cuEventQuery: "int cuEventQuery(uintptr_t)",
  cuEventSynchronize: "int cuEventSynchronize(uintptr_t)",
  cuEventElapsedTime: "int cuEventElapsedTime(_Out_ float*, uintptr_t, uintptr_t)",
  cuTensorMapEncodeTiled:
    "int cuTensorMapEncodeTiled(uintptr_t, int, uint, uint64_t, void*, void*, void*, void*, int, int, int, int)",
} as const;

type Call = Record<keyof typeof SIGNATURES, NativeFunction>;

/** Opens libcuda and checks that it answers and sees a device. */
function openDriver(): Call {
  let library: NativeLibrary | undefined;
  let failure: unknown;
  for (const path of ["libcuda.so.1", "/usr/local/nvidia/lib64/libcuda.so.1"]) {
    try {
      library ??= new NativeLibrary(path, NO_DRIVER);
    } catch (error) {
      failure ??= error;
    }
  }
  if (library === undefined) throw failure;
  const call: Record<string, NativeFunction> = {};
  for (const [name, signature] of Object.entries(SIGNATURES))
    call[name] = library.function(signature);
  return call as Call;
}

/** Number of CUDA devices; 0 without a driver. */
export function deviceCount(): number {
  try {
    const call = openDriver();
    const count = [0];
    return call.cuInit(0) === 0 && call.cuDeviceGetCount(count) === 0 ? (count[0] as number) : 0;
  } catch (error) {
    if (error instanceof CudaUnavailableError) return 0;
    throw error;
  }
}

export class CudaDevice implements Device {
  readonly info: DeviceInfo;
  readonly name: string;
  readonly #call: Call;
  readonly #ordinal: number;
  readonly #stream: number;
  readonly #launchConfig: LaunchConfig;
  readonly #parameters: Parameters;
  readonly #modules = new Map<string, number>();
  #lt: CublasLt | undefined;

  /** @throws CudaUnavailableError without a driver, or without that device */
  constructor(ordinal = 0) {
    const call = openDriver();
    this.#call = call;
    this.#ordinal = ordinal;
    const status = call.cuInit(0) as number;
    if (status !== 0)
      throw new CudaUnavailableError(`${this.#explain("cuInit", status)}; ${NO_DRIVER}`);
    const count = this.#out((out) => call.cuDeviceGetCount(out), "cuDeviceGetCount");
    if (ordinal >= count) {
      throw new CudaUnavailableError(
        `device ${ordinal} was asked for, but the driver sees ${count} (CUDA_VISIBLE_DEVICES is ` +
          `${process.env.CUDA_VISIBLE_DEVICES ?? "not set"}); ${NO_DRIVER}`,
      );
    }
    const device = this.#out((out) => call.cuDeviceGet(out, ordinal), "cuDeviceGet");
    const name = Buffer.alloc(256);
    this.#check(call.cuDeviceGetName(name, 256, device), "cuDeviceGetName");
    this.name = name.toString("utf8", 0, name.indexOf(0));
    const attribute = (id: number) =>
      this.#out((out) => call.cuDeviceGetAttribute(out, id, device), "cuDeviceGetAttribute");
    const computeCapability = attribute(ATTRIBUTE.major) * 10 + attribute(ATTRIBUTE.minor);
    this.info = {
      // The "a" forms hold the instructions of one chip (wgmma, tcgen05).
      arch: `sm_${computeCapability}${computeCapability >= 90 ? "a" : ""}`,
      computeCapability,
      multiprocessors: attribute(ATTRIBUTE.multiprocessors),
      sharedPerBlock: attribute(ATTRIBUTE.sharedOptIn),
      l2Bytes: attribute(ATTRIBUTE.l2Bytes),
    };
    const context = this.#out(
      (out) => call.cuDevicePrimaryCtxRetain(out, device),
      "cuDevicePrimaryCtxRetain",
    );
    this.#check(call.cuCtxSetCurrent(context), "cuCtxSetCurrent");
    this.#stream = this.#out((out) => call.cuStreamCreate(out, 1), "cuStreamCreate");
    this.#launchConfig = new LaunchConfig(addressOf, this.#stream, this.info.computeCapability);
    this.#parameters = new Parameters(addressOf, (arg, bindings, into) =>
      this.#encodeTensorMap(arg, bindings, into),
    );
  }

  memory(): { free: number; total: number } {
    const free = [0];
    const total = [0];
    this.#check(this.#call.cuMemGetInfo(free, total), "cuMemGetInfo");
    return { free: Number(free[0]), total: Number(total[0]) };
  }

  allocate(bytes: number): number | undefined {
    const out = [0];
    const status = this.#call.cuMemAlloc(out, bytes) as number;
    if (status === OUT_OF_MEMORY) return undefined;
    this.#check(status, `cuMemAlloc of ${bytes} bytes`);
    return Number(out[0]);
  }

  release(address: number): void {
    this.#check(this.#call.cuMemFree(address), "cuMemFree");
  }

  allocateHost(bytes: number): { address: number; bytes: Uint8Array } {
    const address = this.#out((out) => this.#call.cuMemHostAlloc(out, bytes, 0), "cuMemHostAlloc");
    return { address, bytes: nativeBytes(address, bytes) };
  }

  releaseHost(address: number): void {
    this.#check(this.#call.cuMemFreeHost(address), "cuMemFreeHost");
  }

  loadModule(name: string, image: Uint8Array): number {
    let module = this.#modules.get(name);
    if (module === undefined) {
      module = this.#out((out) => this.#call.cuModuleLoadData(out, image), "cuModuleLoadData");
      this.#modules.set(name, module);
    }
    return module;
  }

  getFunction(module: number, entry: string, shared: number): number {
    const fn = this.#out(
      (out) => this.#call.cuModuleGetFunction(out, module, entry),
      `cuModuleGetFunction(${entry})`,
    );
    if (shared > 48 << 10) {
      const status = this.#call.cuFuncSetAttribute(fn, FUNCTION_MAX_DYNAMIC_SHARED, shared);
      this.#check(status, `${entry} asking for ${shared} bytes of shared memory`);
    }
    return fn;
  }

  launch(fn: number, launch: Launch, bindings: Bindings): void {
    if (launch.grid.some((n) => n === 0)) return;
    this.#parameters.write(launch.args, bindings);
    const [cx = 1, cy = 1, cz = 1] = launch.cluster ?? [];
    if (cx * cy * cz > 8) {
      this.#call.cuFuncSetAttribute(fn, FUNCTION_NON_PORTABLE_CLUSTER, 1);
    }
    this.#launchConfig.write(launch);
    const { pointers } = this.#parameters;
    const status = this.#call.cuLaunchKernelEx(this.#launchConfig.bytes, fn, pointers, null);
    this.#check(
      status,
      `launch of ${launch.entry} with grid ${launch.grid.join("×")}, block ${launch.block.join("×")} ` +
        `and ${launch.shared ?? 0} bytes of shared memory`,
    );
  }

  prepareGemm(gemm: Gemm): PreparedGemm {
    this.#lt ??= new CublasLt(this, this.#stream);
    return this.#lt.prepare(gemm);
  }

  copyToDevice(to: number, fromHost: number, bytes: number): void {
    const status = this.#call.cuMemcpyHtoDAsync(to, fromHost, bytes, this.#stream);
    this.#check(status, `copy of ${bytes} bytes to the device`);
  }

  copyToHost(toHost: number, from: number, bytes: number): void {
    const status = this.#call.cuMemcpyDtoHAsync(toHost, from, bytes, this.#stream);
    this.#check(status, `copy of ${bytes} bytes from the device`);
  }

  copy(to: number, from: number, bytes: number): void {
    if (to === from || bytes === 0) return;
    const status = this.#call.cuMemcpyDtoDAsync(to, from, bytes, this.#stream);
    this.#check(status, `copy of ${bytes} bytes on the device`);
  }

  zero(address: number, bytes: number): void {
    if (bytes === 0) return;
    this.#check(
      this.#call.cuMemsetD8Async(address, 0, bytes, this.#stream),
      `zeroing ${bytes} bytes`,
    );
  }

  capture(enqueue: () => void): Graph {
    const call = this.#call;
    // Relaxed: cuBLASLt may load a module on first use, which stricter modes forbid.
    this.#check(call.cuStreamBeginCapture(this.#stream, 2), "cuStreamBeginCapture");
    const out = [0];
    try {
      enqueue();
    } catch (error) {
      call.cuStreamEndCapture(this.#stream, out);
      if (out[0]) call.cuGraphDestroy(out[0]);
      throw error;
    }
    this.#check(call.cuStreamEndCapture(this.#stream, out), "cuStreamEndCapture");
    const graph = Number(out[0]);
    const exec = this.#out((o) => call.cuGraphInstantiate(o, graph, 0), "cuGraphInstantiate");
    this.#check(call.cuGraphDestroy(graph), "cuGraphDestroy");
    return {
      launch: () => this.#check(call.cuGraphLaunch(exec, this.#stream), "cuGraphLaunch"),
      dispose: () => this.#check(call.cuGraphExecDestroy(exec), "cuGraphExecDestroy"),
    };
  }

  createEvent(): number {
    return this.#out((out) => this.#call.cuEventCreate(out, 0), "cuEventCreate");
  }

  destroyEvent(event: number): void {
    this.#check(this.#call.cuEventDestroy(event), "cuEventDestroy");
  }

  recordEvent(event: number): void {
    this.#check(this.#call.cuEventRecord(event, this.#stream), "cuEventRecord");
  }

  eventDone(event: number): boolean {
    const status = this.#call.cuEventQuery(event) as number;
    if (status === NOT_READY) return false;
    this.#check(status, "waiting for the device");
    return true;
  }

  waitEvent(event: number): void {
    this.#check(this.#call.cuEventSynchronize(event), "waiting for the device");
  }

  milliseconds(start: number, end: number): number {
    return this.#out((out) => this.#call.cuEventElapsedTime(out, start, end), "cuEventElapsedTime");
  }

  synchronize(): void {
    this.#check(this.#call.cuStreamSynchronize(this.#stream), "waiting for the device");
  }

  dispose(): void {
    this.#lt?.dispose();
    for (const module of this.#modules.values()) this.#call.cuModuleUnload(module);
    this.#modules.clear();
    this.#call.cuStreamDestroy(this.#stream);
    this.#call.cuDevicePrimaryCtxRelease(this.#ordinal);
  }

  #encodeTensorMap(
    { tensorMap: map }: Extract<Arg, { tensorMap: unknown }>,
    bindings: Bindings,
    into: number,
  ): void {
    const at =
      map.workspace !== undefined
        ? { workspace: map.workspace }
        : { slot: map.slot as number, offset: map.offset ?? 0 };
    const rank = map.dims.length;
    const promotion = { 0: 0, 64: 1, 128: 2, 256: 3 }[map.promotion ?? 128];
    const status = this.#call.cuTensorMapEncodeTiled(
      into,
      TENSOR_MAP_TYPE[map.dtype],
      rank,
      resolve(at, bindings),
      BigUint64Array.from(map.dims, BigInt),
      BigUint64Array.from(map.strides, BigInt),
      Uint32Array.from(map.box),
      new Uint32Array(rank).fill(1),
      0,
      { 0: 0, 32: 1, 64: 2, 128: 3 }[map.swizzle],
      promotion,
      0,
    ) as number;
    this.#check(status, `tensor map of ${map.dtype} [${map.dims}] in boxes of [${map.box}]`);
  }

  #out(call: (out: number[]) => number, what: string): number {
    const out = [0];
    this.#check(call(out), what);
    return Number(out[0]);
  }

  #check(status: number, what: string): void {
    if (status !== 0) throw new CudaError(this.#explain(what, status));
  }

  #explain(what: string, status: number): string {
    const name = [""];
    const text = [""];
    this.#call.cuGetErrorName(status, name);
    this.#call.cuGetErrorString(status, text);
    return `${what} failed: ${name[0]} (${status}), ${text[0]}`;
  }
}
