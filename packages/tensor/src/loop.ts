/**
 * The expression language of fused loops: what a backend's emitter turns into WebAssembly bytes,
 * CUDA C++ or WGSL. A loop kernel runs its outer variables in parallel; for every outer point it
 * runs its stages in order, each a loop over inner variables that reduces to row scalars, stores
 * elements, adds to sums over all outer points, or any of these. Element-wise operations, norms, softmax, cross-entropy and optimiser updates
 * all take this one form.
 */
import type { DType } from "./dtype.ts";

/** The types that arithmetic is done in; narrower ones appear only in loads, stores and `round`. */
export type ComputeType = "f32" | "i32" | "u32" | "bool";

export type UnaryOp =
  | "neg"
  | "abs"
  | "floor"
  | "ceil"
  | "round" // to the nearest integer, ties to even
  | "sqrt"
  | "exp"
  | "log"
  | "sin"
  | "cos"
  | "tanh"
  | "not";

export type BinaryOp =
  | "add"
  | "sub"
  | "mul"
  | "div" // integers: truncated; the denominator is never 0 in a generated index
  | "rem" // f32: x − y·trunc(x/y); integers: the sign of x
  | "max" // f32: NaN if either is NaN
  | "min"
  | "and"
  | "or"
  | "xor"
  | "shl"
  | "shr" // u32 logical, i32 arithmetic
  | "lt"
  | "le"
  | "eq"
  | "ne";

/**
 * A value inside a loop. Expressions of one kernel are hash-consed: equal expressions are the same
 * object, so an emitter that remembers what it emitted per stage eliminates common subexpressions.
 */
export type Expr =
  | {
      readonly id: number;
      readonly op: "const";
      readonly type: ComputeType;
      readonly value: number;
    }
  /** The value of an index as i32. */
  | { readonly id: number; readonly op: "index"; readonly type: "i32"; readonly index: Index }
  /** An element of a buffer, widened to its compute type. */
  | {
      readonly id: number;
      readonly op: "load";
      readonly type: ComputeType;
      readonly slot: number;
      readonly index: Index;
    }
  /** The result of a reduction in an earlier stage of the same outer point. */
  | { readonly id: number; readonly op: "acc"; readonly type: ComputeType; readonly acc: number }
  | {
      readonly id: number;
      readonly op: UnaryOp;
      readonly type: ComputeType;
      readonly args: readonly [Expr];
    }
  | {
      readonly id: number;
      readonly op: BinaryOp;
      readonly type: ComputeType;
      readonly args: readonly [Expr, Expr];
    }
  /** args[0] ? args[1] : args[2]; both sides may be evaluated. */
  | {
      readonly id: number;
      readonly op: "where";
      readonly type: ComputeType;
      readonly args: readonly [Expr, Expr, Expr];
    }
  /** Conversion between compute types. f32 → integer truncates and saturates, NaN gives 0. */
  | {
      readonly id: number;
      readonly op: "cast";
      readonly type: ComputeType;
      readonly args: readonly [Expr];
    }
  /** The same bits as another 32-bit compute type. */
  | {
      readonly id: number;
      readonly op: "bitcast";
      readonly type: ComputeType;
      readonly args: readonly [Expr];
    }
  /** Rounds to a narrower dtype and widens again, as a store and a load would. */
  | {
      readonly id: number;
      readonly op: "narrow";
      readonly type: ComputeType;
      readonly to: DType;
      readonly args: readonly [Expr];
    };

/** A part of an index that is not affine: `stride · expr`, where 0 ≤ expr < limit. */
export interface IndexTerm {
  readonly stride: number;
  readonly expr: Expr;
  readonly limit: number;
}

/** offset + Σ strides[v]·var v + Σ terms; in elements. Missing strides are 0. */
export interface Index {
  readonly offset: number;
  readonly strides: readonly number[];
  readonly terms: readonly IndexTerm[];
}

export interface Reduce {
  readonly op: "sum" | "max" | "min";
  readonly value: Expr;
  readonly acc: number;
}

export interface Store {
  readonly slot: number;
  readonly index: Index;
  /** In the compute type of the slot's dtype; the store narrows (round to nearest even, saturating). */
  readonly value: Expr;
}

