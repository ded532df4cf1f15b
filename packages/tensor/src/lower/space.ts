/** The variables of a group's kernel: how the axes of its units' tensors run over outer and inner loops. */
import { nodeOf } from "../graph.ts";
import { addIndex, constantIndex, type Index, LoopBuilder, sameIndex } from "../loop.ts";
import { indexAt } from "../ops/shape.ts";
import { sizeOf } from "../spec.ts";
import type { Tensor } from "../tensor.ts";
import { linear } from "./emit.ts";
import type { Unit } from "./groups.ts";

/** The coarsest list of extents that both lists of one product can be cut into, if there is one. */
export function refine(a: readonly number[], b: readonly number[]): readonly number[] | undefined {
  if (a.includes(0) || b.includes(0)) return a.join() === b.join() ? a : undefined;
  const bounds = (list: readonly number[]) => {
    const out: number[] = [];
    let product = 1;
    for (const d of [...list].reverse()) {
      product *= d;
      out.push(product);
    }
    return out;
  };
  const all = [...new Set([...bounds(a), ...bounds(b)])].filter((p) => p > 1).sort((x, y) => x - y);
  const dims: number[] = [];
  let before = 1;
  for (const p of all) {
    if (p % before !== 0) return undefined;
    dims.push(p / before);
    before = p;
  }
  return dims.reverse();
}

/** The tensor whose elements a unit's loops walk over: of a reduction, its operand. */
export function walkedBy({ tensor, axes, columnsOf }: Unit): Tensor {
  const reduction = columnsOf ?? (axes && tensor);
  return reduction ? (nodeOf(reduction).inputs[0] as Tensor) : tensor;
}

/** The variables of a group's kernel and how tensors' axes run over them. */
export class GroupSpace {
  readonly b: LoopBuilder = new LoopBuilder();
  readonly outer: readonly number[];
  readonly #outerVars: readonly number[];
  readonly #inner: Map<string, readonly number[]> = new Map();

  constructor(outer: readonly number[]) {
    this.outer = outer;
    this.#outerVars = outer.map((d) => this.b.newVar(d));
  }

  /**
   * The unit's inner variables, the index of its element (of its operand's, for a reduction), and that
   * of the result where it is stored.
   */
  iterate(unit: Unit): {
    inner: readonly number[];
    index: readonly Index[];
    result: readonly Index[];
  } {
    const walked = this.#walk(unit);
    if (unit.within === undefined) return walked;
    const axis = nodeOf(unit.within.whole).attrs.axis as number;
    const part = indexAt(this.b, linear(unit.tensor.shape, walked.index), unit.within.shape);
    const along = addIndex(part[axis] as Index, constantIndex(unit.within.start));
    return { ...walked, result: part.with(axis, along) };
  }

  #walk(unit: Unit): ReturnType<GroupSpace["iterate"]> {
    const { shape } = walkedBy(unit);
    const inside = unit.axes ?? unit.block;
    if (inside === undefined) {
      const rows = sizeOf(this.outer);
      const real = shape.filter((d) => d !== 1);
      const whole =
        refine(
          real,
          [...this.outer, sizeOf(real) / Math.max(1, rows)].filter((d) => d !== 1),
        ) ?? real;
      const inner = this.#innerVars(whole.slice(this.outer.filter((d) => d !== 1).length));
      const index = this.#axes(shape, [...this.#outerVars, ...inner]);
      const summed = unit.columnsOf ? (nodeOf(unit.columnsOf).attrs.axes as number[]) : [];
      return { inner, index, result: index.filter((_, a) => !summed.includes(a)) };
    }
    const inner = this.#innerVars(inside.map((a) => shape[a] as number));
    const result = this.#axes(
      shape.filter((_, a) => !inside.includes(a)),
      this.#outerVars,
    );
    let kept = 0;
    const index = shape.map((_, a) => {
      const at = inside.indexOf(a);
      return at >= 0 ? this.b.variable(inner[at] as number) : (result[kept++] as Index);
    });
    return { inner, index, result: unit.axes ? result : index };
  }

  /** Whether an index of a tensor of row results is the outer point itself. */
  atOwnPoint(shape: readonly number[], index: readonly Index[]): boolean {
    const own = this.#axes(shape, this.#outerVars);
    return own.every((ix, a) => sameIndex(ix, index[a] as Index));
  }

  #innerVars(extents: readonly number[]): readonly number[] {
    const key = extents.join();
    let vars = this.#inner.get(key);
    if (vars === undefined) {
      vars = extents.map((d) => this.b.newVar(d));
      this.#inner.set(key, vars);
    }
    return vars;
  }

  /** Index of each axis, given variables whose extents refine the shape. */
  #axes(shape: readonly number[], vars: readonly number[]): Index[] {
    const left = [...vars];
    return shape
      .map((d) => d)
      .reverse()
      .map((d) => {
        const strides: number[] = [];
        let product = 1;
        if (d === 0) left.pop();
        while (product < d) {
          const v = left.pop() as number;
          strides[v] = product;
          product *= this.b.vars[v] as number;
        }
        if (product === 1) return constantIndex(0);
        return { offset: 0, strides: Array.from(strides, (s) => s ?? 0), terms: [] };
      })
      .reverse();
  }
}
