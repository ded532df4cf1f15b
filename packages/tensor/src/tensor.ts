/** Tensors: an array on a backend's device, or, while a function is traced, a symbol for one. */
import type { Backend, DeviceBuffer, MemoryStats } from "./backend.ts";
import {
  type DType,
  dtypeBytes,
  fromF32,
  isFloat,
  type TypedView,
  toF32,
  typedView,
} from "./dtype.ts";
import { describe, type Spec, sizeOf } from "./spec.ts";

/** Plain data that parameterises an operation: axes, sizes, options. Part of a node's identity. */
export type Attrs = Readonly<Record<string, unknown>>;

/** One operation of a trace. */
export interface Node {
  /** Position in the graph: inputs of a node have smaller ids. */
  readonly id: number;
  readonly op: string;
  readonly inputs: readonly Tensor[];
  readonly attrs: Attrs;
  readonly outputs: readonly Tensor[];
  readonly graph: Recording;
}

/** The graph that a trace is recorded in (graph.ts). */
export interface Recording {
  readonly nodes: readonly Node[];
  add(op: string, inputs: readonly Tensor[], attrs: Attrs, specs: readonly Spec[]): Node;
  /** The symbol that stands for a tensor. */
  lift(t: Tensor): Tensor;
}

interface Storage {
  readonly backend: Backend;
  readonly buffer: DeviceBuffer;
}

let current: Backend | undefined;

/** Makes `backend` the one that new tensors live on and that programs are compiled for. */
export function setBackend(backend: Backend): void {
  current = backend;
}

/** The backend set by {@link setBackend}; an error if none was. */
export function getBackend(): Backend {
  if (current === undefined) {
    throw new Error(
      "no backend: call setBackend(await wasmBackend()) with wasmBackend from @dsv3/backend-wasm first",
    );
  }
  return current;
}

/** Bytes in use on the current backend. */
export function memory(): MemoryStats {
  return getBackend().memory();
}

/** Buffers of tensors that were dropped without dispose(): a net, not the way to manage memory. */
const dropped = new FinalizationRegistry<Storage>((s) => s.backend.free(s.buffer));

const scopes: Set<Tensor>[] = [];

/**
 * An n-dimensional array. Concrete tensors own device memory until `dispose()` (or the end of a
 * `using` or {@link scope} block); symbolic ones exist inside functions that are being traced.
 */
export class Tensor implements Spec {
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** The node that computes this symbol, and which of its outputs this is. */
  readonly node: Node | undefined;
  readonly output: number;
  #storage: Storage | undefined;

  private constructor(
    shape: readonly number[],
    dtype: DType,
    node: Node | undefined,
    output: number,
    storage: Storage | undefined,
  ) {
    this.shape = shape;
    this.dtype = dtype;
    this.node = node;
    this.output = output;
    this.#storage = storage;
  }

  static symbolic(shape: readonly number[], dtype: DType, node: Node, output: number): Tensor {
    return new Tensor(shape, dtype, node, output, undefined);
  }

  /** Takes over `buffer`. */
  static concrete(
    shape: readonly number[],
    dtype: DType,
    backend: Backend,
    buffer: DeviceBuffer,
  ): Tensor {
    const storage = { backend, buffer };
    const t = new Tensor(shape, dtype, undefined, 0, storage);
    dropped.register(t, storage, t);
    scopes.at(-1)?.add(t);
    return t;
  }

  get rank(): number {
    return this.shape.length;
  }

  /** Number of elements. */
  get size(): number {
    return sizeOf(this.shape);
  }

  get disposed(): boolean {
    return this.node === undefined && this.#storage === undefined;
  }