/**
 * The sum of a stage's value over all outer points, for every inner one; in f32, narrowed where it is
 * stored. Only for backends that ask for it: `Backend.sumsColumns`.
 */
export interface ColumnSum {
  readonly slot: number;
  /** Affine in the stage's inner variables alone. No stage of the kernel loads what is stored there. */
  readonly index: Index;
  readonly value: Expr;
}

/** One pass over `inner` (ids of variables; none: executed once for an outer point). */
export interface Stage {
  readonly inner: readonly number[];
  readonly reduces: readonly Reduce[];
  readonly stores: readonly Store[];
  readonly columnSums: readonly ColumnSum[];
}

export interface LoopKernel {
  readonly kind: "loop";
  /** Extent of every variable. The first `outer` of them are the parallel ones. */
  readonly vars: readonly number[];
  readonly outer: number;
  readonly stages: readonly Stage[];
  /** Dtype of each slot. */
  readonly slots: readonly DType[];
}

/** The type in which values of a dtype are computed with. */
export function computeType(dtype: DType): ComputeType {
  switch (dtype) {
    case "i32":
    case "i8":
      return "i32";
    case "u32":
    case "u8":
      return "u32";
    case "bool":
      return "bool";
    default:
      return "f32";
  }
}

type Bare<T> = T extends { readonly id: number } ? Omit<T, "id"> : never;

/** Makes the expressions and indices of one kernel, sharing equal ones and simplifying indices. */
export class LoopBuilder {
  /** Extents of the variables made so far. */
  readonly vars: number[] = [];
  readonly #seen: Map<string, Expr> = new Map();

  newVar(extent: number): number {
    return this.vars.push(extent) - 1;
  }

  /** The index that equals variable `v`; a variable of extent 1 is the constant 0. */
  variable(v: number): Index {
    if (this.vars[v] === 1) return constantIndex(0);
    const strides = new Array<number>(v + 1).fill(0);
    strides[v] = 1;
    return { offset: 0, strides, terms: [] };
  }

