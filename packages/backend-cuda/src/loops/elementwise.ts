/** Loop kernels that other kernels need on the side: sums of products of strided views. */
import { computeType, type DType, type Expr, type Index, type LoopKernel } from "../contract.ts";
import type { DeviceInfo, Launch, Lowered } from "../kernel.ts";
import { lowerLoop } from "./lower.ts";

/** A strided view; element [i, j, …] lies at offset + Σ strides · floor(index / blocks). */
export interface Element {
  readonly slot: number;
  readonly dtype: DType;
  readonly offset: number;
  readonly strides: readonly number[];
  readonly blocks?: readonly number[];
}

/**
 * out[index] = Σ over terms of Π over the term's factors; 0 without terms. Slots in the launches'
 * arguments are those of the elements.
 */
export function elementwise(
  shape: readonly number[],
  terms: readonly (readonly Element[])[],
  out: Element,
  device: DeviceInfo,
  name: string,
): Lowered<Launch> {
  const slots: Element[] = [out];
  let ids = 0;
  const make = (e: Record<string, unknown>): Expr => ({ id: ids++, ...e }) as unknown as Expr;
  const indexOf = (view: Element): Index => {
    const strides: number[] = [];
    const parts: { stride: number; expr: Expr; limit: number }[] = [];
    shape.forEach((size, v) => {
      const block = view.blocks?.[v] ?? 1;
      const stride = view.strides[v] as number;
      strides.push(block === 1 ? stride : 0);
      if (block === 1 || stride === 0 || size <= block) return;
      const variable = shape.map((_, u) => (u === v ? 1 : 0));
      const value = make({
        op: "index",
        type: "i32",
        index: { offset: 0, strides: variable, terms: [] },
      });
      const divisor = make({ op: "const", type: "i32", value: block });
      const expr = make({ op: "div", type: "i32", args: [value, divisor] });
      parts.push({ stride, expr, limit: Math.ceil(size / block) });
    });
    return { offset: view.offset, strides, terms: parts };
  };
  const load = (view: Element): Expr => {
    slots.push(view);
    const type = computeType(view.dtype);
    const value = make({ op: "load", type, slot: slots.length - 1, index: indexOf(view) });
    return type === "f32" ? value : make({ op: "cast", type: "f32", args: [value] });
  };
  const products = terms.map((factors) =>
    factors.map(load).reduce((a, b) => make({ op: "mul", type: "f32", args: [a, b] })),
  );
  const sum =
    products.length === 0
      ? make({ op: "const", type: "f32", value: 0 })
      : products.reduce((a, b) => make({ op: "add", type: "f32", args: [a, b] }));
  const target = computeType(out.dtype);
  const value = target === "f32" ? sum : make({ op: "cast", type: target, args: [sum] });
  const kernel: LoopKernel = {
    kind: "loop",
    vars: shape,
    outer: shape.length,
    stages: [
      { inner: [], reduces: [], stores: [{ slot: 0, index: indexOf(out), value }], columnSums: [] },
    ],
    slots: slots.map((s) => s.dtype),
  };
  const lowered = lowerLoop(kernel, device, name);
  const launches = lowered.launches.map((launch) => ({
    ...launch,
    args: launch.args.map((arg) =>
      "slot" in arg ? { ...arg, slot: (slots[arg.slot] as Element).slot } : arg,
    ),
  }));
  return { ...lowered, launches };
}
