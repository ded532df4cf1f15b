/**
 * Random loop kernels for tests. Values are small multiples of a quarter and operations on them exact,
 * so that float32 and float64 must agree to the last bit.
 */
import type { BinaryOp, ComputeType, DType, Expr, Index, LoopKernel, Stage } from "@dsv3/tensor";
import { computeType, DTYPES } from "@dsv3/tensor";
import fc from "fast-check";

export interface RandomKernel {
  readonly kernel: LoopKernel;
  readonly slots: readonly { readonly dtype: DType; readonly elements: number }[];
  readonly writes: readonly number[];
  /** For slots used as indices, the values' limit. */
  readonly limits: readonly (number | undefined)[];
}

const EXTENTS = [1, 2, 3, 4, 5, 7, 8, 12, 17, 33];

/** @param pick gives a random element: fast-check's generator, so that failures shrink. */
export function randomKernel(g: fc.GeneratorValue): RandomKernel {
  const pick = <T>(choices: readonly T[]): T => choices[g(fc.nat, choices.length - 1)] as T;
  const chance = (percent: number) => g(fc.nat, 99) < percent;
  const vars: number[] = [];
  const slots: { dtype: DType; elements: number }[] = [];
  const limits: (number | undefined)[] = [];
  const writes: number[] = [];
  const exprs = new Map<string, Expr>();
  const make = (bare: object): Expr => {
    const key = JSON.stringify(bare, (name, x) =>
      name === "args"
        ? x.map((e: Expr) => e.id)
        : name === "expr"
          ? x.id
          : Object.is(x, -0)
            ? "-0"
            : x,
    );
    const known = exprs.get(key) ?? ({ id: exprs.size, ...bare } as Expr);
    exprs.set(key, known);
    return known;
  };
  const variable = () => vars.push(pick(EXTENTS)) - 1;

  /** Row-major over some of the variables, in any order, perhaps reversed or with gaps. */
  const index = (scope: readonly number[], whole: boolean): [Index, elements: number] => {
    let order = whole ? [...scope] : scope.filter(() => chance(75));
    if (chance(30)) order = order.reverse();
    const strides = vars.map(() => 0);
    let size = chance(15) ? 2 : 1;
    let offset = 0;
    for (const v of [...order].reverse()) {
      const extent = vars[v] as number;
      const backwards = chance(10);
      strides[v] = backwards ? -size : size;
      if (backwards) offset += size * (extent - 1);
      size *= extent;
    }
    const shift = chance(20) ? 3 : 0;
    return [{ offset: offset + shift, strides, terms: [] }, size + shift];
  };

  const load = (scope: readonly number[], type: ComputeType): Expr => {
    const dtype = pick(DTYPES.filter((d) => computeType(d) === type));
    let [at, elements] = index(scope, false);
    if (chance(20)) {
      const limit = pick([1, 3, 6]);
      const [idsAt, ids] = index(scope, false);
      const slot = slots.push({ dtype: "i32", elements: ids }) - 1;
      limits[slot] = limit;
      const expr = make({ op: "load", type: "i32", slot, index: idsAt });
      const stride = pick([1, elements]);
      at = { ...at, terms: [{ stride, expr, limit }] };
      elements += stride * (limit - 1);
    }
    const slot = slots.push({ dtype, elements }) - 1;
    return make({ op: "load", type, slot, index: at });
  };

  const types: readonly ComputeType[] = ["f32", "i32", "u32", "bool"];
  const expression = (
    scope: readonly number[],
    type: ComputeType,
    depth: number,
    accs: readonly Expr[],
  ): Expr => {
    const sub = (t: ComputeType = type) => expression(scope, t, depth - 1, accs);
    const binary = (op: BinaryOp, a: Expr, b: Expr) => {
      const compares = op === "lt" || op === "le" || op === "eq" || op === "ne";
      return make({ op, type: compares ? "bool" : a.type, args: [a, b] });
    };
    if (depth === 0) {
      const acc = accs.filter((a) => a.type === type);
      if (acc.length > 0 && chance(40)) return pick(acc);
      if (chance(75)) return load(scope, type);
      if (type === "i32" && chance(50))
        return make({ op: "index", type, index: index(scope, false)[0] });
      return make({
        op: "const",
        type,
        value: type === "bool" ? pick([0, 1]) : pick([0, 1, 2, 3]),
      });
    }
    const kind = g(fc.nat, 9);
    if (kind === 0) return make({ op: "where", type, args: [sub("bool"), sub(), sub()] });
    if (kind === 1) {
      const from = pick(types);
      if (from === type) return sub();
      const integer = from === "i32" || from === "u32";
      const fifteen = make({ op: "const", type: from, value: 15 }); // keeps floats exact
      const x = integer && type === "f32" ? binary("and", sub(from), fifteen) : sub(from);
      return make({ op: "cast", type, args: [x] });
    }
    if (type === "bool") {
      if (kind < 4) return make({ op: "not", type, args: [sub()] });
      if (kind < 6) return binary(pick(["and", "or", "xor"] as const), sub(), sub());
      const of = pick(["f32", "i32", "u32"] as const);
      return binary(pick(["lt", "le", "eq", "ne"] as const), sub(of), sub(of));
    }
    if (type === "f32") {
      if (kind === 2)
        return make({
          op: pick(["neg", "abs", "floor", "ceil", "round"] as const),
          type,
          args: [sub()],
        });
      if (kind === 3) {
        const to = pick(["bf16", "f16", "f8e4m3", "f8e5m2"] as const);
        return make({ op: "narrow", type, to, args: [sub()] });
      }
      if (kind === 4 && depth === 1 && accs.length === 0) return binary("mul", sub(), sub());
      return binary(pick(["add", "sub", "max", "min"] as const), sub(), sub());
    }
    if (kind === 2)
      return binary(
        pick(["shl", "shr"] as const),
        sub(),
        make({ op: "const", type, value: pick([0, 1, 5]) }),
      );
    if (kind === 3)
      return binary(
        pick(["div", "rem"] as const),
        sub(),
        pick([sub(), make({ op: "const", type, value: 3 })]),
      );
    if (kind === 4 && type === "i32")
      return make({ op: pick(["neg", "abs"] as const), type, args: [sub()] });
    return binary(
      pick(["add", "sub", "mul", "max", "min", "and", "or", "xor"] as const),
      sub(),
      sub(),
    );
  };

  const outer = g(fc.nat, 3);
  for (let v = 0; v < outer; v++) variable();
  const outerVars = vars.map((_, v) => v);
  const accs: Expr[] = [];
  const stages: Stage[] = [];
  const count = 1 + g(fc.nat, 2);
  for (let s = 0; s < count; s++) {
    const inner = Array.from({ length: g(fc.nat, 2) }, variable);
    const scope = [...outerVars, ...inner];
    const value = () => expression(scope, pick(types), g(fc.nat, 3), accs);
    const stores = Array.from({ length: s === count - 1 ? 1 : g(fc.nat, 1) }, () => {
      const x = value();
      const dtype = pick(DTYPES.filter((d) => computeType(d) === x.type));
      const [at, elements] = index(scope, true);
      const slot = slots.push({ dtype, elements }) - 1;
      writes.push(slot);
      return { slot, index: at, value: x };
    });
    // Sums of sums would need more bits than a float has.
    const sums = accs.length === 0;
    const reduces = Array.from({ length: g(fc.nat, 2) }, (_, i) => {
      const type = pick(["f32", "i32", "u32"] as const);
      const op = pick(type === "f32" && !sums ? ["max", "min"] : ["sum", "max", "min"]);
      const reduced = expression(scope, type, g(fc.nat, 2), accs);
      return { op: op as "sum", value: reduced, acc: accs.length + i };
    });
    stages.push({ inner, reduces, stores, columnSums: [] });
    for (const { value: x, acc } of reduces) accs.push(make({ op: "acc", type: x.type, acc }));
  }
  return {
    kernel: { kind: "loop", vars, outer, stages, slots: slots.map((s) => s.dtype) },
    slots,
    writes,
    limits,
  };
}
