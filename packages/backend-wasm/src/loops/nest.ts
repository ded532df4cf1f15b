/**
 * The nest of loops being written out: which variables are open, what has been computed where, and
 * the pointers that step through buffers.
 *
 * Scopes mirror the code's blocks. A value that has been kept belongs to the scope in which it was
 * computed and serves all code inside. Opening a loop first computes, outside of it, every value that
 * the code inside wants and that the loop does not change.
 */
import type { ComputeType, Expr, Index, IndexTerm, LoopKernel, Reduce, Stage } from "@dsv3/tensor";
import { type DType, dtypeBytes } from "@dsv3/tensor/dtype";
import { type Func, f32x4, i32, i32x4, type Local, type Value, v128 } from "../asm.ts";
import { decode, encode, loadCode, loadCodes, scaled, storeCode, storeCodes } from "../convert.ts";
import type { PhaseArguments, Target } from "../kernel.ts";
import { operands, stageRoots } from "./simplify.ts";
import { binary, cast, combine, constantVector, identity, narrow, unary } from "./values.ts";

type V = Value<"v128">;

interface Scope {
  readonly vars: readonly number[];
  /** Kept values, by copy for those that vary along the lanes. */
  readonly values: Map<Expr, V[]>;
  readonly pointers: Map<string, Pointer>;
}

/** The address of the element at `offset` of an index, for the current values of the variables. */
interface Pointer {
  readonly local: Local<"i32">;
  readonly offset: number;
  /** Bytes by which one step of the loop's variable moves it. */
  readonly stride: number;
}

/**
 * An accumulator for four lanes. The largest or smallest float is sought with the machine's own
 * instruction, which forgets NaN, and `nan` marks the lanes that have met one: WebAssembly's max is
 * eight instructions, one after the other.
 */
export interface Accumulator {
  readonly sum: Local<"v128">;
  readonly nan: Local<"v128"> | undefined;
}

export class Nest {
  readonly f: Func;
  /** Vectors worked on at a time: four values of the lane variable each. */
  copies = 1;
  readonly #kernel: LoopKernel;
  readonly #target: Target;
  readonly #scopes: Scope[] = [];
  readonly #vars: (Local<"i32"> | undefined)[] = [];
  readonly #slots: Local<"i32">[];
  readonly #accumulators: (readonly V[])[] = [];
  readonly #dependencies = new Map<Expr, ReadonlySet<number>>();
  /** Uses of each expression in the stages being written. */
  #uses = new Map<Expr, number>();
  #stages: readonly Stage[];
  /** The variable of the lanes, and how many of the four lanes are in use. */
  #lanes: number | undefined;
  #width = 4;
  /** In column form, what accumulators depend on. */
  #column: readonly number[] = [];

  constructor(f: Func, kernel: LoopKernel, target: Target, args: PhaseArguments) {
    this.f = f;
    this.#kernel = kernel;
    this.#target = target;
    this.#slots = kernel.slots.map((_, s) => f.keep(args.slot(s)));
    this.#stages = kernel.stages;
  }

  extent(v: number): number {
    return this.#kernel.vars[v] as number;
  }

