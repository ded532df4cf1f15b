/** One operation of the loop language as a CUDA C++ expression. */
import type { ComputeType, DType, Expr } from "../contract.ts";

/** What a dtype is stored as. */
export function storageType(dtype: DType): string {
  return dtype === "bool" ? "u8" : dtype;
}

/** A stored element, widened to its compute type. */
export function widen(x: string, dtype: DType): string {
  switch (dtype) {
    case "f32":
    case "i32":
    case "u32":
      return x;
    case "i8":
      return `(i32)${x}`;
    case "u8":
      return `(u32)${x}`;
    case "bool":
      return `(${x} != 0)`;
    default:
      return `to_f32(${x})`;
  }
}

/** A value of the dtype's compute type, as it is stored: to nearest even, saturating. */
export function narrow(x: string, dtype: DType): string {
  switch (dtype) {
    case "f32":
    case "i32":
    case "u32":
      return x;
    case "i8":
      return `(i8)min(max(${x}, -128), 127)`;
    case "u8":
      return `(u8)min(${x}, 255u)`;
    case "bool":
      return `(u8)(${x} ? 1 : 0)`;
    default:
      return `from_f32<${dtype}>(${x})`;
  }
}

export function constant(value: number, type: ComputeType): string {
  switch (type) {
    case "f32": {
      if (Number.isNaN(value)) return "NAN";
      if (!Number.isFinite(value)) return value > 0 ? "INF" : "(-INF)";
      const bits = new Uint32Array(Float32Array.of(value).buffer)[0] as number;
      return Number.isInteger(value) && Math.abs(value) < 2 ** 24 && !Object.is(value, -0)
        ? `${value < 0 ? `(${value}.0f)` : `${value}.0f`}`
        : `__uint_as_float(0x${bits.toString(16)}u)`;
    }
    case "bool":
      return value ? "true" : "false";
    case "u32":
      return `${value >>> 0}u`;
    default:
      return (value | 0) < 0 ? `(i32)${value >>> 0}u` : `${value | 0}`;
  }
}

/** Identity of a reduction. */
export function identity(op: "sum" | "max" | "min", type: ComputeType): string {
  if (op === "sum") return constant(0, type);
  const largest = { f32: Infinity, i32: 2 ** 31 - 1, u32: 2 ** 32 - 1, bool: 1 }[type];
  const smallest = { f32: -Infinity, i32: -(2 ** 31), u32: 0, bool: 0 }[type];
  return constant(op === "max" ? smallest : largest, type);
}

/** a ⊕ b for a reduction. */
export function combine(
  op: "sum" | "max" | "min",
  type: ComputeType,
  a: string,
  b: string,
): string {
  if (type === "bool") return op === "min" ? `(${a} && ${b})` : `(${a} || ${b})`;
  return binary(op === "sum" ? "add" : op, type, a, b);
}

type Operation = Exclude<Expr, { op: "const" | "index" | "load" | "acc" }>;

export function operation(e: Operation, args: readonly string[]): string {
  const [a = "", b = "", c = ""] = args;
  const from = e.args[0].type;
  switch (e.op) {
    case "where":
      return `${a} ? ${b} : ${c}`;
    case "cast":
      return cast(a, from, e.type);
    case "bitcast":
      return bitcast(a, from, e.type);
    case "narrow":
      return widen(narrow(a, e.to), e.to);
    case "neg":
      return e.type === "f32" ? `-${a}` : wrap(e.type, `0u - (u32)${a}`);
    case "abs":
      return e.type === "f32"
        ? `fabsf(${a})`
        : e.type === "i32"
          ? wrap("i32", `${a} < 0 ? 0u - (u32)${a} : (u32)${a}`)
          : a;
    case "floor":
      return `floorf(${a})`;
    case "ceil":
      return `ceilf(${a})`;
    case "round":
      return `rintf(${a})`;
    case "sqrt":
    case "exp":
    case "log":
    case "sin":
    case "cos":
    case "tanh":
      return `${e.op}f(${a})`;
    case "not":
      return e.type === "bool" ? `!${a}` : `~${a}`;
    default:
      return binary(e.op, from, a, b);
  }
}

function binary(op: string, type: ComputeType, a: string, b: string): string {
  const symbol = SYMBOLS[op];
  if (op === "max" || op === "min") {
    return type === "f32" ? `${op}_nan(${a}, ${b})` : `${op}(${a}, ${b})`;
  }
  if (op === "rem" && type === "f32") return `fmodf(${a}, ${b})`;
  // Shift counts are taken modulo 32, as everywhere else; signed overflow wraps around.
  if (op === "shl") return wrap(type, `(u32)${a} << ((u32)${b} & 31u)`);
  if (op === "shr") return `${a} >> ((u32)${b} & 31u)`;
  if (type === "i32" && (op === "add" || op === "sub" || op === "mul")) {
    return wrap("i32", `(u32)${a} ${symbol} (u32)${b}`);
  }
  if (type === "bool" && (op === "and" || op === "or" || op === "xor")) {
    return `(bool)(${a} ${symbol} ${b})`;
  }
  return `${a} ${symbol} ${b}`;
}

const SYMBOLS: Readonly<Record<string, string>> = {
  add: "+",
  sub: "-",
  mul: "*",
  div: "/",
  rem: "%",
  and: "&",
  or: "|",
  xor: "^",
  lt: "<",
  le: "<=",
  eq: "==",
  ne: "!=",
};

function wrap(type: ComputeType, code: string): string {
  return type === "i32" ? `(i32)(${code})` : code;
}

function cast(x: string, from: ComputeType, to: ComputeType): string {
  if (from === to) return x;
  if (to === "bool") return `(${x} != ${from === "f32" ? "0.0f" : "0"})`;
  if (from === "bool") return `(${x} ? ${constant(1, to)} : ${constant(0, to)})`;
  // The device's conversions saturate and turn NaN into 0; C++'s own casts promise neither.
  if (from === "f32") return to === "i32" ? `__float2int_rz(${x})` : `__float2uint_rz(${x})`;
  if (to === "f32") return from === "i32" ? `__int2float_rn(${x})` : `__uint2float_rn(${x})`;
  return `(${to})${x}`;
}

function bitcast(x: string, from: ComputeType, to: ComputeType): string {
  if (from === to) return x;
  if (from === "f32") return to === "i32" ? `__float_as_int(${x})` : `__float_as_uint(${x})`;
  if (to === "f32") return from === "i32" ? `__int_as_float(${x})` : `__uint_as_float(${x})`;
  return `(${to})${x}`;
}
