/**
 * Sources to loaded machine code. NVRTC spends about 50 ms on any translation unit and 5 ms on a
 * typical kernel in it, so sources that are not cached yet are compiled together, a few units at a
 * time on threads, and each source's place (which unit's cubin it is in) is remembered on disk.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { availableParallelism, homedir } from "node:os";
import { join } from "node:path";
import { MessageChannel, receiveMessageOnPort, Worker } from "node:worker_threads";
import type { Lowered } from "./kernel.ts";
import { CompileError } from "./nvrtc.ts";
import type { CompileAnswer, CompileJob } from "./nvrtc-worker.ts";
import { PRELUDE } from "./prelude.ts";

/** Compiles whole translation units; blocks until all are done. */
export interface UnitCompiler {
  /** Part of the cache key: everything that the result depends on but the source. */
  readonly identity: string;
  readonly parallelism: number;
  compile(units: readonly { source: string; options: readonly string[] }[]): Uint8Array[];
  dispose(): void;
}

/** What every kernel is compiled with. */
export function cudaOptions(arch: string): readonly string[] {
  return [`--gpu-architecture=${arch}`, "--std=c++17", "--extra-device-vectorization"];
}

/** NVRTC on worker threads, at most eight. */
export class NvrtcThreads implements UnitCompiler {
  readonly identity: string;
  readonly parallelism: number = Math.max(1, Math.min(8, availableParallelism()));
  readonly #options: readonly string[];
  readonly #path: string;
  readonly #threads: Worker[] = [];
  readonly #ports: MessageChannel["port1"][] = [];
  readonly #done: Int32Array = new Int32Array(new SharedArrayBuffer(4));

  constructor(path: string, version: string, arch: string) {
    this.#path = path;
    this.#options = cudaOptions(arch);
    this.identity = `nvrtc ${version} ${this.#options.join(" ")}`;
  }

