/** NVIDIA's run-time compiler: CUDA C++ text to a cubin for one architecture. Needs no GPU. */
import { existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { type NativeFunction, NativeLibrary } from "./ffi.ts";
import { findLibrary, NVRTC } from "./libraries.ts";

/** A source that NVRTC rejects is a bug of ours, so the message carries everything needed to see it. */
export class CompileError extends Error {
  override readonly name = "CompileError";
}

export class Nvrtc {
  readonly version: string;
  readonly #create: NativeFunction;
  readonly #compile: NativeFunction;
  readonly #destroy: NativeFunction;
  readonly #cubinSize: NativeFunction;
  readonly #cubin: NativeFunction;
  readonly #logSize: NativeFunction;
  readonly #log: NativeFunction;

  constructor(path: string = findLibrary(NVRTC)) {
    // NVRTC opens its builtins by bare name, which works only if they are on the loader's path or
    // already open.
    const folder = dirname(path);
    const builtins = existsSync(folder)
      ? readdirSync(folder).filter((n) => /^libnvrtc-builtins\.so\.[\d.]+$/.test(n))
      : [];
    for (const name of builtins) new NativeLibrary(join(folder, name), NVRTC.install);
    const lib = new NativeLibrary(path, NVRTC.install);
    this.#create = lib.function(
      "int nvrtcCreateProgram(_Out_ uintptr_t*, const char*, const char*, int, void*, void*)",
    );
    this.#compile = lib.function("int nvrtcCompileProgram(uintptr_t, int, const char**)");
    this.#destroy = lib.function("int nvrtcDestroyProgram(_Inout_ uintptr_t*)");
    this.#cubinSize = lib.function("int nvrtcGetCUBINSize(uintptr_t, _Out_ size_t*)");
    this.#cubin = lib.function("int nvrtcGetCUBIN(uintptr_t, void*)");
    this.#logSize = lib.function("int nvrtcGetProgramLogSize(uintptr_t, _Out_ size_t*)");
    this.#log = lib.function("int nvrtcGetProgramLog(uintptr_t, void*)");
    const major = [0];
    const minor = [0];
    lib.function("int nvrtcVersion(_Out_ int*, _Out_ int*)")(major, minor);
    this.version = `${major[0]}.${minor[0]}`;
  }

  /** @throws CompileError with the compiler's log */
  compile(source: string, options: readonly string[]): Uint8Array {
    return this.#build(source, options, (program) => {
      const size = [0];
      this.#cubinSize(program, size);
      const cubin = Buffer.alloc(Number(size[0]));
      this.#cubin(program, cubin);
      return cubin;
    });
  }

  /**
   * What compiler and assembler say of a source that they accept: warnings, registers, spills.
   * @throws CompileError with the compiler's log
   */
  report(source: string, options: readonly string[]): string {
    const verbose = [...options, "--ptxas-options=-v"];
    return this.#build(source, verbose, (program) => this.#text(program));
  }

  #build<R>(source: string, options: readonly string[], result: (program: number) => R): R {
    const out = [0];
    if (this.#create(out, source, "dsv3.cu", 0, null, null) !== 0) {
      throw new CompileError("NVRTC could not make a program");
    }
    const program = out[0] as number;
    try {
      const status = this.#compile(program, options.length, options) as number;
      if (status !== 0) {
        throw new CompileError(
          `NVRTC ${this.version} rejected generated CUDA C++ (status ${status}, options ` +
            `${options.join(" ")}):\n${this.#text(program)}`,
        );
      }
      return result(program);
    } finally {
      this.#destroy(out);
    }
  }

  #text(program: number): string {
    const size = [0];
    this.#logSize(program, size);
    const log = Buffer.alloc(Number(size[0]));
    this.#log(program, log);
    return log.toString("utf8").replace(/\0+$/, "");
  }
}
