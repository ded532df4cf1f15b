/** The operations of the expression language on vectors of four lanes. */
import type { BinaryOp, ComputeType, Expr, UnaryOp } from "@dsv3/tensor";
import type { DType } from "@dsv3/tensor/dtype";
import { type Func, f32x4, i8x16, i32, i32x4, i64, select, type Value, v128 } from "../asm.ts";
import { decode, encode } from "../convert.ts";
import type { Target } from "../kernel.ts";
import { cos, exp, log, sin, tanh } from "./math.ts";

type V = Value<"v128">;

export function constantVector(type: ComputeType, value: number): V {
  if (type === "f32") return f32x4.const(value);
  return i32x4.const(type === "bool" ? (value ? -1 : 0) : value);
}

export function unary(f: Func, target: Target, op: UnaryOp, type: ComputeType, x: V): V {
  const float = type === "f32";
  switch (op) {
    case "neg":
      return float ? f32x4.neg(x) : i32x4.neg(x);
    case "abs":
      return float ? f32x4.abs(x) : type === "i32" ? i32x4.abs(x) : x;
    case "not":
      return v128.not(x);
    case "floor":
      return float ? f32x4.floor(x) : x;
    case "ceil":
      return float ? f32x4.ceil(x) : x;
    case "round":
      return float ? f32x4.nearest(x) : x;
    case "sqrt":
      return f32x4.sqrt(x);
    case "exp":
      return exp(f, target, x);
    case "log":
      return log(f, target, x);
    case "sin":
      return sin(f, x);
    case "cos":
      return cos(f, x);
    case "tanh":
      return tanh(f, target, x);
  }
}

type Lanewise = (a: V, b: V) => V;

const FLOAT: Partial<Record<BinaryOp, Lanewise>> = {
  add: f32x4.add,
  sub: f32x4.sub,
  mul: f32x4.mul,
  div: f32x4.div,
  max: f32x4.max,
  min: f32x4.min,
  lt: f32x4.lt,
  le: f32x4.le,
  eq: f32x4.eq,
  ne: f32x4.ne,
};

const SIGNED: Partial<Record<BinaryOp, Lanewise>> = {
  add: i32x4.add,
  sub: i32x4.sub,
  mul: i32x4.mul,
  max: i32x4.maxS,
  min: i32x4.minS,
  and: v128.and,
  or: v128.or,
  xor: v128.xor,
  lt: i32x4.ltS,
  le: i32x4.leS,
  eq: i32x4.eq,
  ne: i32x4.ne,
};

const UNSIGNED: Partial<Record<BinaryOp, Lanewise>> = {
  ...SIGNED,
  max: i32x4.maxU,
  min: i32x4.minU,
  lt: i32x4.ltU,
  le: i32x4.leU,
};

/** On masks: true is all ones, −1, hence greater means false. */
const BOOL: Partial<Record<BinaryOp, Lanewise>> = {
  and: v128.and,
  mul: v128.and,
  min: v128.and,
  or: v128.or,
  add: v128.or,
  max: v128.or,
  xor: v128.xor,
  ne: v128.xor,
  eq: i32x4.eq,
  lt: (a, b) => v128.andnot(b, a),
  le: (a, b) => v128.or(b, v128.not(a)),
};

const TABLES = { f32: FLOAT, i32: SIGNED, u32: UNSIGNED, bool: BOOL };

/** @param uniform all lanes of both are equal */
export function binary(
  f: Func,
  op: BinaryOp,
  type: ComputeType,
  args: readonly [Expr, Expr],
  a: V,
  b: V,
  uniform: boolean,
): V {
  const simple = TABLES[type][op];
  if (simple) return simple(a, b);
  if (type === "f32" && op === "rem") {
    const [x, y] = [f.keep(a), f.keep(b)];
    return f32x4.sub(x, f32x4.mul(y, f32x4.trunc(f32x4.div(x, y))));
  }
  if (type === "i32" || type === "u32") {
    if (op === "shl" || op === "shr") return shift(f, op, type, args[1], a, b, uniform);
    if (op === "div" || op === "rem") return divide(f, op, type, args[1], a, b, uniform);
  }
  throw new Error(`no operation ${op} on ${type}`);
}

