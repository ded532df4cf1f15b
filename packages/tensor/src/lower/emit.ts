/**
 * From graph to loop expressions: the value of a tensor's element at an index, with element-wise
 * operations inlined, shape operations turned into index arithmetic, and materialised tensors
 * ("roots") loaded.
 */
import { nodeOf } from "../graph.ts";
import {
  addIndex,
  computeType,
  constantIndex,
  type Expr,
  type Index,
  indexKey,
  LoopBuilder,
  scaleIndex,
} from "../loop.ts";
import { type EmitContext, opDef } from "../ops/registry.ts";
import type { Node, Tensor } from "../tensor.ts";

/** The input whose elements an output of a shape operation shows, if the operation is one. */
export function sourceOf(t: Tensor): Tensor | undefined {
  const node = nodeOf(t);
  if (opDef(node.op).source === undefined) return undefined;
  const first = node.op === "custom" ? (node.attrs.args as number) + t.output : 0;
  return node.inputs[first];
}

/** Row-major position of an element. */
export function linear(shape: readonly number[], index: readonly Index[]): Index {
  let position = constantIndex(0);
  shape.forEach((d, a) => {
    position = addIndex(scaleIndex(position, d), index[a] as Index);
  });
  return position;
}

export class Emitter implements EmitContext {
  readonly b: LoopBuilder;
  readonly #isRoot: (t: Tensor) => boolean;
  readonly #own: (t: Tensor, index: readonly Index[]) => Expr | undefined;
  readonly #slots: Map<Tensor, number> = new Map();
  readonly #seen: Map<string, Expr> = new Map();

  /** @param own what to use instead of a load for values that the kernel computes itself. */
  constructor(
    b: LoopBuilder,
    isRoot: (t: Tensor) => boolean,
    own: (t: Tensor, index: readonly Index[]) => Expr | undefined = () => undefined,
  ) {
    this.b = b;
    this.#isRoot = isRoot;
    this.#own = own;
  }

  /** Tensors bound to slots so far. */
  get bound(): Tensor[] {
    return [...this.#slots.keys()];
  }

  slot(t: Tensor): number {
    let slot = this.#slots.get(t);
    if (slot === undefined) {
      slot = this.#slots.size;
      this.#slots.set(t, slot);
    }
    return slot;
  }

  readonly at = (t: Tensor, index: readonly Index[]): Expr => {
    const node = nodeOf(t);
    const key = `${node.id}.${t.output}@${index.map(indexKey).join()}`;
    let expr = this.#seen.get(key);
    if (expr === undefined) {
      expr =
        this.#own(t, index) ?? (this.#isRoot(t) ? this.#load(t, index) : this.compute(t, index));
      this.#seen.set(key, expr);
    }
    return expr;
  };

  /** The definition of an element, even of a root. */
  compute(t: Tensor, index: readonly Index[]): Expr {
    const node = nodeOf(t);
    const def = opDef(node.op);
    const source = sourceOf(t);
    if (source !== undefined && def.source) {
      return this.at(source, def.source(this.b, node, index, t.output));
    }
    if (def.emit === undefined) throw new Error(`internal: ${node.op} cannot be part of a loop`);
    return def.emit(this, node, index);
  }

  #load(t: Tensor, index: readonly Index[]): Expr {
    const position = linear(t.shape, index);
    return this.b.make({
      op: "load",
      type: computeType(t.dtype),
      slot: this.slot(t),
      index: position,
    });
  }
}

/** A tensor seen as strided elements of a base tensor. */
export interface View {
  readonly base: Tensor;
  readonly offset: number;
  /** One per axis, 0 for axes of extent 1 or repeated ones. */
  readonly strides: readonly number[];
}

/** Follows shape operations down to what they show; undefined if that is not plainly strided. */
export function viewOf(t: Tensor): View | undefined {
  const b = new LoopBuilder();
  let index: readonly Index[] = t.shape.map((d) => b.variable(b.newVar(d)));
  let base = t;
  for (let next = sourceOf(base); next !== undefined; next = sourceOf(base)) {
    const node: Node = nodeOf(base);
    index = opDef(node.op).source?.(b, node, index, base.output) as readonly Index[];
    base = next;
  }
  const position = linear(base.shape, index);
  const strides = t.shape.map((_, a) => position.strides[a] ?? 0);
  if (position.terms.length > 0 || strides.some((s) => s < 0)) return undefined;
  return { base, offset: position.offset, strides };
}
