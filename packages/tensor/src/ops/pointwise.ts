/** Element-wise operations: one row of a table each, with its derivative. */
import { type DType, isFloat } from "../dtype.ts";
import { type BinaryOp, computeType, type Expr, type LoopBuilder, type UnaryOp } from "../loop.ts";
import { describe } from "../spec.ts";
import type { Tensor } from "../tensor.ts";
import { full } from "./create.ts";
import { apply1, define } from "./registry.ts";
import { broadcastShapes, broadcastTo } from "./shape.ts";

/** A tensor, or a number that takes the other operand's dtype. */
export type Operand = Tensor | number;

/** Rounds what a compute-type operation gave for a dtype narrower than it. */
function narrowed(b: LoopBuilder, x: Expr, dtype: DType): Expr {
  const exact = dtype === "f32" || dtype === "i32" || dtype === "u32" || dtype === "bool";
  return exact ? x : b.make({ op: "narrow", type: x.type, to: dtype, args: [x] });
}

type UnaryGrad = (g: Tensor, x: Tensor, y: Tensor) => Tensor | null;

const UNARY: Record<UnaryOp, { cost: number; grad: UnaryGrad }> = {
  neg: { cost: 1, grad: (g) => neg(g) },
  abs: { cost: 1, grad: (g, x) => where(lt(x, 0), neg(g), g) },
  floor: { cost: 1, grad: () => null },
  ceil: { cost: 1, grad: () => null },
  round: { cost: 1, grad: () => null },
  sqrt: { cost: 4, grad: (g, _, y) => div(g, mul(y, 2)) },
  exp: { cost: 10, grad: (g, _, y) => mul(g, y) },
  log: { cost: 12, grad: (g, x) => div(g, x) },
  sin: { cost: 15, grad: (g, x) => mul(g, cos(x)) },
  cos: { cost: 15, grad: (g, x) => neg(mul(g, sin(x))) },
  tanh: { cost: 15, grad: (g, _, y) => mul(g, sub(1, mul(y, y))) },
  not: { cost: 1, grad: () => null },
};

const INTEGER_UNARY = new Set<string>(["neg", "abs"]);

for (const [op, { cost, grad }] of Object.entries(UNARY)) {
  define(op, {
    cost,
    infer([x]) {
      const t = x as Tensor;
      const fits =
        op === "not"
          ? t.dtype === "bool" || !isFloat(t.dtype)
          : isFloat(t.dtype) || (INTEGER_UNARY.has(op) && t.dtype !== "bool");
      if (!fits) throw new Error(`${op} is not defined for ${describe(t)}; cast() it first`);
      return [t];
    },
    grad: (node, [g]) => [g ? grad(g, node.inputs[0] as Tensor, node.outputs[0] as Tensor) : null],
    emit({ b, at }, node, index) {
      const x = node.inputs[0] as Tensor;
      return narrowed(b, b.unary(op as UnaryOp, at(x, index)), x.dtype);
    },
  });
}

type BinaryGrad = (g: Tensor, a: Tensor, b: Tensor, y: Tensor) => [Tensor | null, Tensor | null];
const none: BinaryGrad = () => [null, null];

/** The derivative of max and min goes to the operand that was taken, half to each of equal ones. */
const taken: BinaryGrad = (g, a, b, y) => {
  const half = where(eq(a, b), 0.5, 1);
  const share = mul(g, cast(half, g.dtype));
  return [where(eq(a, y), share, 0), where(eq(b, y), share, 0)];
};

const BINARY: Record<BinaryOp, { cost: number; grad: BinaryGrad }> = {
  add: { cost: 1, grad: (g) => [g, g] },
  sub: { cost: 1, grad: (g) => [g, neg(g)] },
  mul: { cost: 1, grad: (g, a, b) => [mul(g, b), mul(g, a)] },
  div: { cost: 4, grad: (g, _, b, y) => [div(g, b), neg(div(mul(g, y), b))] },
  rem: {
    cost: 6,
    grad: (g, a, b) => [g, neg(mul(g, truncated(div(a, b))))],
  },
  max: { cost: 1, grad: taken },
  min: { cost: 1, grad: taken },
  and: { cost: 1, grad: none },
  or: { cost: 1, grad: none },
  xor: { cost: 1, grad: none },
  shl: { cost: 1, grad: none },
  shr: { cost: 1, grad: none },
  lt: { cost: 1, grad: none },
  le: { cost: 1, grad: none },
  eq: { cost: 1, grad: none },
  ne: { cost: 1, grad: none },
};

