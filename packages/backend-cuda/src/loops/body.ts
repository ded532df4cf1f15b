/**
 * Emits the statements of one loop kernel's threads. A thread handles `width` neighbouring elements
 * (lanes) of one space: of the inner one when rows are reduced along their contiguous axis, of the
 * outer one otherwise. Values that differ between lanes are register arrays indexed by `j`.
 *
 * Expressions that no inner variable touches are emitted once for the outer point; the rest inside
 * the stage's loop: first the loads that need no lane's own arithmetic, so that they are all in flight
 * together, then the arithmetic, then the stores.
 */
import {
  type DType,
  dtypeBytes,
  type Expr,
  type Index,
  isFloat,
  type LoopKernel,
  type Stage,
  type Store,
} from "../contract.ts";
import type { RowCache } from "./kept-loads.ts";
import { constant, narrow, operation, storageType, widen } from "./scalar.ts";
import { lastRun, position, runsOf, type Space } from "./space.ts";

type Load = Extract<Expr, { op: "load" }>;

export interface BodyOptions {
  readonly kernel: LoopKernel;
  readonly outer: Space;
  /** Which space the lanes are in, and how many there are. */
  readonly lanes: "outer" | "inner";
  readonly width: number;
  /** Addresses need 64 bits. */
  readonly wide: boolean;
  /** Loads kept in registers between stages, and the name of the pass counter that indexes them. */
  readonly kept: ReadonlySet<Load>;
  readonly passes: number;
  readonly cache?: RowCache;
  /** Where a block stays for other rows: how much further on the next is that a thread loads. */
  readonly ahead?: number;
  /** Loads that lie in shared tiles, at row f + j and column t (tiled.ts). */
  readonly tiles?: { readonly loads: ReadonlySet<Load>; readonly pitch: number };
}

export class Body {
  readonly lines: string[] = [];
  readonly #o: BodyOptions;
  readonly #point = new Map<string, string>();
  #iteration = new Map<string, string>();
  #inner: Space | undefined;
  #loop: string[] = [];
  #stores: string[] = [];
  #names = 0;
  readonly #loaded = new Set<Load>();
  readonly #varies = new Map<Expr, boolean>();
  readonly #innerness = new Map<Expr, boolean>();

  constructor(options: BodyOptions) {
    this.#o = options;
  }

  /** Starts a stage; without an inner space, everything belongs to the outer point. */
  begin(inner: Space | undefined): void {
    this.#inner = inner;
    this.#iteration = new Map();
    this.#varies.clear();
    this.#innerness.clear();
    this.#loop = [];
    this.#stores = [];
  }

  /** Ends a stage: the statements of one pass through its loop, and the stores that follow them. */
  end(stage: Stage): { loop: readonly string[]; stores: readonly string[] } {
    for (const load of stageLoads(stage)) this.#loaded.add(load);
    return { loop: this.#loop, stores: this.#stores };
  }

  varies(e: Expr): boolean {
    let known = this.#varies.get(e);
    if (known === undefined) {
      if (e.op === "const") known = false;
      else if (e.op === "acc") known = this.#o.lanes === "outer";
      else if (e.op === "index" || e.op === "load") known = this.#indexVaries(e.index);
      else known = (e.args as readonly Expr[]).some((a) => this.varies(a));
      this.#varies.set(e, known);
    }
    return known;
  }

  /** Text of a value; a reference to lane `j` where lanes differ. */
  value(e: Expr): string {
    if (e.op === "const") return constant(e.value, e.type);
    if (e.op === "acc") {
      return this.#o.lanes === "outer" && this.#o.width > 1 ? `A${e.acc}[j]` : `A${e.acc}`;
    }
    if (e.op === "load") return this.#load(e);
    const inner = this.#isInner(e);
    const key = `${inner ? "e" : "p"}${e.id}`;
    return this.#define(key, inner, this.varies(e), e.type, () =>
      e.op === "index"
        ? `(i32)(${this.#index(e.index)})`
        : operation(
            e,
            (e.args as readonly Expr[]).map((a) => this.value(a)),
          ),
    );
  }