  /** The device memory; an error for symbols and disposed tensors. */
  get storage(): Storage {
    if (this.#storage !== undefined) return this.#storage;
    throw new Error(
      this.node === undefined
        ? `a ${describe(this)} tensor was used after dispose() or after a compiled function took it over (donate)`
        : `the values of a ${describe(this)} tensor are not known while a function is traced`,
    );
  }

  /** Frees the memory; harmless if done before. */
  dispose(): void {
    const storage = this.release();
    storage?.backend.free(storage.buffer);
  }

  /** Gives up the memory without freeing it. */
  release(): Storage | undefined {
    const storage = this.#storage;
    if (storage === undefined) return undefined;
    dropped.unregister(this);
    for (const scope of scopes) scope.delete(this);
    this.#storage = undefined;
    return storage;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** The elements as little-endian bytes, row by row. */
  async bytes(): Promise<Uint8Array> {
    return this.#trim(await this.storage.backend.read(this.storage.buffer));
  }

  bytesSync(): Uint8Array {
    return this.#trim(this.storage.backend.readSync(this.storage.buffer));
  }

  /** The elements, row by row. Floats of every width come as Float32Array. */
  async data(): Promise<TypedView> {
    return widen(await this.bytes(), this.dtype);
  }

  dataSync(): TypedView {
    return widen(this.bytesSync(), this.dtype);
  }

  /** The only element. */
  async item(): Promise<number> {
    if (this.size !== 1) throw new Error(`item() needs one element, got ${describe(this)}`);
    return (await this.data())[0] as number;
  }

  toString(): string {
    return `Tensor ${describe(this)}${this.node ? " (symbolic)" : this.disposed ? " (disposed)" : ""}`;
  }

  #trim(bytes: Uint8Array): Uint8Array {
    return bytes.subarray(0, this.size * dtypeBytes(this.dtype));
  }
}

function widen(bytes: Uint8Array, dtype: DType): TypedView {
  return isFloat(dtype) ? toF32(bytes, dtype) : typedView(bytes, dtype);
}

export type NestedNumbers = number | boolean | ArrayLike<number> | readonly NestedNumbers[];

/**
 * A tensor of the given numbers: a number, nested arrays, or a flat array with a `shape`.
 * @param options.dtype f32 unless told; values are rounded to it.
 */
export function tensor(
  data: NestedNumbers,
  options: { shape?: readonly number[]; dtype?: DType } = {},
): Tensor {
  const dtype = options.dtype ?? "f32";
  const flat: number[] | ArrayLike<number> = ArrayBuffer.isView(data)
    ? (data as unknown as ArrayLike<number>)
    : flatten(data);
  const shape = options.shape ?? (ArrayBuffer.isView(data) ? [flat.length] : nestedShape(data));
  if (sizeOf(shape) !== flat.length) {
    throw new Error(
      `shape [${shape.join(", ")}] needs ${sizeOf(shape)} elements, got ${flat.length}`,
    );
  }
  return fromBytes(encode(flat, dtype), shape, dtype);
}

/** A tensor of raw little-endian elements. */
export function fromBytes(bytes: Uint8Array, shape: readonly number[], dtype: DType): Tensor {
  const expected = sizeOf(shape) * dtypeBytes(dtype);
  if (bytes.byteLength !== expected) {
    throw new Error(
      `${describe({ shape, dtype })} needs ${expected} bytes, got ${bytes.byteLength}`,
    );
  }
  const backend = getBackend();
  const buffer = backend.alloc(expected);
  backend.write(buffer, bytes);
  return Tensor.concrete([...shape], dtype, backend, buffer);
}

/**
 * Runs `fn` and disposes every tensor made meanwhile that is not in its result. Works for async
 * functions too, as long as two of them do not overlap.
 */
export function scope<T>(fn: () => T): T {
  const made = new Set<Tensor>();
  scopes.push(made);
  const close = (result: unknown) => {
    scopes.splice(scopes.indexOf(made), 1);
    const keep = new Set<Tensor>();
    collect(result, keep);
    for (const t of made) {
      if (!keep.has(t)) t.dispose();
      else scopes.at(-1)?.add(t);
    }
  };
  let result: T;
  try {
    result = fn();
  } catch (error) {
    close(undefined);
    throw error;
  }
  if (result instanceof Promise) {
    return result.then(
      (value) => {
        close(value);
        return value;
      },
      (error) => {
        close(undefined);
        throw error;
      },
    ) as T;
  }
  close(result);
  return result;
}

/**
 * Runs `fn` and returns the concrete tensors that it made besides its result: they belong to the
 * caller, and to no scope around it.
 */
export function collectMade<T>(fn: () => T): { result: T; made: ReadonlySet<Tensor> } {
  const made = new Set<Tensor>();
  scopes.push(made);
  try {
    return { result: fn(), made };
  } catch (error) {
    for (const t of made) t.dispose();
    throw error;
  } finally {
    scopes.splice(scopes.indexOf(made), 1);
  }
}

function collect(value: unknown, into: Set<Tensor>): void {
  if (value instanceof Tensor) into.add(value);
  else if (Array.isArray(value)) for (const v of value) collect(v, into);
  else if (value !== null && typeof value === "object" && !ArrayBuffer.isView(value)) {
    for (const v of Object.values(value)) collect(v, into);
  }
}

function flatten(data: NestedNumbers): number[] {
  if (typeof data === "number") return [data];
  if (typeof data === "boolean") return [data ? 1 : 0];
  return Array.from(data as ArrayLike<NestedNumbers>).flatMap((d) => flatten(d));
}

function nestedShape(data: NestedNumbers): number[] {
  if (typeof data === "number" || typeof data === "boolean") return [];
  const items = Array.from(data as ArrayLike<NestedNumbers>);
  const inner = items.map(nestedShape);
  if (inner.some((s) => s.join() !== (inner[0] as number[]).join())) {
    throw new Error("nested arrays must be rectangular: rows have different shapes");
  }
  return [items.length, ...(inner[0] ?? [])];
}

function encode(values: ArrayLike<number>, dtype: DType): Uint8Array {
  if (isFloat(dtype)) return fromF32(values, dtype);
  const view = typedView(new Uint8Array(values.length * dtypeBytes(dtype)), dtype);
  if (dtype === "bool") for (let i = 0; i < values.length; i++) view[i] = values[i] ? 1 : 0;
  else view.set(values);
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}
