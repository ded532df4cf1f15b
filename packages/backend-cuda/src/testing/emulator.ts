/** A Device on the CPU, for tests: kernels compiled by g++ under the emulator's header. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CudaBackend } from "../backend.ts";
import { KernelCompiler, type UnitCompiler } from "../compiler.ts";
import { type DType, dtypeBytes, fromF32, toF32 } from "../contract.ts";
import {
  type Bindings,
  type Device,
  type Graph,
  Parameters,
  type PreparedGemm,
  resolve,
} from "../device.ts";
import { addressOf, type NativeFunction, NativeLibrary, nativeBytes } from "../ffi.ts";
import type { DeviceInfo, Gemm, GemmOperand, Launch } from "../kernel.ts";
import { PRELUDE } from "../prelude.ts";
import { EMULATOR_HEADER } from "./emulator.h.ts";
import { HOPPER_HEADER, withoutAssembly } from "./emulator-hopper.ts";

const HEADER = EMULATOR_HEADER + HOPPER_HEADER;

/** Whether this machine can compile for the emulator. */
export function emulatorAvailable(): boolean {
  try {
    execFileSync("g++", ["--version"], { stdio: "ignore" });
    return process.platform === "linux";
  } catch {
    return false;
  }
}

class HostCompiler implements UnitCompiler {
  readonly identity: string = `emulator ${HEADER}`;
  readonly parallelism = 1;
  readonly #folder = mkdtempSync(join(tmpdir(), "dsv3-emulator-"));

  readonly #header = join(this.#folder, "emulator.h");
  #ready = false;