  #laneSpace(): Space | undefined {
    return this.#o.lanes === "outer" ? this.#o.outer : this.#inner;
  }

  #laneStride(index: Index): number {
    const space = this.#laneSpace();
    return space === undefined ? 0 : lastRun(index, space).stride;
  }

  #indexVaries(index: Index): boolean {
    return this.#laneStride(index) !== 0 || index.terms.some((t) => this.varies(t.expr));
  }

  #isInner(e: Expr): boolean {
    let known = this.#innerness.get(e);
    if (known === undefined) {
      if (e.op === "const" || e.op === "acc") known = false;
      else if (e.op === "index" || e.op === "load") known = this.#indexIsInner(e.index);
      else known = (e.args as readonly Expr[]).some((a) => this.#isInner(a));
      this.#innerness.set(e, known);
    }
    return known;
  }

  #indexIsInner(index: Index): boolean {
    const inner = this.#inner;
    if (inner === undefined) return false;
    return (
      inner.vars.some((v) => (index.strides[v] ?? 0) !== 0) ||
      index.terms.some((t) => this.#isInner(t.expr))
    );
  }

  #memo(inner: boolean): Map<string, string> {
    return inner ? this.#iteration : this.#point;
  }

  #emit(inner: boolean, line: string): void {
    (inner ? this.#loop : this.lines).push(line);
  }

  /** Declares a value, once; returns the text that refers to it (in lane j where it varies). */
  #define(key: string, inner: boolean, varies: boolean, type: string, code: () => string): string {
    const memo = this.#memo(inner);
    const known = memo.get(key) ?? this.#point.get(key);
    if (known !== undefined) return known;
    const text = code(); // emits what it needs first
    const lanes = varies && this.#o.width > 1;
    const name = lanes ? `${key}[j]` : key;
    this.#emit(
      inner,
      lanes
        ? `${type} ${key}[${this.#o.width}]; UNROLL for (int j = 0; j < ${this.#o.width}; j++) ${name} = ${text};`
        : `const ${type} ${key} = ${text};`,
    );
    memo.set(key, name);
    return name;
  }

  /** The element offset; lane j's own where lanes differ. */
  #index(index: Index, lane: "own" | "first" = "own"): string {
    const { outer, wide } = this.#o;
    const integer = wide ? "i64" : "i32";
    const parts: string[] = [];
    if (index.offset !== 0) parts.push(wide ? `${index.offset}LL` : `${index.offset}`);
    for (const space of this.#inner === undefined ? [outer] : [outer, this.#inner]) {
      for (const run of runsOf(index, space)) {
        if (run.stride === 0 || run.size === 1) continue;
        const isInner = space !== outer;
        const key = `${space.counter}_${run.after}_${run.size}`;
        const at = this.#define(
          key,
          isInner,
          false,
          integer,
          () => `(${integer})(${position(run, space)})`,
        );
        parts.push(run.stride === 1 ? at : `${at} * ${run.stride}`);
      }
    }
    const stride = this.#laneStride(index);
    if (lane === "own" && stride !== 0 && this.#o.width > 1) {
      parts.push(stride === 1 ? "j" : `j * ${stride}`);
    }
    for (const term of index.terms) {
      // Indices read from memory may be wrong; they must not reach another buffer's memory.
      const value = this.value(term.expr);
      const safe = hasLoad(term.expr)
        ? `min((u32)${value}, ${Math.max(0, term.limit - 1)}u)`
        : value;
      parts.push(`(${integer})${safe}${term.stride === 1 ? "" : ` * ${term.stride}`}`);
    }
    return parts.length === 0 ? "0" : parts.join(" + ");
  }

  #load(e: Load): string {
    const { kernel, width } = this.#o;
    const dtype = kernel.slots[e.slot] as DType;
    const inner = this.#isInner(e);
    const varies = this.varies(e);
    const type = storageType(dtype);
    const kept = this.#o.kept.has(e) && inner;
    const key = kept ? `k${e.id}` : `${inner ? "l" : "q"}${e.id}`;
    const memo = this.#memo(inner);
    const known = memo.get(key) ?? this.#point.get(key);
    if (known !== undefined) return known;
    const vector = varies && this.#vectorises(e.index, dtype);
    const array = kept && this.#o.passes > 1 ? `${key}[pass]` : key;
    const element = varies && width > 1 ? `${array}[j]` : array;
    const text = widen(element, dtype);
    if (!(kept && this.#loaded.has(e))) {
      const at = this.#index(e.index, vector ? "first" : "own");
      if (!kept) {
        const size = varies && width > 1 ? `[${width}]` : "";
        this.#emit(inner, `${width > 1 && varies ? "alignas(16) " : ""}${type} ${key}${size};`);
      }
      const { tiles } = this.#o;
      const column = width > 1 ? "(f + j)" : "f";
      const tile = tiles?.loads.has(e)
        ? `${width > 1 ? `UNROLL for (int j = 0; j < ${width}; j++) ` : ""}${element} = tile${e.id}[${column} * ${tiles.pitch}u + t];`
        : undefined;
      const read =
        vector && width > 1
          ? `load_vec(${array}, s${e.slot} + ${at});`
          : varies && width > 1
            ? `UNROLL for (int j = 0; j < ${width}; j++) ${element} = s${e.slot}[${at}];`
            : `${element} = s${e.slot}[${at}];`;
      if (kept && vector) this.#prefetch(e, at);
      const cache = inner ? this.#cached(e, key) : undefined;
      if (tile !== undefined) this.#emit(inner, tile);
      else if (cache === undefined) this.#emit(inner, read);
      else if (this.#loaded.has(e))
        this.#emit(inner, `if (${cache.held}) { ${cache.read} } else { ${read} }`);
      else {
        this.#emit(inner, read);
        this.#emit(inner, `if (${cache.held}) ${cache.write}`);
      }
    }
    memo.set(key, text);
    return text;
  }

  /** Fetches the next row's part towards the chip while this one is worked on. */
  #prefetch({ slot, index }: Load, at: string): void {
    const { ahead, outer } = this.#o;
    const [row, ...others] = outer.vars;
    const stride = index.strides[row as number] ?? 0;
    if (ahead === undefined || others.length > 0 || stride === 0 || index.terms.length > 0) return;
    this.#emit(true, `if (more) prefetch(s${slot} + ${at} + ${ahead * stride});`);
  }

  /** How a load that shared memory holds is written there and read back. */
  #cached(e: Load, name: string): { held: string; read: string; write: string } | undefined {
    const { cache, width } = this.#o;
    const place = cache?.places.get(e);
    if (cache === undefined || place === undefined) return undefined;
    const at = `c${e.id} + ${this.#inner?.counter}`;
    const vector = width > 1 && this.varies(e);
    return {
      held: `${this.#inner?.counter} < ${cache.elements}u`,
      read: vector ? `load_vec(${name}, ${at});` : `${name} = *(${at});`,
      write: vector ? `store_vec(${at}, ${name});` : `*(${at}) = ${name};`,
    };
  }

  /** Declarations of the registers and the shared memory that keep loads between stages. */
  keptDeclarations(): string[] {
    const { cache, kernel } = this.#o;
    const shared = [...(cache?.places ?? [])].map(([e, place]) => {
      const type = storageType(kernel.slots[e.slot] as DType);
      return `${type}* const c${e.id} = (${type}*)(row_cache + ${place});`;
    });
    if (shared.length > 0) shared.unshift("extern __shared__ __align__(16) u8 row_cache[];");
    const registers = [...this.#o.kept].map((e) => {
      const type = storageType(this.#o.kernel.slots[e.slot] as DType);
      const passes = this.#o.passes > 1 ? `[${this.#o.passes}]` : "";
      return `alignas(16) ${type} k${e.id}${passes}${this.#o.width > 1 ? `[${this.#o.width}]` : ""};`;
    });
    return [...shared, ...registers];
  }

  store({ slot, index, value }: Store): void {
    const { kernel, width } = this.#o;
    const dtype = kernel.slots[slot] as DType;
    // What is rounded to the slot's format is not rounded again.
    const rounded = value.op === "narrow" && value.to === dtype && isFloat(dtype);
    const text = narrow(this.value(rounded ? value.args[0] : value), dtype);
    if (width === 1 || !this.#indexVaries(index)) {
      this.#stores.push(`s${slot}[${this.#index(index)}] = ${text};`);
      return;
    }
    const inner = this.#inner !== undefined;
    const name = `${inner ? "w" : "v"}${this.#names++}`;
    const vector = this.#vectorises(index, dtype);
    const at = this.#index(index, vector ? "first" : "own");
    const lanes = `UNROLL for (int j = 0; j < ${width}; j++)`;
    this.#emit(
      inner,
      `alignas(16) ${storageType(dtype)} ${name}[${width}]; ${lanes} ${name}[j] = ${text};`,
    );
    this.#stores.push(
      vector ? `store_vec(s${slot} + ${at}, ${name});` : `${lanes} s${slot}[${at}] = ${name}[j];`,
    );
  }

  /** Whether the lanes' elements are one aligned piece of memory. */
  #vectorises(index: Index, dtype: DType): boolean {
    return vectorises(index, dtype, this.#o.width, this.#laneSpace(), [
      this.#o.outer,
      ...(this.#inner ? [this.#inner] : []),
    ]);
  }
}

