/** A program made ready to run: a step table and an address table in shared memory. */
import type { DeviceBuffer, Executable, KernelTime, Program } from "@dsv3/tensor";
import type { CompiledKernel, Compiler } from "./compiler.ts";
import { STEP } from "./driver.ts";
import { type Block, freedOrForeign, type Heap, WasmBuffer } from "./memory.ts";
import type { Pool } from "./pool.ts";
import type { Scratch } from "./scratch.ts";

/** A step shorter than this runs on one thread: handing tasks over would cost about as much. */
const ALONE_NANOSECONDS = 8_000;
/** Least time of a claimed range of tasks, and claims per thread where tasks are plenty. */
const CLAIM_NANOSECONDS = 4_000;
const CLAIMS_PER_THREAD = 32;

export class WasmExecutable implements Executable {
  readonly #program: Program;
  readonly #heap: Heap;
  readonly #pool: Pool;
  readonly #scratch: Scratch;
  /** Address table (a word per buffer), then the steps' entries, then their parameters. */
  #block: Block | undefined;
  readonly #entries: number;
  /** First phase of each step, and one past the last step's. */
  readonly #firstPhase: number[] = [0];
  /** Version of the scratch memory that the address table knows. */
  #scratchVersion = -1;

  constructor(program: Program, heap: Heap, pool: Pool, compiler: Compiler, scratch: Scratch) {
    this.#program = program;
    this.#heap = heap;
    this.#pool = pool;
    this.#scratch = scratch;
    const kernels = compiler.compile(program);
    for (const kernel of kernels) {
      this.#firstPhase.push((this.#firstPhase.at(-1) as number) + kernel.phases.length);
    }
    const buffers = program.buffers.length;
    const phases = this.#firstPhase.at(-1) as number;
    const params = program.steps.reduce((sum, step) => sum + step.buffers.length, 0);
    const bytes = 4 * buffers + 28 + STEP.bytes * phases + 4 * params;
    this.#block = heap.reserve(bytes, `the step table of program ${program.name}`);
    this.#entries = Math.ceil((this.#block.address + 4 * buffers) / 32) * 32;
    this.#writeSteps(kernels);
    scratch.require({
      arena: program.scratchBytes,
      shared: Math.max(0, ...kernels.map((kernel) => kernel.sharedScratch)),
      thread: Math.max(0, ...kernels.map((kernel) => kernel.threadScratch)),
    });
  }

  run(buffers: readonly DeviceBuffer[]): void {
    this.#bind(buffers);
    this.#pool.run(this.#entry(0), this.#entry(this.#firstPhase.at(-1) as number));
  }

  async profile(buffers: readonly DeviceBuffer[]): Promise<readonly KernelTime[]> {
    this.#bind(buffers);
    return this.#program.steps.map((_, step) => {
      const [first, last] = this.#firstPhase.slice(step, step + 2) as [number, number];
      const start = performance.now();
      this.#pool.run(this.#entry(first), this.#entry(last));
      return { step, milliseconds: performance.now() - start };
    });
  }

  dispose(): void {
    if (this.#block) this.#heap.release(this.#block);
    this.#block = undefined;
  }

  #entry(phase: number): number {
    return this.#entries + STEP.bytes * phase;
  }

  /** Writes the addresses of the buffers of a run. */
  #bind(buffers: readonly DeviceBuffer[]): void {
    const { name, inputs, outputs, buffers: specs } = this.#program;
    if (!this.#block) throw new Error(`program ${name} is used after it was disposed of`);
    if (buffers.length !== inputs + outputs) {
      throw new RangeError(
        `program ${name} takes ${inputs} inputs and ${outputs} outputs, but got ${buffers.length} buffers`,
      );
    }
    const words = this.#heap.words;
    const table = this.#block.address / 4;
    for (let i = 0; i < buffers.length; i++) {
      const buffer = buffers[i] as DeviceBuffer;
      if (!(buffer instanceof WasmBuffer) || buffer.owner !== this.#heap)
        throw freedOrForeign(buffer);
      const { bytes } = specs[i] as { bytes: number };
      if (buffer.bytes < bytes) {
        throw new RangeError(
          `buffer ${i} of program ${name} has ${buffer.bytes} bytes, but ${bytes} are needed`,
        );
      }
      words[table + i] = buffer.address;
    }
    if (this.#scratchVersion !== this.#scratch.version) {
      this.#scratchVersion = this.#scratch.version;
      for (let i = buffers.length; i < specs.length; i++) {
        const spec = specs[i] as Program["buffers"][number];
        if (spec.role === "temp") words[table + i] = this.#scratch.arena + spec.offset;
      }
    }
  }

  #writeSteps(kernels: readonly CompiledKernel[]): void {
    const { threads } = this.#pool;
    const words = this.#heap.words;
    const table = (this.#block as Block).address;
    let params = this.#entry(this.#firstPhase.at(-1) as number);
    let entry = this.#entries;
    this.#program.steps.forEach((step, i) => {
      for (const phase of (kernels[i] as CompiledKernel).phases) {
        const { tasks, nanoseconds } = phase;
        const share = Math.ceil(tasks / threads);
        const grain =
          threads === 1 || nanoseconds < ALONE_NANOSECONDS
            ? tasks
            : Math.ceil(
                Math.max(share / CLAIMS_PER_THREAD, (tasks * CLAIM_NANOSECONDS) / nanoseconds),
              );
        words[(entry + STEP.function) / 4] = phase.place;
        words[(entry + STEP.params) / 4] = params;
        words[(entry + STEP.tasks) / 4] = tasks;
        words[(entry + STEP.grain) / 4] = Math.min(grain, tasks);
        words[(entry + STEP.share) / 4] = share;
        entry += STEP.bytes;
      }
      step.buffers.forEach((buffer, slot) => {
        words[params / 4 + slot] = table + 4 * buffer;
      });
      params += 4 * step.buffers.length;
    });
  }
}
