/** Loop kernels as JavaScript source: short, and slow only by the standards of the other backends. */
import { type DType, roundTo } from "../dtype.ts";
import type { Expr, Index, LoopKernel } from "../loop.ts";
import type { Slot } from "./reference-backend.ts";

const UNARY: Readonly<Record<string, (x: string) => string>> = {
  neg: (x) => `-${x}`,
  abs: (x) => `Math.abs(${x})`,
  floor: (x) => `Math.floor(${x})`,
  ceil: (x) => `Math.ceil(${x})`,
  round: (x) => `roundEven(${x})`,
  sqrt: (x) => `Math.sqrt(${x})`,
  exp: (x) => `Math.exp(${x})`,
  log: (x) => `Math.log(${x})`,
  sin: (x) => `Math.sin(${x})`,
  cos: (x) => `Math.cos(${x})`,
  tanh: (x) => `Math.tanh(${x})`,
};

const FLOAT: Readonly<Record<string, (a: string, b: string) => string>> = {
  add: (a, b) => `${a} + ${b}`,
  sub: (a, b) => `${a} - ${b}`,
  mul: (a, b) => `${a} * ${b}`,
  div: (a, b) => `${a} / ${b}`,
  rem: (a, b) => `${a} % ${b}`,
  max: (a, b) => `Math.max(${a}, ${b})`,
  min: (a, b) => `Math.min(${a}, ${b})`,
  and: (a, b) => `${a} & ${b}`,
  or: (a, b) => `${a} | ${b}`,
  xor: (a, b) => `${a} ^ ${b}`,
  shl: (a, b) => `${a} << ${b}`,
  shr: (a, b) => `${a} >> ${b}`,
  lt: (a, b) => `+(${a} < ${b})`,
  le: (a, b) => `+(${a} <= ${b})`,
  eq: (a, b) => `+(${a} === ${b})`,
  ne: (a, b) => `+(${a} !== ${b})`,
};

/** A function that runs the kernel over the values of its slots. */
export function compileLoop(kernel: LoopKernel): (slots: readonly Slot[]) => void {
  const source = emit(kernel);
  const fn = new Function("slots", "roundEven", "roundTo", "bits", "saturate", source);
  return (slots) => fn(slots, roundEven, roundTo, bits, saturate);
}

function emit(kernel: LoopKernel): string {
  const lines: string[] = kernel.slots.map((_, s) => `const s${s} = slots[${s}].values;`);
  const loop = (vars: readonly number[], body: () => void) => {
    lines.push("{"); // also without variables: names are declared inside
    for (const v of vars) lines.push(`for (let v${v} = 0; v${v} < ${kernel.vars[v]}; v${v}++) {`);
    body();
    for (const _ of [0, ...vars]) lines.push("}");
  };
  const outer = kernel.vars.map((_, v) => v).slice(0, kernel.outer);
  const names = new Map<Expr, string>();
  const value = (e: Expr): string => {
    let name = names.get(e);
    if (name === undefined) {
      const code = expression(e, value);
      name = `e${e.id}`;
      lines.push(`const ${name} = ${code};`);
      names.set(e, name);
    }
    return name;
  };
  const index = (ix: Index) => position(ix, value);
  const rounded = (x: string, slot: number) => {
    const dtype = kernel.slots[slot] as DType;
    return dtype === "f32" ? `Math.fround(${x})` : whole(dtype) ? x : `roundTo(${x}, "${dtype}")`;
  };
  const columnSums = kernel.stages.flatMap(({ inner, columnSums }) =>
    columnSums.map((sum) => ({ ...sum, inner })),
  );
  for (const { slot } of columnSums)
    lines.push(`const c${slot} = new Float64Array(s${slot}.length);`);
  loop(outer, () => {
    for (const stage of kernel.stages) {
      for (const r of stage.reduces) {
        lines.push(`let a${r.acc} = ${{ sum: "0", max: "-Infinity", min: "Infinity" }[r.op]};`);
      }
      loop(stage.inner, () => {
        names.clear();
        for (const r of stage.reduces) {
          const x = value(r.value);
          lines.push(
            r.op === "sum" ? `a${r.acc} += ${x};` : `a${r.acc} = Math.${r.op}(a${r.acc}, ${x});`,
          );
        }
        for (const st of stage.stores)
          lines.push(`s${st.slot}[${index(st.index)}] = ${rounded(value(st.value), st.slot)};`);
        for (const { slot, index: at, value: x } of stage.columnSums)
          lines.push(`c${slot}[${index(at)}] += ${value(x)};`);
      });
      for (const r of stage.reduces) {
        if (r.value.type === "i32")
          lines.push(
            `a${r.acc} = a${r.acc} === -Infinity ? -2147483648 : a${r.acc} === Infinity ? 2147483647 : a${r.acc} | 0;`,
          );
        if (r.value.type === "u32")
          lines.push(
            `a${r.acc} = a${r.acc} === -Infinity ? 0 : a${r.acc} === Infinity ? 4294967295 : a${r.acc} >>> 0;`,
          );
      }
      names.clear();
    }
  });
  for (const { slot, inner, index: at } of columnSums)
    loop(inner, () => {
      lines.push(`const at = ${index(at)};`, `s${slot}[at] = ${rounded(`c${slot}[at]`, slot)};`);
    });
  return lines.join("\n");
}