/** Calls `one` for each lane, or once for all. */
function perLane(
  f: Func,
  uniform: boolean,
  a: V,
  b: V,
  one: (x: Value<"i32">, y: Value<"i32">) => Value<"i32">,
): V {
  const [x, y] = [f.keep(a), f.keep(b)];
  const lane = (l: number) => one(i32x4.extractLane(x, l), i32x4.extractLane(y, l));
  const first = i32x4.splat(lane(0));
  return uniform ? first : [1, 2, 3].reduce((v, l) => i32x4.replaceLane(v, l, lane(l)), first);
}

function shift(
  f: Func,
  op: "shl" | "shr",
  type: "i32" | "u32",
  count: Expr,
  a: V,
  b: V,
  uniform: boolean,
): V {
  const vector = op === "shl" ? i32x4.shl : type === "i32" ? i32x4.shrS : i32x4.shrU;
  if (count.op === "const") return vector(a, count.value);
  if (uniform) return vector(a, i32x4.extractLane(b, 0));
  return perLane(f, false, a, b, op === "shl" ? i32.shl : type === "i32" ? i32.shrS : i32.shrU);
}

/** Integer division; by zero it gives 0, and the smallest i32 by −1 itself. */
function divide(
  f: Func,
  op: "div" | "rem",
  type: "i32" | "u32",
  divisor: Expr,
  a: V,
  b: V,
  uniform: boolean,
): V {
  const signed = type === "i32";
  const known = divisor.op === "const" ? divisor.value : undefined;
  if (known !== undefined && known > 0 && known < 2 ** 31) {
    const narrow = { div: [i32.divU, i32.divS], rem: [i32.remU, i32.remS] }[op][signed ? 1 : 0];
    return perLane(f, uniform, a, b, (x) => narrow!(x, known));
  }
  const wide = { div: [i64.divU, i64.divS], rem: [i64.remU, i64.remS] }[op][signed ? 1 : 0];
  const extend = signed ? i64.extendI32S : i64.extendI32U;
  return perLane(f, uniform, a, b, (x, y) => {
    const safe = select(i32.const(1), y, i32.eqz(y));
    return select(i32.const(0), i32.wrapI64(wide!(extend(x), extend(safe))), i32.eqz(y));
  });
}

export function cast(from: ComputeType, to: ComputeType, x: V): V {
  if (from === to) return x;
  if (to === "bool")
    return from === "f32" ? f32x4.ne(x, f32x4.const(0)) : i32x4.ne(x, i32x4.const(0));
  if (from === "bool") return v128.and(x, to === "f32" ? f32x4.const(1) : i32x4.const(1));
  if (to === "f32") return from === "i32" ? f32x4.convertI32x4S(x) : f32x4.convertI32x4U(x);
  if (from === "f32") return to === "i32" ? i32x4.truncSatF32x4S(x) : i32x4.truncSatF32x4U(x);
  return x; // i32 and u32 share their bits
}

/** Rounds to a dtype, as a store and a load would. */
export function narrow(f: Func, to: DType, type: ComputeType, x: V): V {
  const integer = to === "i8" || to === "u8" || to === "i32" || to === "u32";
  if (type === "f32" && integer) {
    const signed = to === "i8" || to === "i32";
    const rounded = cast("f32", signed ? "i32" : "u32", f32x4.nearest(x));
    return cast(signed ? "i32" : "u32", "f32", encode(f, to, rounded));
  }
  return decode(f, to, encode(f, to, x));
}

/** Value of a reduction over nothing. */
export function identity(op: "sum" | "max" | "min", type: ComputeType): V {
  const ends = {
    f32: [-Infinity, Infinity],
    i32: [-(2 ** 31), 2 ** 31 - 1],
    u32: [0, -1],
    bool: [0, 1],
  }[type] as [number, number];
  return constantVector(type, op === "sum" ? 0 : op === "max" ? ends[0] : ends[1]);
}

export function combine(op: "sum" | "max" | "min", type: ComputeType, a: V, b: V): V {
  return (TABLES[type][op === "sum" ? "add" : op] as Lanewise)(a, b);
}

/** The four lanes combined, in every lane. */
export function across(f: Func, op: "sum" | "max" | "min", type: ComputeType, x: V): V {
  const a = f.keep(x);
  const halves = i8x16.shuffle(a, a, [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7]);
  const b = f.keep(combine(op, type, a, halves));
  const pairs = i8x16.shuffle(b, b, [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11]);
  return combine(op, type, b, pairs);
}