/** True when `width` lanes lie side by side at an address aligned to their size, or to 16 bytes. */
export function vectorises(
  index: Index,
  dtype: DType,
  width: number,
  lanes: Space | undefined,
  spaces: readonly Space[],
): boolean {
  if (lanes === undefined || lastRun(index, lanes).stride !== 1) return false;
  const unit = Math.min(width, 16 / dtypeBytes(dtype));
  if (index.offset % unit !== 0 || index.terms.some((t) => t.stride % unit !== 0)) return false;
  return spaces.every((space) =>
    runsOf(index, space).every(
      (run) => run.stride % unit === 0 || (space === lanes && run.after === 1 && run.stride === 1),
    ),
  );
}

/** Whether a value comes from memory. */
function hasLoad(e: Expr): boolean {
  const seen = new Set<Expr>();
  const walk = (x: Expr): boolean => {
    if (seen.has(x)) return false;
    seen.add(x);
    if (x.op === "load") return true;
    if (x.op === "index") return x.index.terms.some((t) => walk(t.expr));
    return "args" in x && (x.args as readonly Expr[]).some(walk);
  };
  return walk(e);
}

/** The loads that a stage's values need, directly or through indices. */
export function stageLoads(stage: Stage): Set<Load> {
  const found = new Set<Load>();
  const seen = new Set<Expr>();
  const walk = (e: Expr) => {
    if (seen.has(e)) return;
    seen.add(e);
    if (e.op === "load") found.add(e);
    if (e.op === "load" || e.op === "index") for (const t of e.index.terms) walk(t.expr);
    else if ("args" in e) for (const a of e.args) walk(a);
  };
  const index = (i: Index) => {
    for (const t of i.terms) walk(t.expr);
  };
  for (const r of [...stage.reduces, ...stage.columnSums]) walk(r.value);
  for (const s of stage.stores) {
    walk(s.value);
    index(s.index);
  }
  return found;
}