const whole = (dtype: DType) => dtype === "i32" || dtype === "u32" || dtype === "bool";

function position(ix: Index, value: (e: Expr) => string): string {
  const parts = ix.strides.flatMap((s, v) => (s === 0 ? [] : [`${s} * v${v}`]));
  for (const t of ix.terms) parts.push(`${t.stride} * ${value(t.expr)}`);
  return [String(ix.offset), ...parts].join(" + ");
}

function expression(e: Expr, value: (e: Expr) => string): string {
  switch (e.op) {
    case "const":
      return Object.is(e.value, -0) ? "-0" : `(${e.value})`;
    case "index":
      return position(e.index, value);
    case "load":
      return `s${e.slot}[${position(e.index, value)}]`;
    case "acc":
      return `a${e.acc}`;
    case "where": {
      const [c, a, b] = e.args.map(value);
      return `${c} ? ${a} : ${b}`;
    }
    case "cast": {
      const x = value(e.args[0]);
      if (e.type === "bool") return `+(${x} !== 0)`;
      if (e.type === "f32" || e.args[0].type === "bool") return x;
      return e.args[0].type === "f32"
        ? `saturate(${x}, "${e.type}")`
        : e.type === "i32"
          ? `${x} | 0`
          : `${x} >>> 0`;
    }
    case "bitcast":
      return `bits(${value(e.args[0])}, "${e.args[0].type}", "${e.type}")`;
    case "narrow":
      return `roundTo(${value(e.args[0])}, "${e.to}")`;
    case "not": {
      const x = value(e.args[0]);
      return e.type === "bool" ? `+!${x}` : wrap(`~${x}`, e.type);
    }
    default: {
      const args = e.args.map(value);
      const unary = UNARY[e.op];
      const type = e.args[0].type;
      if (unary)
        return e.type === "f32" ? unary(args[0] as string) : wrap(unary(args[0] as string), e.type);
      return binary(e.op, args[0] as string, args[1] as string, type);
    }
  }
}

function binary(op: string, a: string, b: string, type: string): string {
  const plain = (FLOAT[op] as (a: string, b: string) => string)(a, b);
  if (type === "f32" || op === "lt" || op === "le" || op === "eq" || op === "ne" || type === "bool")
    return plain;
  if (op === "mul") return wrap(`Math.imul(${a}, ${b})`, type);
  if (op === "div") return wrap(`Math.trunc(${a} / ${b})`, type);
  if (op === "shr" && type === "u32") return `${a} >>> ${b}`;
  return wrap(plain, type);
}

const wrap = (code: string, type: string) =>
  type === "u32" ? `(${code}) >>> 0` : type === "i32" ? `(${code}) | 0` : code;

function roundEven(x: number): number {
  const r = Math.round(x);
  return Math.abs(x % 1) === 0.5 && r % 2 !== 0 ? r - 1 : r;
}

/** f32 to an integer type: truncated, kept in range, NaN to 0. */
function saturate(x: number, type: string): number {
  if (Number.isNaN(x)) return 0;
  const [lo, hi] = type === "i32" ? [-(2 ** 31), 2 ** 31 - 1] : [0, 2 ** 32 - 1];
  return Math.trunc(Math.min(hi, Math.max(lo, x)));
}

const word = new DataView(new ArrayBuffer(4));

function bits(x: number, from: string, to: string): number {
  if (from === "f32") word.setFloat32(0, x);
  else word.setUint32(0, x);
  return to === "f32" ? word.getFloat32(0) : to === "i32" ? word.getInt32(0) : word.getUint32(0);
}