  setVar(v: number, value: Local<"i32">): void {
    this.#vars[v] = value;
    (this.#scopes.at(-1) as Scope & { vars: number[] }).vars.push(v);
  }

  scope(vars: readonly number[], body: () => void): void {
    this.#scopes.push({ vars: [...vars], values: new Map(), pointers: new Map() });
    body();
    this.#scopes.pop();
  }

  /** Writes one stage. */
  stage(stage: Stage, body: () => void): void {
    const outside = this.#stages;
    this.#setStages([stage]);
    this.scope([], body);
    this.#setStages(outside);
  }

  /** Fresh accumulators of a reduction. */
  accumulators(r: Reduce, copies: number): Accumulator[] {
    return Array.from({ length: copies }, () => {
      const best = this.f.keep(identity(r.op, r.value.type));
      const extreme = r.op !== "sum" && r.value.type === "f32";
      return { sum: best, nan: extreme ? this.f.keep(i32x4.const(0)) : undefined };
    });
  }

  /** Accumulators as they are when all is added up. */
  finish(accumulators: readonly Accumulator[]): Local<"v128">[] {
    return accumulators.map(({ sum, nan }) => {
      if (nan) this.f.set(sum, v128.or(sum, nan));
      return sum;
    });
  }

  setAccumulator(acc: number, values: readonly V[]): void {
    this.#accumulators[acc] = values;
  }

  /** A plain loop over a variable; `innermost`: nothing but the stage's body is inside. */
  loopOver(v: number, innermost: boolean, body: () => void): void {
    this.#hoist();
    const counter = this.f.local("i32", 0);
    const pointers = innermost ? this.#pointers(v, counter) : new Map<string, Pointer>();
    this.f.for(counter, 0, this.extent(v), 1, () => {
      this.#inLoop(v, counter, pointers, body);
      this.#advance(pointers, 1);
    });
  }

  /** The lane loop of row form: a variable from 0 to its extent. */
  lanesOver(v: number, copies: number, body: () => void): void {
    this.#hoist();
    const { f } = this;
    const extent = this.extent(v);
    const strip = 4 * copies;
    const counter = f.local("i32", 0);
    const pointers = this.#pointers(v, counter);
    const part = (n: number, width: number) => {
      this.withLanes(v, n, width, () => this.#inLoop(v, counter, pointers, body));
      this.#advance(pointers, 4 * n);
    };
    const main = Math.floor(extent / strip) * strip;
    f.for(counter, 0, main, strip, () => part(copies, 4));
    const vectors = Math.floor((extent - main) / 4);
    if (vectors > 0) {
      part(vectors, 4);
      f.inc(counter, 4 * vectors);
    }
    if (extent % 4 > 0) part(1, extent % 4);
  }

  /**
   * The lane loop of column form, around all stages: a variable from `from` to `to`, which is the
   * variable's extent or a multiple of four from `from`.
   */
  lanesBetween(
    v: number,
    from: Value<"i32">,
    to: Local<"i32">,
    copies: number,
    body: () => void,
  ): void {
    this.#column = [v];
    this.#dependencies.clear();
    this.#setStages(this.#kernel.stages);
    this.#hoist();
    const { f } = this;
    const extent = this.extent(v);
    const strip = 4 * copies;
    const counter = f.keep(from);
    const flat = this.#kernel.stages.filter((s) => s.inner.length === 0);
    this.#setStages(flat);
    const pointers = this.#pointers(v, counter);
    const part = (n: number, width: number) => {
      this.withLanes(v, n, width, () => this.#inLoop(v, counter, pointers, body));
      this.#advance(pointers, 4 * n);
      f.inc(counter, 4 * n);
    };
    if (extent >= strip) {
      f.while(i32.leS(i32.add(counter, strip), to), () => part(copies, 4));
    }
    if (copies > 1 && extent % strip >= 4) {
      f.while(i32.leS(i32.add(counter, 4), to), () => part(1, 4));
    }
    if (extent % 4 > 0) f.if(i32.ltS(counter, to), () => part(1, extent % 4));
  }

  /** Writes `body` for some vectors of the lane variable; undefined: for one scalar. */
  withLanes(v: number | undefined, copies: number, width: number, body: () => void): void {
    const before = [this.#lanes, this.copies, this.#width] as const;
    [this.#lanes, this.copies, this.#width] = [v, copies, width];
    body();
    [this.#lanes, this.copies, this.#width] = before;
  }

  /** One pass of a stage: its reductions and stores for the current vectors. */
  body(stage: Stage, sums: readonly (readonly Accumulator[])[]): void {
    const { f } = this;
    const overLanes = this.#lanes !== undefined && stage.inner.includes(this.#lanes);
    for (let u = 0; u < this.copies; u++) {
      stage.reduces.forEach((r, i) => {
        let x = this.#value(r.value, u);
        if (overLanes && this.#width < 4) {
          const used = i32x4.const(...[0, 1, 2, 3].map((lane) => (lane < this.#width ? -1 : 0)));
          x = v128.bitselect(x, identity(r.op, r.value.type), used);
        }
        const { sum, nan } = (sums[i] as Accumulator[])[u] as Accumulator;
        if (nan) {
          x = f.keep(x);
          f.set(nan, v128.or(nan, f32x4.ne(x, x)));
          f.set(sum, r.op === "max" ? f32x4.pmax(sum, x) : f32x4.pmin(sum, x));
        } else {
          f.set(sum, combine(r.op, r.value.type, sum, x));
        }
      });
      // All values before the first store: it may overwrite what another one was loaded from.
      const codes = stage.stores.map((s) => {
        const value = encode(f, this.#dtype(s.slot), this.#value(s.value, u));
        return stage.stores.length > 1 ? f.keep(value) : value;
      });
      stage.stores.forEach((s, i) => {
        this.#store(s.slot, s.index, codes[i] as V, u);
      });
    }
  }

  #dtype(slot: number): DType {
    return this.#kernel.slots[slot] as DType;
  }

  #setStages(stages: readonly Stage[]): void {
    this.#stages = stages;
    this.#uses = new Map();
    const count = (e: Expr): void => {
      const n = this.#uses.get(e) ?? 0;
      this.#uses.set(e, n + 1);
      if (n === 0) operands(e).forEach(count);
    };
    stages.flatMap(stageRoots).forEach(count);
  }

  #inLoop(
    v: number,
    counter: Local<"i32">,
    pointers: Map<string, Pointer>,
    body: () => void,
  ): void {
    this.#vars[v] = counter;
    this.#scopes.push({ vars: [v], values: new Map(), pointers: new Map(pointers) });
    body();
    this.#scopes.pop();
    this.#vars[v] = undefined;
  }

  // ---- what depends on what ---------------------------------------------------------------------

  #dependsOn(e: Expr): ReadonlySet<number> {
    let set = this.#dependencies.get(e);
    if (!set) {
      const vars = new Set<number>(e.op === "acc" ? this.#column : []);
      if (e.op === "index" || e.op === "load") {
        e.index.strides.forEach((stride, v) => {
          if (stride !== 0) vars.add(v);
        });
      }
      for (const a of operands(e)) for (const v of this.#dependsOn(a)) vars.add(v);
      set = vars;
      this.#dependencies.set(e, set);
    }
    return set;
  }

  #isOpen(e: Expr): boolean {
    for (const v of this.#dependsOn(e)) if (this.#vars[v] === undefined) return false;
    return true;
  }

  #varies(e: Expr): boolean {
    return this.#lanes !== undefined && this.#dependsOn(e).has(this.#lanes);
  }

  /** Computes, here, what the stages want and no loop to come can change. */
  #hoist(): void {
    const seen = new Set<Expr>();
    const visit = (e: Expr): void => {
      if (e.op === "const" || seen.has(e)) return;
      seen.add(e);
      if (!this.#isOpen(e)) operands(e).forEach(visit);
      else if (!(e.op === "acc" && !this.#accumulators[e.acc])) {
        const copies = this.#varies(e) ? this.copies : 1;
        for (let u = 0; u < copies; u++) this.#keep(e, u, this.#value(e, u));
      }
    };
    this.#stages.flatMap(stageRoots).forEach(visit);
  }

  // ---- values -----------------------------------------------------------------------------------

  #keep(e: Expr, copy: number, value: V): V {
    const { values } = this.#scopes.at(-1) as Scope;
    const at = this.#varies(e) ? copy : 0;
    const kept = "local" in value ? value : this.f.keep(value);
    const all = values.get(e) ?? [];
    all[at] = kept;
    values.set(e, all);
    return kept;
  }

  /** An expression for copy u of the vectors. */
  #value(e: Expr, u: number): V {
    if (e.op === "const") return constantVector(e.type, e.value);
    const at = this.#varies(e) ? u : 0;
    for (let s = this.#scopes.length - 1; s >= 0; s--) {
      const known = this.#scopes[s]?.values.get(e)?.[at];
      if (known) return known;
    }
    const value = this.#compute(e, u);
    return (this.#uses.get(e) ?? 0) > 1 ? this.#keep(e, u, value) : value;
  }

  #compute(e: Exclude<Expr, { op: "const" }>, u: number): V {
    switch (e.op) {
      case "index":
        return this.#indexVector(e.index, u);
      case "load":
        return this.#load(e.slot, e.index, u);
      case "acc": {
        const values = this.#accumulators[e.acc] as readonly V[];
        return values[values.length > 1 ? u : 0] as V;
      }
      case "where": {
        const [condition, a, b] = e.args.map((x) => this.#value(x, u)) as [V, V, V];
        return v128.bitselect(a, b, condition);
      }
      case "cast":
        return cast(e.args[0].type, e.type, this.#value(e.args[0], u));
      case "bitcast":
        return this.#value(e.args[0], u);
      case "narrow":
        return narrow(this.f, e.to, e.type, this.#value(e.args[0], u));
      default: {
        const [x, y] = e.args.map((arg) => this.#value(arg, u)) as [V, V];
        if (e.args.length === 1) {
          return unary(this.f, this.#target, e.op as never, e.type, x);
        }
        const type: ComputeType = e.args[0].type;
        return binary(this.f, e.op as never, type, e.args as never, x, y, !this.#varies(e));
      }
    }
  }

  // ---- indices and memory -----------------------------------------------------------------------

  #laneStride(index: Index): number {
    return this.#lanes === undefined ? 0 : (index.strides[this.#lanes] ?? 0);
  }

  /** Terms whose lanes differ. */
  #varyingTerms(index: Index): readonly IndexTerm[] {
    return index.terms.filter((t) => this.#varies(t.expr));
  }

  /** stride·(lane number) for the four lanes of copy u. */
  #laneOffsets(index: Index, u: number): readonly number[] {
    return [0, 1, 2, 3].map((lane) => (4 * u + lane) * this.#laneStride(index));
  }

  /** Value of an index at the first lane, without varying terms. */
  #indexScalar(index: Index): Value<"i32"> {
    const varying = this.#varyingTerms(index);
    let sum: Value<"i32"> = i32.const(index.offset);
    index.strides.forEach((stride, v) => {
      if (stride === 0) return;
      const step = scaled(this.#vars[v] as Local<"i32">, stride);
      sum = i32.add(step, sum);
    });
    for (const t of index.terms) {
      if (varying.includes(t)) continue;
      const term = i32x4.extractLane(this.#value(t.expr, 0), 0);
      sum = i32.add(sum, scaled(term, t.stride));
    }
    return sum;
  }

  #indexVector(index: Index, u: number): V {
    const first = i32x4.splat(this.#indexScalar(index));
    const offsets = this.#laneOffsets(index, u);
    const affine = offsets.some((n) => n !== 0) ? i32x4.add(first, i32x4.const(...offsets)) : first;
    return this.#addTerms(affine, index, u);
  }

  #addTerms(vector: V, index: Index, u: number): V {
    return this.#varyingTerms(index).reduce((sum, t) => {
      const term = this.#value(t.expr, u);
      return i32x4.add(sum, t.stride === 1 ? term : i32x4.mul(term, i32x4.const(t.stride)));
    }, vector);
  }

  /** Address of an element at the first lane of copy 0, as a local plus a constant; varying terms apart. */
  #address(slot: number, index: Index): [base: Local<"i32">, offset: number] {
    const bytes = dtypeBytes(this.#dtype(slot));
    const key = this.#pointerKey(slot, index);
    for (let s = this.#scopes.length - 1; s >= 0; s--) {
      const known = this.#scopes[s]?.pointers.get(key);
      if (known) return [known.local, (index.offset - known.offset) * bytes];
    }
    const local = this.f.keep(
      i32.add(this.#slots[slot] as Local<"i32">, scaled(this.#indexScalar(index), bytes)),
    );
    this.#scopes.at(-1)?.pointers.set(key, { local, offset: index.offset, stride: 0 });
    return [local, 0];
  }

  /** Equal for indices that differ by a constant. */
  #pointerKey(slot: number, index: Index): string {
    const varying = this.#varyingTerms(index);
    const terms = index.terms.filter((t) => !varying.includes(t));
    const strides = index.strides.map((s) => s || "").join();
    return `${slot}[${strides}${terms.map((t) => `+${t.stride}e${t.expr.id}`).join("")}]`;
  }

  /**
   * Pointers for the accesses in the innermost loop over v, which starts at `start`: those that move
   * with v by a constant stride.
   */
  #pointers(v: number, start: Local<"i32">): Map<string, Pointer> {
    const before = this.#lanes;
    if (before === undefined && this.#column.length === 0) this.#lanes = v;
    else if (this.#column.includes(v)) this.#lanes = v;
    this.#vars[v] = start;
    const pointers = new Map<string, Pointer>();
    const seen = new Set<Expr>();
    const access = (slot: number, index: Index) => {
      const key = this.#pointerKey(slot, index);
      const bytes = dtypeBytes(this.#dtype(slot));
      const stride = (index.strides[v] ?? 0) * bytes;
      const moves = (t: IndexTerm) => this.#dependsOn(t.expr).has(v);
      const fixed = index.terms.every((t) => this.#varyingTerms(index).includes(t) || !moves(t));
      if (stride === 0 || !fixed || pointers.has(key)) return;
      const address = i32.add(
        this.#slots[slot] as Local<"i32">,
        scaled(this.#indexScalar(index), bytes),
      );
      pointers.set(key, { local: this.f.keep(address), offset: index.offset, stride });
    };
    const visit = (e: Expr): void => {
      if (seen.has(e)) return;
      seen.add(e);
      if (e.op === "load" && this.#dependsOn(e).has(v)) access(e.slot, e.index);
      operands(e).forEach(visit);
    };
    for (const stage of this.#stages) {
      stageRoots(stage).forEach(visit);
      for (const s of stage.stores) access(s.slot, s.index);
    }
    this.#vars[v] = undefined;
    this.#lanes = before;
    return pointers;
  }

  #advance(pointers: Map<string, Pointer>, steps: number): void {
    for (const { local, stride } of pointers.values()) this.f.inc(local, stride * steps);
  }

  /** An address and a constant ≥ 0 for the immediate of a memory instruction. */
  #place(base: Value<"i32">, offset: number): [Value<"i32">, number] {
    return offset >= 0 ? [base, offset] : [i32.add(base, offset), 0];
  }

  #load(slot: number, index: Index, u: number): V {
    const { f } = this;
    const dtype = this.#dtype(slot);
    const bytes = dtypeBytes(dtype);
    const [base, offset] = this.#address(slot, index);
    const lanes = this.#lanesOf(index, u, base, offset, bytes);
    if (lanes === undefined) {
      // The same element in all lanes.
      const [address, immediate] = this.#place(base, offset);
      const codes =
        bytes === 4
          ? v128.load32Splat(address, immediate)
          : i32x4.splat(loadCode(dtype, address, immediate));
      return decode(f, dtype, codes);
    }
    if (this.#contiguous(index)) return decode(f, dtype, loadCodes(dtype, ...lanes(0)));
    let codes =
      bytes === 4 ? v128.load32Zero(...lanes(0)) : i32x4.splat(loadCode(dtype, ...lanes(0)));
    for (let lane = 1; lane < this.#width; lane++) {
      const [address, immediate] = lanes(lane);
      codes =
        bytes === 4
          ? v128.load32Lane(address, codes, lane, immediate)
          : i32x4.replaceLane(codes, lane, loadCode(dtype, address, immediate));
    }
    return decode(f, dtype, codes);
  }

  #store(slot: number, index: Index, codes: V, u: number): void {
    const { f } = this;
    const dtype = this.#dtype(slot);
    const bytes = dtypeBytes(dtype);
    const [base, offset] = this.#address(slot, index);
    const lanes = this.#lanesOf(index, u, base, offset, bytes);
    if (lanes === undefined) {
      const [address, immediate] = this.#place(base, offset);
      f.do(storeCode(dtype, address, codes, 0, immediate));
    } else if (this.#contiguous(index)) {
      const [address, immediate] = lanes(0);
      f.do(storeCodes(dtype, address, codes, immediate));
    } else {
      const kept = f.keep(codes);
      for (let lane = 0; lane < this.#width; lane++) {
        const [address, immediate] = lanes(lane);
        f.do(storeCode(dtype, address, kept, lane, immediate));
      }
    }
  }

  #contiguous(index: Index): boolean {
    return (
      this.#width === 4 && this.#laneStride(index) === 1 && this.#varyingTerms(index).length === 0
    );
  }

  /** Where the lanes of copy u lie; undefined: all at one place. */
  #lanesOf(
    index: Index,
    u: number,
    base: Local<"i32">,
    offset: number,
    bytes: number,
  ): ((lane: number) => [Value<"i32">, number]) | undefined {
    const offsets = this.#laneOffsets(index, u);
    if (this.#varyingTerms(index).length > 0) {
      const affine = i32x4.const(...offsets);
      const positions = this.f.keep(this.#addTerms(affine, index, u));
      return (lane) =>
        this.#place(i32.add(base, scaled(i32x4.extractLane(positions, lane), bytes)), offset);
    }
    if (this.#laneStride(index) === 0) return undefined;
    return (lane) => this.#place(base, offset + (offsets[lane] as number) * bytes);
  }
}
