/** Functions over trees of tensors, traced once per set of shapes and replayed as programs. */
import type { DeviceBuffer, Executable, Program } from "./backend.ts";
import { exactNumbers, Graph, nodeOf } from "./graph.ts";
import { lower } from "./lower/lower.ts";
import { printProgram } from "./lower/print.ts";
import { activeGraph, apply1, opDef, setEagerRunner, withGraph } from "./ops/registry.ts";
import { describe } from "./spec.ts";
import { type Attrs, collectMade, getBackend, type Recording, Tensor } from "./tensor.ts";
import { mapLeaves, treeLeaves } from "./tree.ts";

export interface CompileOptions {
  /** Shown in profiles and messages; the function's name unless told. */
  readonly name?: string;
  /**
   * Positions of arguments that the call takes over: their tensors are disposed, and their memory
   * is reused for results, so that states are updated in place.
   */
  readonly donate?: readonly number[];
}

export interface ProfileRow {
  readonly label: string;
  readonly milliseconds: number;
  readonly flops: number;
  readonly traffic: number;
}

/** One compiled variant of a function. */
export interface CompiledProgram {
  readonly program: Program;
  /** The kernels, their operands and the memory plan, as text. */
  toString(): string;
  /** Seconds spent tracing and lowering, and in the backend's compiler. */
  readonly traceSeconds: number;
  readonly compileSeconds: number;
}

export interface Compiled<A extends readonly unknown[], R> {
  (...args: A): R;
  /** The program that a call with these arguments runs. */
  program(...args: A): CompiledProgram;
  /** Runs once with a timer around every kernel; results are discarded. */
  profile(...args: A): Promise<readonly ProfileRow[]>;
  /** Frees all compiled variants. */
  dispose(): void;
}

interface Variant extends CompiledProgram {
  readonly executable: Executable;
  /** Concrete tensors used inside, appended to the arguments' leaves. */
  readonly captures: readonly Tensor[];
  /** Those of them that were made while tracing: they live as long as the program. */
  readonly constants: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  readonly donated: readonly boolean[];
  readonly result: unknown;
}

/**
 * A function that runs `fn` as one program. Arguments are trees of tensors; plain numbers, strings
 * and booleans among them are constants of the program (each value compiles a variant). `fn` runs
 * once for every new combination of shapes, dtypes and constants, with symbolic tensors, and must
 * be pure. Tensors that it closes over are read again at each call.
 */
export function compile<A extends readonly unknown[], R>(
  fn: (...args: A) => R,
  options: CompileOptions = {},
): Compiled<A, R> {
  const name = options.name ?? (fn.name || "fn");
  const variants = new Map<string, Variant>();

  const variantFor = (args: A): Variant => {
    const key = JSON.stringify(args.map(signature), exactNumbers);
    let variant = variants.get(key);
    if (variant === undefined) {
      variant = build(name, fn as (...args: never[]) => unknown, args, options.donate ?? []);
      variants.set(key, variant);
    }
    return variant;
  };

  const compiled = (...args: A): R => {
    if (activeGraph() !== undefined) return fn(...args);
    const variant = variantFor(args);
    return run(variant, treeLeaves(args)) as R;
  };
  compiled.program = (...args: A): CompiledProgram => variantFor(args);
  compiled.profile = async (...args: A): Promise<readonly ProfileRow[]> => {
    const variant = variantFor(args);
    const { buffers, outputs } = bind(variant, treeLeaves(args), true);
    const times = await variant.executable.profile(buffers);
    for (const b of outputs) getBackend().free(b);
    return times.map(({ step, milliseconds }) => {
      const { label, flops, traffic } = variant.program.steps[step] as Program["steps"][number];
      return { label, milliseconds, flops, traffic };
    });
  };
  compiled.dispose = (): void => {
    for (const v of variants.values()) {
      v.executable.dispose();
      for (const t of v.constants) t.dispose();
    }
    variants.clear();
  };
  return compiled;
}

/** What of an argument decides which program runs. */
function signature(arg: unknown): unknown {
  if (arg instanceof Tensor) return `${describe(arg)}`;
  if (Array.isArray(arg)) return arg.map(signature);
  if (arg !== null && typeof arg === "object") {
    return Object.fromEntries(Object.entries(arg).map(([k, v]) => [k, signature(v)]));
  }
  if (typeof arg === "function")
    throw new Error("arguments of compiled functions cannot be functions");
  return arg === undefined ? null : typeof arg === "string" ? `"${arg}` : arg;
}

