/**
 * A compiled program. Its steps are lowered and their sources compiled once. The first run with a given
 * set of buffers launches step by step; the second records the launches into a CUDA graph, and from
 * then on a run is one graph launch. Parameters are donated and come back at the same addresses, so a
 * training or decoding loop settles on one or a few graphs.
 */

import type { KernelCompiler } from "./compiler.ts";
import type { DeviceBuffer, Executable, KernelTime, Program, Step } from "./contract.ts";
import {
  type Bindings,
  CudaError,
  type Device,
  type Graph,
  type PreparedGemm,
  resolve,
} from "./device.ts";
import type { Action, Lowered } from "./kernel.ts";
import { lower } from "./kernels/index.ts";

/** Graphs kept for one program; each holds a few kilobytes a kernel. */
const GRAPHS = 16;
/** Address sets remembered before the second run. */
const SEEN = 64;

/** What an executable needs of its backend. */
export interface Host {
  readonly device: Device;
  readonly compiler: KernelCompiler;
  /** Address of a scratch arena of at least so many bytes. */
  scratch(bytes: number, program: string): number;
  address(buffer: DeviceBuffer): number;
  /** Told of disposal. */
  forget(executable: CudaExecutable): void;
  /** After every step, wait for the device, so that an error names its step. */
  readonly stepwise: boolean;
}

interface Prepared {
  readonly step: Step;
  readonly run: (bindings: Bindings) => void;
}

const ALIGN = 256;

export class CudaExecutable implements Executable {
  readonly #program: Program;
  readonly #host: Host;
  readonly #steps: readonly Prepared[];
  readonly #gemms: PreparedGemm[] = [];
  readonly #graphs = new Map<string, Graph>();
  readonly #seen = new Set<string>();
  readonly #scratchBytes: number;
  readonly #workspaceOffset: number;

  constructor(program: Program, host: Host) {
    this.#program = program;
    this.#host = host;
    const lowered = program.steps.map((step) =>
      this.#named(step, () => lower(step.kernel, host.device.info)),
    );
    this.#workspaceOffset = Math.ceil(program.scratchBytes / ALIGN) * ALIGN;
    this.#scratchBytes =
      this.#workspaceOffset + Math.max(0, ...lowered.map((l) => l.workspace ?? 0));
    this.#steps = this.#prepare(lowered);
  }