  compile(units: readonly { source: string; options: readonly string[] }[]): Uint8Array[] {
    const before = Atomics.load(this.#done, 0);
    const used = new Set<MessageChannel["port1"]>();
    units.forEach((unit, id) => {
      const port = this.#port(id % this.parallelism);
      used.add(port);
      const options = [...this.#options, ...unit.options];
      port.postMessage({ id, source: unit.source, options } satisfies CompileJob);
    });
    for (;;) {
      const done = Atomics.load(this.#done, 0);
      if (done - before >= units.length) break;
      Atomics.wait(this.#done, 0, done);
    }
    const cubins: Uint8Array[] = [];
    let failure: string | undefined;
    for (const port of used) {
      for (let got = receiveMessageOnPort(port); got; got = receiveMessageOnPort(port)) {
        const answer = got.message as CompileAnswer;
        if ("cubin" in answer) cubins[answer.id] = answer.cubin;
        else failure ??= answer.error;
      }
    }
    if (failure !== undefined) throw new CompileError(failure);
    return cubins;
  }

  #port(index: number): MessageChannel["port1"] {
    const known = this.#ports[index];
    if (known !== undefined) return known;
    const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
    const { port1, port2 } = new MessageChannel();
    const thread = new Worker(new URL(`./nvrtc-worker.${extension}`, import.meta.url), {
      workerData: { path: this.#path, done: this.#done, port: port2 },
      transferList: [port2],
    });
    thread.unref();
    this.#threads.push(thread);
    this.#ports[index] = port1;
    return port1;
  }

  dispose(): void {
    for (const port of this.#ports) port.close();
    for (const thread of this.#threads) void thread.terminate();
    this.#threads.length = 0;
    this.#ports.length = 0;
  }
}

/** Where a source's entries are: a unit's cubin, and the prefix that made their names unique in it. */
export interface CompiledSource {
  readonly cubin: Uint8Array;
  readonly unit: string;
  readonly prefix: string;
}

type Source = Pick<Lowered, "source" | "launches" | "options">;

export class KernelCompiler {
  readonly #units: UnitCompiler;
  readonly #folder: string | undefined;
  readonly #cubins = new Map<string, Uint8Array>();
  readonly #places = new Map<string, string>();
  readonly #preludeHash: string;
  #compiled = 0;

  /** @param folder the disk cache; undefined: none */
  constructor(units: UnitCompiler, folder: string | undefined) {
    this.#units = units;
    this.#folder = folder;
    this.#preludeHash = hash(units.identity, PRELUDE);
    if (folder !== undefined) mkdirSync(folder, { recursive: true });
  }

  /** Sources compiled, not found in the cache, since the start. */
  get compiledSources(): number {
    return this.#compiled;
  }

  /** Compiles what is not cached; the result has one entry per source, in order. */
  compile(sources: readonly Source[]): CompiledSource[] {
    const keys = sources.map((s) => hash(this.#preludeHash, s.source, ...(s.options ?? [])));
    const missing = new Map<string, Source>();
    sources.forEach((source, i) => {
      const key = keys[i] as string;
      if (!missing.has(key) && this.#find(key) === undefined) missing.set(key, source);
    });
    const units = makeUnits(missing, this.#units.parallelism);
    const cubins = units.length > 0 ? this.#units.compile(units) : [];
    units.forEach((unit, i) => {
      this.#remember(unit.keys, cubins[i] as Uint8Array);
    });
    this.#compiled += missing.size;
    return keys.map((key) => this.#find(key) as CompiledSource);
  }

  #find(key: string): CompiledSource | undefined {
    let unit = this.#places.get(key);
    if (unit === undefined && this.#folder !== undefined) {
      unit = readOptional(join(this.#folder, `${key}.place`))?.toString("utf8");
    }
    if (unit === undefined) return undefined;
    let cubin = this.#cubins.get(unit);
    if (cubin === undefined && this.#folder !== undefined) {
      cubin = readOptional(join(this.#folder, `${unit}.cubin`));
      // A torn or foreign file must not reach the driver: the unit's name is the hash of its bytes.
      if (cubin !== undefined && hash(cubin) !== unit) cubin = undefined;
    }
    if (cubin === undefined) return undefined;
    this.#places.set(key, unit);
    this.#cubins.set(unit, cubin);
    return { cubin, unit, prefix: prefixOf(key) };
  }

  #remember(keys: readonly string[], cubin: Uint8Array): void {
    const unit = hash(cubin);
    this.#cubins.set(unit, cubin);
    for (const key of keys) this.#places.set(key, unit);
    if (this.#folder === undefined) return;
    try {
      writeWhole(join(this.#folder, `${unit}.cubin`), cubin);
      for (const key of keys) writeWhole(join(this.#folder, `${key}.place`), Buffer.from(unit));
    } catch {
      // A full or read-only disk costs compile time at the next start, nothing else.
    }
  }
}

interface Unit {
  readonly source: string;
  readonly options: readonly string[];
  readonly keys: readonly string[];
}

/** Sources with macros or options of their own stand alone; the rest are spread evenly by length. */
function makeUnits(sources: ReadonlyMap<string, Source>, parallelism: number): Unit[] {
  const alone: [string, Source][] = [];
  const shared: [string, Source][] = [];
  for (const item of sources) {
    const [, { source, options }] = item;
    const large = source.length > 8_000;
    (large || options?.length || /^\s*#/m.test(source) ? alone : shared).push(item);
  }
  shared.sort(([, a], [, b]) => b.source.length - a.source.length);
  const bins = Math.min(parallelism, Math.ceil(shared.length / 4));
  const groups: [string, Source][][] = Array.from({ length: bins }, () => []);
  shared.forEach((item, i) => {
    const lap = Math.floor(i / bins);
    groups[lap % 2 === 0 ? i % bins : bins - 1 - (i % bins)]?.push(item);
  });
  return [...alone.map((item) => [item]), ...groups].map((group) => ({
    source: PRELUDE + group.map(([key, source]) => wrap(key, source)).join("\n"),
    options: group.length === 1 ? (group[0]?.[1].options ?? []) : [],
    keys: group.map(([key]) => key),
  }));
}

/** The head of a kernel, with the brace that opens its body. */
const KERNEL_HEAD = /extern "C" __global__[^{;]*\{/g;

/** A namespace keeps helpers apart; entries, which are extern "C", are renamed by macro. */
function wrap(key: string, { source, launches }: Source): string {
  const prefix = prefixOf(key);
  const entries = new Set(launches.flatMap((action) => ("entry" in action ? [action.entry] : [])));
  const names = [...entries];
  return [
    ...names.map((name) => `#define ${name} ${prefix}${name}`),
    `namespace ${prefix} {`,
    // Kernels that call it themselves do something before.
    source.includes("after_previous()")
      ? source
      : source.replace(KERNEL_HEAD, "$& after_previous();"),
    "}",
    ...names.map((name) => `#undef ${name}`),
  ].join("\n");
}

function prefixOf(key: string): string {
  return `u${key.slice(0, 16)}_`;
}

function hash(...parts: readonly (string | Uint8Array)[]): string {
  const sha = createHash("sha256");
  for (const part of parts) sha.update(part).update("\0");
  return sha.digest("hex").slice(0, 40);
}

function readOptional(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch {
    return undefined;
  }
}

/** Writes to a temporary name, then renames: a reader sees the whole file or none. */
function writeWhole(path: string, data: Uint8Array): void {
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, data);
  renameSync(temporary, path);
}

/** $XDG_CACHE_HOME/dsv3/cuda, or ~/.cache/dsv3/cuda. */
export function defaultCacheFolder(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "dsv3", "cuda");
}