  make(bare: Bare<Expr>): Expr {
    const key = exprKey(bare);
    const known = this.#seen.get(key);
    if (known !== undefined) return known;
    const expr = { id: this.#seen.size, ...bare } as Expr;
    this.#seen.set(key, expr);
    return expr;
  }

  constant(value: number, type: ComputeType): Expr {
    return this.make({ op: "const", type, value });
  }

  unary(op: UnaryOp, x: Expr): Expr {
    return this.make({ op, type: x.type, args: [x] });
  }

  binary(op: BinaryOp, a: Expr, b: Expr): Expr {
    const compares = op === "lt" || op === "le" || op === "eq" || op === "ne";
    return this.make({ op, type: compares ? "bool" : a.type, args: [a, b] });
  }

  where(condition: Expr, a: Expr, b: Expr): Expr {
    return this.make({ op: "where", type: a.type, args: [condition, a, b] });
  }

  /** An expression used as an index: values must lie in [0, limit). */
  indexOf(expr: Expr, limit: number): Index {
    if (expr.op === "index") return expr.index;
    if (expr.op === "const") return constantIndex(expr.value);
    if (limit <= 1) return constantIndex(0);
    return { offset: 0, strides: [], terms: [{ stride: 1, expr, limit }] };
  }

  /** The value of an index. */
  valueOf(index: Index): Expr {
    const constant = index.terms.length === 0 && index.strides.every((s) => s === 0);
    return constant
      ? this.constant(index.offset, "i32")
      : this.make({ op: "index", type: "i32", index });
  }

  /** Smallest and largest value of an index over the whole iteration space. */
  range(index: Index): [number, number] {
    let lo = index.offset;
    let hi = index.offset;
    index.strides.forEach((s, v) => {
      const reach = s * Math.max(0, (this.vars[v] ?? 1) - 1);
      if (reach < 0) lo += reach;
      else hi += reach;
    });
    for (const t of index.terms) {
      const reach = t.stride * (t.limit - 1);
      if (reach < 0) lo += reach;
      else hi += reach;
    }
    return [lo, hi];
  }

  /** Floor quotient and remainder of a non-negative index by n, affine wherever the ranges allow. */
  divide(index: Index, n: number): [Index, Index] {
    if (n === 1) return [index, constantIndex(0)];
    const whole = (stride: number) => stride % n === 0;
    const quotient: Index = {
      offset: Math.floor(index.offset / n),
      strides: index.strides.map((s) => (whole(s) ? s / n : 0)),
      terms: index.terms
        .filter((t) => whole(t.stride))
        .map((t) => ({ ...t, stride: t.stride / n })),
    };
    const rest: Index = {
      offset: index.offset - Math.floor(index.offset / n) * n,
      strides: index.strides.map((s) => (whole(s) ? 0 : s)),
      terms: index.terms.filter((t) => !whole(t.stride)),
    };
    const [lo, hi] = this.range(rest);
    if (lo >= 0 && hi < n) return [quotient, rest];
    // The rest straddles multiples of n. When it may be negative, it cannot be divided alone.
    const [q0, r] = lo >= 0 ? [quotient, rest] : [constantIndex(0), index];
    const [, top] = this.range(r);
    const value = this.valueOf(r);
    const divisor = this.constant(n, "i32");
    const q = this.indexOf(this.binary("div", value, divisor), Math.floor(top / n) + 1);
    return [
      addIndex(q0, q),
      this.indexOf(this.binary("rem", value, divisor), Math.min(n, top + 1)),
    ];
  }
}

export function constantIndex(offset: number): Index {
  return { offset, strides: [], terms: [] };
}

export function addIndex(a: Index, b: Index): Index {
  const n = Math.max(a.strides.length, b.strides.length);
  const strides = Array.from({ length: n }, (_, v) => (a.strides[v] ?? 0) + (b.strides[v] ?? 0));
  const terms = [...a.terms];
  for (const t of b.terms) {
    const same = terms.findIndex((u) => u.expr === t.expr);
    if (same < 0) terms.push(t);
    else terms[same] = { ...t, stride: t.stride + (terms[same] as IndexTerm).stride };
  }
  return recombined({
    offset: a.offset + b.offset,
    strides,
    terms: terms.filter((t) => t.stride !== 0),
  });
}

/**
 * A quotient and a remainder put together again: s·n·⌊x / n⌋ + s·(x mod n) = s·x. This makes reshapes
 * there and back, and of whole tensors, cost nothing.
 */
function recombined(index: Index): Index {
  for (const q of index.terms) {
    const e = q.expr;
    if (e.op !== "div" || e.args[0].op !== "index" || e.args[1].op !== "const") continue;
    const n = e.args[1].value;
    const r = index.terms.find(
      ({ expr, stride }) =>
        expr.op === "rem" &&
        expr.args[0] === e.args[0] &&
        expr.args[1] === e.args[1] &&
        stride * n === q.stride,
    );
    if (r === undefined) continue;
    const others = { ...index, terms: index.terms.filter((t) => t !== q && t !== r) };
    return addIndex(others, scaleIndex(e.args[0].index, r.stride));
  }
  return index;
}

export function scaleIndex(a: Index, by: number): Index {
  if (by === 0) return constantIndex(0);
  return {
    offset: a.offset * by,
    strides: a.strides.map((s) => s * by),
    terms: a.terms.map((t) => ({ ...t, stride: t.stride * by })),
  };
}

export function sameIndex(a: Index, b: Index): boolean {
  return indexKey(a) === indexKey(b);
}

/** A text that is equal for equal indices (of one builder). */
export function indexKey(index: Index): string {
  let key = `${index.offset}`;
  index.strides.forEach((s, v) => {
    if (s !== 0) key += `+${s}v${v}`;
  });
  const terms = index.terms.map((t) => `+${t.stride}e${t.expr.id}`);
  return key + terms.sort().join("");
}

function exprKey(bare: Bare<Expr>): string {
  switch (bare.op) {
    case "const":
      return `c${bare.type}${Object.is(bare.value, -0) ? "-0" : bare.value}`;
    case "index":
      return `i${indexKey(bare.index)}`;
    case "load":
      return `l${bare.slot}:${bare.type}[${indexKey(bare.index)}]`;
    case "acc":
      return `a${bare.acc}`;
    case "narrow":
      return `n${bare.to}(${bare.args[0].id})`;
    default:
      return `${bare.op}:${bare.type}(${bare.args.map((a) => a.id).join()})`;
  }
}