const truncated = (x: Tensor): Tensor => where(lt(x, 0), ceil(x), floor(x));
const COMPARES = new Set<string>(["lt", "le", "eq", "ne"]);
const BITWISE = new Set<string>(["and", "or", "xor", "shl", "shr"]);

for (const [op, { cost, grad }] of Object.entries(BINARY)) {
  define(op, {
    cost,
    infer([a, b]) {
      const [x, y] = [a as Tensor, b as Tensor];
      if (x.dtype !== y.dtype) {
        throw new Error(
          `${op} needs operands of one dtype, got ${describe(x)} and ${describe(y)}; cast() one of them`,
        );
      }
      if (BITWISE.has(op) ? isFloat(x.dtype) : x.dtype === "bool" && !COMPARES.has(op)) {
        throw new Error(`${op} is not defined for ${describe(x)}; cast() it first`);
      }
      return [{ shape: x.shape, dtype: COMPARES.has(op) ? "bool" : x.dtype }];
    },
    grad(node, [g]) {
      const [a, b] = node.inputs as [Tensor, Tensor];
      return g ? grad(g, a, b, node.outputs[0] as Tensor) : [null, null];
    },
    emit({ b, at }, node, index) {
      const [x, y] = node.inputs as [Tensor, Tensor];
      const out = node.outputs[0] as Tensor;
      return narrowed(b, b.binary(op as BinaryOp, at(x, index), at(y, index)), out.dtype);
    },
  });
}

define("where", {
  cost: 1,
  infer([c, a, b]) {
    const [cond, x, y] = [c as Tensor, a as Tensor, b as Tensor];
    if (cond.dtype !== "bool" || x.dtype !== y.dtype) {
      throw new Error(
        `where needs a bool condition and two operands of one dtype, got ${describe(cond)}, ${describe(x)}, ${describe(y)}`,
      );
    }
    return [x];
  },
  grad(node, [g]) {
    const c = node.inputs[0] as Tensor;
    return g ? [null, where(c, g, 0), where(c, 0, g)] : [null, null, null];
  },
  emit({ b, at }, node, index) {
    const [c, x, y] = node.inputs as [Tensor, Tensor, Tensor];
    return b.where(at(c, index), at(x, index), at(y, index));
  },
});

define("cast", {
  cost: 1,
  infer: ([x], attrs) => [{ shape: (x as Tensor).shape, dtype: attrs.dtype as DType }],
  grad(node, [g]) {
    const from = (node.inputs[0] as Tensor).dtype;
    return [g && isFloat(from) ? cast(g, from) : null];
  },
  emit({ b, at }, node, index) {
    const dtype = (node.outputs[0] as Tensor).dtype;
    const x = at(node.inputs[0] as Tensor, index);
    const type = computeType(dtype);
    if (type === x.type) return narrowed(b, x, dtype);
    // To integers narrower than 32 bits a float rounds to nearest, as the stored formats define.
    const whole = x.type === "f32" && (dtype === "i8" || dtype === "u8") ? b.unary("round", x) : x;
    return narrowed(b, b.make({ op: "cast", type, args: [whole] }), dtype);
  },
});

define("bitcast", {
  cost: 0,
  infer([x], attrs) {
    const t = x as Tensor;
    const dtype = attrs.dtype as DType;
    const words = ["f32", "i32", "u32"];
    if (!words.includes(t.dtype) || !words.includes(dtype)) {
      throw new Error(`bitcast goes between f32, i32 and u32, got ${describe(t)} to ${dtype}`);
    }
    return [{ shape: t.shape, dtype }];
  },
  emit({ b, at }, node, index) {
    const type = computeType((node.outputs[0] as Tensor).dtype);
    return b.make({ op: "bitcast", type, args: [at(node.inputs[0] as Tensor, index)] });
  },
});

function pair(a: Operand, b: Operand): [Tensor, Tensor] {
  if (typeof a === "number") {
    if (typeof b === "number") throw new Error("one operand at least must be a tensor");
    return [full(b.shape, a, b.dtype), b];
  }
  if (typeof b === "number") return [a, full(a.shape, b, a.dtype)];
  const shape = broadcastShapes(a.shape, b.shape);
  return [broadcastTo(a, shape), broadcastTo(b, shape)];
}