function build(
  name: string,
  fn: (...args: never[]) => unknown,
  args: readonly unknown[],
  donate: readonly number[],
): Variant {
  const start = performance.now();
  const graph = new Graph();
  const inputs: Tensor[] = [];
  const donated: boolean[] = [];
  const symbols = args.map((arg, i) =>
    mapLeaves(arg, (t) => {
      const symbol = graph.input(t);
      inputs.push(symbol);
      donated.push(donate.includes(i));
      return symbol;
    }),
  );
  const outputs: Tensor[] = [];
  let copies = 0;
  const trace = () =>
    mapLeaves(fn(...(symbols as never[])), (t) => {
      let out = graph.lift(t);
      const at = inputs.indexOf(out);
      const own = at >= 0 ? donated[at] === true : nodeOf(out).op !== "input";
      // Every result owns its memory: inputs passed through and repeated results are copied.
      if (!own || outputs.includes(out)) out = apply1("identity", [out], { copy: copies++ });
      outputs.push(out);
      return out;
    });
  const { result, made } = collectMade(() => withGraph(graph, trace));
  const captures = [...graph.captures.keys()];
  const constants = captures.filter((t) => made.has(t));
  for (const t of made) if (!graph.captures.has(t)) t.dispose();
  const all = [...inputs, ...graph.captures.values()];
  const program = lower(name, graph, all, outputs, new Set(inputs.filter((_, i) => donated[i])));
  const traced = performance.now();
  const executable = getBackend().compile(program);
  return {
    program,
    executable,
    captures,
    constants,
    outputs,
    donated,
    result,
    traceSeconds: (traced - start) / 1e3,
    compileSeconds: (performance.now() - traced) / 1e3,
    toString: () => printProgram(program),
  };
}

/** Buffers for one run, in the program's order. Donated ones are not reused if `keep` is set. */
function bind(
  variant: Variant,
  leaves: readonly Tensor[],
  keep: boolean,
): { buffers: DeviceBuffer[]; outputs: DeviceBuffer[] } {
  const backend = getBackend();
  const given = [...leaves, ...variant.captures].map((t) => {
    const { backend: home, buffer } = t.storage;
    if (home !== backend) {
      throw new Error(
        `a ${describe(t)} tensor lives on the ${home.name} backend, but programs run on ${backend.name}; make it again after setBackend()`,
      );
    }
    return buffer;
  });
  const { program } = variant;
  const outputs: DeviceBuffer[] = [];
  const fresh: DeviceBuffer[] = [];
  for (let i = 0; i < program.outputs; i++) {
    const spec = program.buffers[program.inputs + i] as Program["buffers"][number];
    const alias = spec.role === "output" && !keep ? spec.alias : undefined;
    const buffer = alias === undefined ? backend.alloc(spec.bytes) : (given[alias] as DeviceBuffer);
    if (alias === undefined) fresh.push(buffer);
    outputs.push(buffer);
  }
  return { buffers: [...given, ...outputs], outputs: keep ? fresh : outputs };
}

function run(variant: Variant, leaves: readonly Tensor[]): unknown {
  if (variant.donated.includes(true)) refuseSharedDonations(variant, leaves);
  const { buffers, outputs } = bind(variant, leaves, false);
  variant.executable.run(buffers);
  const backend = getBackend();
  const passedOn = new Set(outputs);
  variant.donated.forEach((d, i) => {
    if (!d) return;
    const storage = (leaves[i] as Tensor).release();
    if (storage && !passedOn.has(storage.buffer)) backend.free(storage.buffer);
  });
  let i = 0;
  return mapLeaves(variant.result, (t) =>
    Tensor.concrete(t.shape, t.dtype, backend, outputs[i++] as DeviceBuffer),
  );
}

function refuseSharedDonations(variant: Variant, leaves: readonly Tensor[]): void {
  const taken = leaves.filter((_, i) => variant.donated[i]);
  const kept = new Set([...leaves.filter((_, i) => !variant.donated[i]), ...variant.captures]);
  const twice = taken.find((t, i) => taken.indexOf(t) !== i || kept.has(t));
  if (twice !== undefined) {
    throw new Error(
      `${variant.program.name}: a donated ${describe(twice)} tensor is also used elsewhere in the call; pass a copy`,
    );
  }
}

/** Programs of single operations, by operation and shapes; they belong to the backend. */
const eager = new WeakMap<object, Map<string, Compiled<readonly Tensor[], readonly Tensor[]>>>();

setEagerRunner((op: string, inputs: readonly Tensor[], attrs: Attrs) => {
  const backend = getBackend();
  let programs = eager.get(backend);
  if (programs === undefined) {
    programs = new Map();
    eager.set(backend, programs);
  }
  const key = `${op}${JSON.stringify(attrs, exactNumbers)}`;
  let program = programs.get(key);
  if (program === undefined) {
    program = compile(
      (...xs: readonly Tensor[]) => {
        const graph = activeGraph() as Recording;
        return graph.add(op, xs, attrs, opDef(op).infer(xs, attrs)).outputs;
      },
      { name: op },
    );
    programs.set(key, program);
  }
  return program(...inputs);
});
