/**
 * From kernels to functions in the table of every thread. Kernels that are equal as data share their
 * functions, within a program and across programs; new ones of a program go into one module.
 */
import type { Kernel, Program } from "@dsv3/tensor";
import { i32, Module } from "./asm.ts";
import { CONTROL, KERNEL_PARAMS, MEMORY_IMPORT } from "./driver.ts";
import type { KernelCode, Target } from "./kernel.ts";
import { loopKey } from "./loops/key.ts";
import { emitKernel } from "./registry.ts";

export interface CompiledPhase {
  /** Place in the function table. */
  readonly place: number;
  readonly tasks: number;
  readonly nanoseconds: number;
}

export interface CompiledKernel {
  readonly phases: readonly CompiledPhase[];
  readonly threadScratch: number;
  readonly sharedScratch: number;
}

/** Makes a module's functions callable on every thread; the table grows to `tableSize`. */
export type Install = (module: Uint8Array<ArrayBuffer>, tableSize: number) => void;

export class Compiler {
  readonly #target: Target;
  readonly #install: Install;
  readonly #known = new Map<string, CompiledKernel>();
  #places: number;

  /** @param places functions that are in the table already */
  constructor(target: Target, places: number, install: Install) {
    this.#target = target;
    this.#places = places;
    this.#install = install;
  }

  /** The kernels of a program's steps, in order. */
  compile(program: Program): CompiledKernel[] {
    const module = new Module({ memory: MEMORY_IMPORT, table: { base: this.#places } });
    const fresh = new Map<string, CompiledKernel>();
    const compiled = program.steps.map(({ kernel, label }, i) => {
      const key = structuralKey(kernel);
      const known = this.#known.get(key) ?? fresh.get(key);
      if (known) return known;
      try {
        const code = emitKernel(kernel, this.#target);
        const made = this.#assemble(module, kernel.kind, code);
        fresh.set(key, made);
        return made;
      } catch (cause) {
        const why = cause instanceof Error ? cause.message : cause;
        throw new Error(`program ${program.name}, step ${i} (${label}): ${why}`, { cause });
      }
    });
    if (module.size > 0) {
      const size = this.#places + module.size;
      this.#install(module.bytes(), size);
      this.#places = size;
      for (const [key, kernel] of fresh) this.#known.set(key, kernel);
    }
    return compiled;
  }

  #assemble(module: Module, kind: string, code: KernelCode): CompiledKernel {
    const phases = code.phases.map((phase): CompiledPhase => {
      const place = this.#places + module.size;
      module.func(
        `${kind}${place}`,
        KERNEL_PARAMS,
        "void",
        (f, params, begin, end, threadScratch) =>
          phase.emit(f, {
            begin,
            end,
            threadScratch,
            // The parameters are addresses of words that hold the buffers' addresses.
            slot: (n) => i32.load(i32.load(params, 4 * n)),
            sharedScratch: () => i32.load(CONTROL.sharedScratch),
          }),
      );
      return { place, tasks: phase.tasks, nanoseconds: phase.nanoseconds };
    });
    const { threadScratch = 0, sharedScratch = 0 } = code;
    return { phases, threadScratch, sharedScratch };
  }
}

function structuralKey(kernel: Kernel): string {
  return kernel.kind === "loop" ? loopKey(kernel) : JSON.stringify(kernel);
}