  run(buffers: readonly DeviceBuffer[]): void {
    const addresses = this.#bind(buffers);
    const { device, stepwise } = this.#host;
    const key = addresses.join();
    const known = this.#graphs.get(key);
    if (known !== undefined) {
      // Moved to the end: the least recently used graph goes first.
      this.#graphs.delete(key);
      this.#graphs.set(key, known);
      known.launch();
      return;
    }
    if (stepwise || this.#steps.length === 0 || !this.#seen.has(key)) {
      this.#seen.add(key);
      if (this.#seen.size > SEEN) this.#seen.delete(this.#seen.values().next().value as string);
      for (const prepared of this.#steps) this.#runStep(prepared, addresses, stepwise);
      return;
    }
    const graph = device.capture(() => {
      for (const prepared of this.#steps) this.#runStep(prepared, addresses, false);
    });
    this.#graphs.set(key, graph);
    if (this.#graphs.size > GRAPHS) {
      const [oldest, stale] = this.#graphs.entries().next().value as [string, Graph];
      this.#graphs.delete(oldest);
      device.synchronize();
      stale.dispose();
    }
    graph.launch();
  }

  async profile(buffers: readonly DeviceBuffer[]): Promise<readonly KernelTime[]> {
    const addresses = this.#bind(buffers);
    const { device } = this.#host;
    const events = this.#steps.map(() => device.createEvent());
    const first = device.createEvent();
    device.recordEvent(first);
    this.#steps.forEach((prepared, i) => {
      this.#runStep(prepared, addresses, false);
      device.recordEvent(events[i] as number);
    });
    device.synchronize();
    const times = events.map((event, step) => ({
      step,
      milliseconds: device.milliseconds(step === 0 ? first : (events[step - 1] as number), event),
    }));
    for (const event of [first, ...events]) device.destroyEvent(event);
    return times;
  }

  dispose(): void {
    if (this.#graphs.size > 0) this.#host.device.synchronize();
    this.dropGraphs();
    for (const gemm of this.#gemms.splice(0)) gemm.dispose();
    this.#host.forget(this);
  }

  /** Graphs hold addresses; when the scratch arena moves, they are void. */
  dropGraphs(): void {
    for (const graph of this.#graphs.values()) graph.dispose();
    this.#graphs.clear();
    this.#seen.clear();
  }

  #bind(buffers: readonly DeviceBuffer[]): number[] {
    const { inputs, outputs, buffers: specs, name } = this.#program;
    if (buffers.length !== inputs + outputs) {
      throw new RangeError(
        `program ${name} takes ${inputs} input and ${outputs} output buffers, not ${buffers.length}`,
      );
    }
    const scratch = this.#host.scratch(this.#scratchBytes, name);
    const addresses = buffers.map((buffer, i) => {
      const needed = specs[i]?.bytes ?? 0;
      if (buffer.bytes < needed) {
        throw new RangeError(
          `buffer ${i} of program ${name} has ${buffer.bytes} bytes, but ${needed} are needed`,
        );
      }
      return this.#host.address(buffer);
    });
    addresses.push(scratch);
    return addresses;
  }

  #prepare(lowered: readonly Lowered[]): Prepared[] {
    const { device, compiler } = this.#host;
    const withSource = lowered.filter((l) => l.source !== "");
    const compiled = new Map(
      compiler.compile(withSource).map((result, i) => [withSource[i] as Lowered, result]),
    );
    return lowered.map((kernel, s) => {
      const step = this.#program.steps[s] as Step;
      const code = compiled.get(kernel);
      const module = code === undefined ? undefined : device.loadModule(code.unit, code.cubin);
      const functions = new Map<string, number>();
      const functionOf = (action: Extract<Action, { entry: string }>): number => {
        let fn = functions.get(action.entry);
        if (fn === undefined) {
          if (module === undefined || code === undefined)
            throw new Error(`no source has ${action.entry}`);
          const shared = Math.max(
            0,
            ...kernel.launches.map((a) =>
              "entry" in a && a.entry === action.entry ? (a.shared ?? 0) : 0,
            ),
          );
          fn = device.getFunction(module, code.prefix + action.entry, shared);
          functions.set(action.entry, fn);
        }
        return fn;
      };
      const calls = kernel.launches.map((action): ((bindings: Bindings) => void) => {
        if ("entry" in action) {
          const fn = this.#named(step, () => functionOf(action));
          return (bindings) => device.launch(fn, action, bindings);
        }
        if ("gemm" in action) {
          const gemm = this.#named(step, () => device.prepareGemm(action.gemm));
          this.#gemms.push(gemm);
          return (bindings) => gemm.run(bindings);
        }
        if ("copy" in action) {
          const { from, to, bytes } = action.copy;
          return (b) => device.copy(resolve(to, b), resolve(from, b), bytes);
        }
        const { at, bytes } = action.zero;
        return (b) => device.zero(resolve(at, b), bytes);
      });
      return {
        step,
        run: (bindings) => {
          for (const call of calls) call(bindings);
        },
      };
    });
  }

  #runStep({ step, run }: Prepared, addresses: readonly number[], wait: boolean): void {
    const specs = this.#program.buffers;
    const scratch = addresses.at(-1) as number;
    const slots = step.buffers.map((id) => {
      const spec = specs[id];
      return spec?.role === "temp" ? scratch + spec.offset : (addresses[id] as number);
    });
    this.#named(step, () => {
      run({ slots, workspace: scratch + this.#workspaceOffset });
      if (wait) this.#host.device.synchronize();
    });
  }

  /** Errors name the step that they came from. */
  #named<T>(step: Step, body: () => T): T {
    try {
      return body();
    } catch (cause) {
      const text = cause instanceof Error ? cause.message : String(cause);
      throw new CudaError(
        `program ${this.#program.name}, step "${step.label}" (${step.kernel.kind}): ${text}`,
        { cause },
      );
    }
  }
}