const binary =
  (op: BinaryOp) =>
  (a: Operand, b: Operand): Tensor =>
    apply1(op, pair(a, b));
const unary =
  (op: UnaryOp) =>
  (x: Tensor): Tensor =>
    apply1(op, [x]);

export const add: (a: Operand, b: Operand) => Tensor = binary("add");
export const sub: (a: Operand, b: Operand) => Tensor = binary("sub");
export const mul: (a: Operand, b: Operand) => Tensor = binary("mul");
/** Integers: truncated towards zero; division by 0 is undefined. */
export const div: (a: Operand, b: Operand) => Tensor = binary("div");
/** The remainder with the sign of the dividend. */
export const rem: (a: Operand, b: Operand) => Tensor = binary("rem");
/** The larger of the two; NaN if either is. */
export const maximum: (a: Operand, b: Operand) => Tensor = binary("max");
export const minimum: (a: Operand, b: Operand) => Tensor = binary("min");
export const and: (a: Operand, b: Operand) => Tensor = binary("and");
export const or: (a: Operand, b: Operand) => Tensor = binary("or");
export const xor: (a: Operand, b: Operand) => Tensor = binary("xor");
export const shl: (a: Operand, b: Operand) => Tensor = binary("shl");
/** Arithmetic for i32, logical for u32. */
export const shr: (a: Operand, b: Operand) => Tensor = binary("shr");
export const lt: (a: Operand, b: Operand) => Tensor = binary("lt");
export const le: (a: Operand, b: Operand) => Tensor = binary("le");
export const gt = (a: Operand, b: Operand): Tensor => lt(b, a);
export const ge = (a: Operand, b: Operand): Tensor => le(b, a);
export const eq: (a: Operand, b: Operand) => Tensor = binary("eq");
export const ne: (a: Operand, b: Operand) => Tensor = binary("ne");

export const neg: (x: Tensor) => Tensor = unary("neg");
export const abs: (x: Tensor) => Tensor = unary("abs");
export const floor: (x: Tensor) => Tensor = unary("floor");
export const ceil: (x: Tensor) => Tensor = unary("ceil");
/** To the nearest integer, ties to even. */
export const round: (x: Tensor) => Tensor = unary("round");
export const sqrt: (x: Tensor) => Tensor = unary("sqrt");
export const exp: (x: Tensor) => Tensor = unary("exp");
export const log: (x: Tensor) => Tensor = unary("log");
export const sin: (x: Tensor) => Tensor = unary("sin");
export const cos: (x: Tensor) => Tensor = unary("cos");
export const tanh: (x: Tensor) => Tensor = unary("tanh");
/** Bitwise for integers, logical for bool. */
export const not: (x: Tensor) => Tensor = unary("not");

export const square = (x: Tensor): Tensor => mul(x, x);
/** 1 / √x */
export const rsqrt = (x: Tensor): Tensor => div(1, sqrt(x));
/** 1 / (1 + e^−x) */
export const sigmoid = (x: Tensor): Tensor => div(1, add(exp(neg(x)), 1));
/** x · sigmoid(x) */
export const silu = (x: Tensor): Tensor => mul(x, sigmoid(x));

/** condition ? a : b, element by element. */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  const dtype = typeof a === "number" ? (typeof b === "number" ? "f32" : b.dtype) : a.dtype;
  const x = typeof a === "number" ? full([], a, dtype) : a;
  const y = typeof b === "number" ? full([], b, dtype) : b;
  const shape = broadcastShapes(broadcastShapes(condition.shape, x.shape), y.shape);
  return apply1("where", [
    broadcastTo(condition, shape),
    broadcastTo(x, shape),
    broadcastTo(y, shape),
  ]);
}

/** Conversion to another dtype: to nearest even among floats; floats to i32 and u32 truncate. */
export function cast(x: Tensor, dtype: DType): Tensor {
  return x.dtype === dtype ? x : apply1("cast", [x], { dtype });
}

/** The same 32 bits read as another dtype. */
export function bitcast(x: Tensor, dtype: "f32" | "i32" | "u32"): Tensor {
  return x.dtype === dtype ? x : apply1("bitcast", [x], { dtype });
}