  compile(units: readonly { source: string }[]): Uint8Array[] {
    if (!this.#ready) {
      // Read once, not at every unit: the standard headers take longer than a kernel.
      writeFileSync(this.#header, HEADER);
      this.#run("-x", "c++-header", this.#header, "-o", `${this.#header}.gch`);
      this.#ready = true;
    }
    return units.map(({ source }) => {
      const file = join(this.#folder, "unit.cpp");
      const library = join(this.#folder, "unit.so");
      writeFileSync(file, withTrampolines(withoutAssembly(source.replace(PRELUDE, ""))));
      this.#run("-include", this.#header, "-shared", "-o", library, file);
      return readFileSync(library);
    });
  }

  #run(...args: string[]): void {
    const flags = ["-std=c++17", "-O0", "-w", "-fno-strict-aliasing", "-ffp-contract=off", "-fPIC"];
    execFileSync("g++", [...flags, ...args], { stdio: ["ignore", "inherit", "inherit"] });
  }

  dispose(): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Each entry gets a C function that unpacks its parameters as a launch would. */
function withTrampolines(source: string): string {
  const host = source
    .replace(
      /extern __shared__ (?:__align__\(\d+\) |alignas\(\d+\) )?(\w+) (\w+)\[\];/g,
      "$1* $2 = ($1*)emu_dynamic;",
    )
    .replace(/__shared__/g, "static");
  const names = new Map<string, string>();
  const out: string[] = [];
  const statement =
    /#define (\w+) (u[0-9a-f]{16}_\w+)|extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(([^)]*)\)/g;
  for (const match of host.matchAll(statement)) {
    if (match[1] !== undefined) {
      names.set(match[1], match[2] as string);
      continue;
    }
    const name = names.get(match[3] as string) as string;
    const parameters = (match[4] as string).split(",").map((p) => p.trim().replace(/\s*\w+$/, ""));
    const args = parameters.map((type, i) => `*(${type.replace(/\bconst\b(?!.*\*)/, "")}*)a[${i}]`);
    out.push(
      `static void body_${name}(void** a) { ${name.slice(0, 18)}::${name}(${args.join(", ")}); }`,
      `extern "C" int emu_${name}(const u32* shape, u32 shared, void** a) { return emu_run(body_${name}, shape, shared, a); }`,
    );
  }
  return `${host}\n${out.join("\n")}\n`;
}

const INFO: DeviceInfo = {
  arch: "emulator",
  computeCapability: 70,
  multiprocessors: 4,
  sharedPerBlock: 96 << 10,
  l2Bytes: 1 << 20,
};

class EmulatedDevice implements Device {
  readonly info: DeviceInfo;
  readonly name = "emulator";
  readonly #malloc: NativeFunction;
  readonly #free: NativeFunction;
  readonly #parameters: Parameters;
  readonly #folder = mkdtempSync(join(tmpdir(), "dsv3-modules-"));
  readonly #modules: NativeLibrary[] = [];
  readonly #byName = new Map<string, number>();
  readonly #functions: NativeFunction[] = [];

  constructor(info: DeviceInfo) {
    this.info = info;
    const libc = new NativeLibrary("libc.so.6", "glibc is needed");
    this.#malloc = libc.function("uintptr_t aligned_alloc(size_t, size_t)");
    this.#free = libc.function("void free(uintptr_t)");
    this.#parameters = new Parameters(addressOf, () => {
      throw new Error("the emulator has no tensor maps");
    });
  }

  memory(): { free: number; total: number } {
    return { free: 2 ** 30, total: 2 ** 30 };
  }

  allocate(bytes: number): number | undefined {
    const address = Number(this.#malloc(4096, Math.ceil(bytes / 4096) * 4096));
    nativeBytes(address, bytes).fill(0xff); // NaN in every float format
    return address;
  }

  release(address: number): void {
    this.#free(address);
  }

  allocateHost(bytes: number): { address: number; bytes: Uint8Array } {
    const address = this.allocate(bytes) as number;
    return { address, bytes: nativeBytes(address, bytes) };
  }

  releaseHost(address: number): void {
    this.release(address);
  }

  loadModule(name: string, image: Uint8Array): number {
    let module = this.#byName.get(name);
    if (module === undefined) {
      const path = join(this.#folder, `${name}.so`);
      writeFileSync(path, image);
      module = this.#modules.push(new NativeLibrary(path, "")) - 1;
      this.#byName.set(name, module);
    }
    return module;
  }

  getFunction(module: number, entry: string, _shared: number): number {
    const library = this.#modules[module] as NativeLibrary;
    return this.#functions.push(library.function(`int emu_${entry}(void*, uint, void*)`)) - 1;
  }

  launch(fn: number, launch: Launch, bindings: Bindings): void {
    const [gx, gy = 1, gz = 1] = launch.grid;
    const [bx, by = 1, bz = 1] = launch.block;
    if (gx * gy * gz === 0) return;
    this.#parameters.write(launch.args, bindings);
    const shape = Uint32Array.of(gx, gy, gz, bx, by, bz);
    const status = (this.#functions[fn] as NativeFunction)(
      shape,
      launch.shared ?? 0,
      this.#parameters.pointers,
    );
    if (status !== 0) throw new Error(`${launch.entry}: some threads never reach a barrier`);
  }

  prepareGemm(gemm: Gemm): PreparedGemm {
    return { run: (bindings) => multiply(gemm, bindings), dispose() {} };
  }

  copyToDevice(to: number, fromHost: number, bytes: number): void {
    this.copy(to, fromHost, bytes);
  }

  copyToHost(toHost: number, from: number, bytes: number): void {
    this.copy(toHost, from, bytes);
  }

  copy(to: number, from: number, bytes: number): void {
    if (to !== from && bytes > 0) nativeBytes(to, bytes).set(nativeBytes(from, bytes).slice());
  }

  zero(address: number, bytes: number): void {
    if (bytes > 0) nativeBytes(address, bytes).fill(0);
  }

  /** Records by running later: the closure is the graph. */
  capture(enqueue: () => void): Graph {
    return { launch: enqueue, dispose() {} };
  }

  createEvent(): number {
    return 1;
  }

  destroyEvent(_event: number): void {}

  recordEvent(_event: number): void {}

  eventDone(_event: number): boolean {
    return true;
  }

  waitEvent(_event: number): void {}

  milliseconds(_start: number, _end: number): number {
    return 0;
  }

  synchronize(): void {}

  dispose(): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Elements of an operand as f32. */
function elementsOf(operand: GemmOperand, bindings: Bindings, count: number): ArrayLike<number> {
  const bytes = nativeBytes(resolve(operand.at, bindings), count * dtypeBytes(operand.dtype));
  return toF32(bytes.slice(), operand.dtype);
}

/** What the library is documented to compute, element by element in float64. */
function multiply({ m, n, k, batch, a, b, c, d }: Gemm, bindings: Bindings): void {
  const span = (x: GemmOperand, rows: number, columns: number) =>
    (x.transposed ? (columns - 1) * x.leading + rows : (rows - 1) * x.leading + columns) +
    (batch - 1) * x.batchStride;
  const at = (x: GemmOperand, z: number, r: number, q: number) =>
    z * x.batchStride + (x.transposed ? q * x.leading + r : r * x.leading + q);
  const A = elementsOf(a, bindings, span(a, m, k));
  const B = elementsOf(b, bindings, span(b, k, n));
  const C = c && elementsOf(c, bindings, span(c, m, n));
  const scales = (x: GemmOperand, size: number): ((other: number, kk: number) => number) => {
    if (x.scale === undefined) return () => 1;
    const kBlocks = Math.ceil(k / 128);
    const padded = Math.ceil(kBlocks / 4) * 4;
    const vec = x.scale.mode === "vec128";
    const count = vec ? size * kBlocks : Math.ceil(size / 128) * padded;
    const bytes = nativeBytes(resolve(x.scale.at, bindings), count * 4);
    const values = toF32(bytes.slice(), "f32");
    return (other, kk) =>
      (vec
        ? values[Math.floor(kk / 128) * size + other]
        : values[Math.floor(other / 128) * padded + Math.floor(kk / 128)]) as number;
  };
  const sa = scales(a, m);
  const sb = scales(b, n);
  const width = dtypeBytes(d.dtype);
  const out = nativeBytes(resolve(d.at, bindings), span(d, m, n) * width);
  for (let z = 0; z < batch; z++) {
    for (let r = 0; r < m; r++) {
      for (let q = 0; q < n; q++) {
        let sum = C ? (C[at(c as GemmOperand, z, r, q)] as number) : 0;
        for (let kk = 0; kk < k; kk++) {
          sum +=
            (A[at(a, z, r, kk)] as number) * (B[at(b, z, kk, q)] as number) * sa(r, kk) * sb(q, kk);
        }
        out.set(fromF32([sum], d.dtype as DType), at(d, z, r, q) * width);
      }
    }
  }
}

/** A CUDA backend whose device is this computer's CPU. */
export function emulatedBackend(cacheDir: string, info: Partial<DeviceInfo> = {}): CudaBackend {
  const compiler = new HostCompiler();
  return new CudaBackend(
    new EmulatedDevice({ ...INFO, ...info }),
    new KernelCompiler(compiler, cacheDir),
    () => compiler.dispose(),
  );
}
