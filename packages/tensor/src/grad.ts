/** Reverse-mode differentiation of recorded graphs. */

import { compile } from "./compile.ts";
import { isFloat } from "./dtype.ts";
import { nodeOf } from "./graph.ts";
import { full, zeros } from "./ops/create.ts";
import { add } from "./ops/pointwise.ts";
import { activeGraph, apply, apply1, define, opDef } from "./ops/registry.ts";
import { describe } from "./spec.ts";
import { type Node, type Recording, Tensor } from "./tensor.ts";
import { type Mapped, mapLeaves, treeLeaves } from "./tree.ts";

/**
 * Gradients of Σ outputs · cotangents for each tensor of `wrt` (null: does not depend on it).
 * The walk stops at `wrt`.
 */
function backward(
  outputs: readonly Tensor[],
  cotangents: readonly (Tensor | null)[],
  wrt: readonly Tensor[],
): (Tensor | null)[] {
  const graph = outputs.find((t) => t.node)?.node?.graph;
  if (graph === undefined) return wrt.map(() => null);
  const stops = new Set(wrt);
  const from = Math.min(...wrt.map((t) => nodeOf(t).id));
  const to = Math.max(...outputs.map((t) => t.node?.id ?? -1));

  // Nodes on a path from wrt to the outputs.
  const depends = new Set<Tensor>(wrt);
  for (let id = from; id <= to; id++) {
    const node = graph.nodes[id] as Node;
    if (node.inputs.some((t) => depends.has(t)) && node.op !== "stopGradient") {
      for (const t of node.outputs) if (isFloat(t.dtype)) depends.add(t);
    }
  }

  const grads = new Map<Tensor, Tensor>();
  const accumulate = (t: Tensor, g: Tensor | null | undefined) => {
    if (!g || !depends.has(t)) return;
    const sum = grads.get(t);
    grads.set(t, sum ? add(sum, g) : g);
  };
  outputs.forEach((t, i) => {
    accumulate(t, cotangents[i]);
  });
  for (let id = to; id >= from; id--) {
    const node = graph.nodes[id] as Node;
    const given = node.outputs.map((t) => (stops.has(t) ? null : (grads.get(t) ?? null)));
    if (given.every((g) => g === null)) continue;
    if (!node.inputs.some((t) => depends.has(t))) continue;
    const rule = opDef(node.op).grad;
    if (rule === undefined) throw new Error(`${node.op} has no derivative`);
    const results = rule(node, given);
    node.inputs.forEach((t, i) => {
      accumulate(t, results[i]);
    });
  }
  return wrt.map((t) => grads.get(t) ?? null);
}

let marks = 0;

/** A fresh symbol of the same value, as the variable of a derivative. */
function variable(t: Tensor): Tensor {
  return apply1("identity", [t], { mark: marks++ });
}

type Args = readonly unknown[];

/** The gradients' structure: that of the chosen argument, or a tuple for several. */
function differentiate(
  fn: (...args: never[]) => unknown,
  argnums: number | readonly number[],
  args: Args,
): { result: unknown; grads: unknown } {
  const chosen = typeof argnums === "number" ? [argnums] : argnums;
  const inner = args.map((arg, i) => (chosen.includes(i) ? mapLeaves(arg, floatVariable) : arg));
  const wrt = chosen.flatMap((i) => treeLeaves(inner[i]).filter((t) => isFloat(t.dtype)));
  if (wrt.length === 0)
    throw new Error("grad: the chosen arguments hold no floating-point tensors");
  const result = fn(...(inner as never[]));
  const loss = (Array.isArray(result) ? result[0] : result) as Tensor;
  if (!(loss instanceof Tensor) || loss.size !== 1 || !isFloat(loss.dtype)) {
    throw new Error(
      `grad: the function must return one number to differentiate (or [number, aux]), got ${loss instanceof Tensor ? describe(loss) : typeof loss}`,
    );
  }
  const found = backward([loss], [full(loss.shape, 1, loss.dtype)], wrt);
  const byLeaf = new Map(wrt.map((t, i) => [t, found[i] ?? zeros(t.shape, t.dtype)]));
  const grads = chosen.map((i) =>
    mapLeaves(inner[i], (t) => byLeaf.get(t) ?? zeros(t.shape, "f32")),
  );
  return { result, grads: typeof argnums === "number" ? grads[0] : grads };
}

function floatVariable(t: Tensor): Tensor {
  return isFloat(t.dtype) ? variable(t) : t;
}

type ArgTree<A extends readonly unknown[], N> = N extends number
  ? Mapped<A[N], Tensor>
  : N extends readonly number[]
    ? { [K in keyof N]: Mapped<A[N[K] & number], Tensor> }
    : Mapped<A[0], Tensor>;

/**
 * A function that returns fn's result and the gradients of its loss. `fn` returns the loss (one
 * number) or a tuple [loss, ...anything].
 * @param options.argnums the argument(s) to differentiate for; the gradients have their structure.
 */
export function valueAndGrad<
  A extends readonly unknown[],
  R,
  const N extends number | readonly number[] = 0,
>(fn: (...args: A) => R, options: { argnums?: N } = {}): (...args: A) => [R, ArgTree<A, N>] {
  const argnums = options.argnums ?? 0;
  const traced = (...args: A) => {
    const { result, grads } = differentiate(fn as (...args: never[]) => unknown, argnums, args);
    return [result, grads] as [R, ArgTree<A, N>];
  };
  const compiled = compile(traced, { name: `grad(${fn.name || "fn"})` });
  return (...args: A) => (isTracing(args) ? traced(...args) : compiled(...args));
}

/** {@link valueAndGrad} without the value. */
export function grad<A extends readonly unknown[], const N extends number | readonly number[] = 0>(
  fn: (...args: A) => Tensor,
  options: { argnums?: N } = {},
): (...args: A) => ArgTree<A, N> {
  const both = valueAndGrad(fn, options);
  const traced = (...args: A) => both(...args)[1];
  const compiled = compile(traced, { name: `grad(${fn.name || "fn"})` });
  return (...args: A) => (isTracing(args) ? traced(...args) : compiled(...args));
}

function isTracing(args: Args): boolean {
  return activeGraph() !== undefined || treeLeaves(args).some((t) => t.node !== undefined);
}

type BackwardRule = (grads: readonly (Tensor | null)[]) => readonly (Tensor | null)[];

/** Derivatives of `custom` nodes; the graph itself holds only data. */
const customRules = new WeakMap<Node, BackwardRule>();

define("custom", {
  infer: (inputs, attrs) => inputs.slice(attrs.args as number),
  grad(node, grads) {
    const results = (customRules.get(node) as BackwardRule)(grads);
    return node.inputs.map((_, i) => results[i] ?? null);
  },
  source: (_, __, index) => index,
});

/** Outputs as they are, with a derivative of their own for `args`. */
function withBackward<T>(args: readonly Tensor[], output: T, rule: BackwardRule): T {
  const leaves = treeLeaves(output);
  const wrapped = apply("custom", [...args, ...leaves], { args: args.length, mark: marks++ });
  customRules.set(nodeOf(wrapped[0] as Tensor), rule);
  let i = 0;
  return mapLeaves(output, () => wrapped[i++]) as T;
}

/**
 * A function with a derivative written by hand.
 * @param forward computes the output and whatever the derivative needs.
 * @param backward from that and the output's gradient, the gradient of every argument (null: none).
 * Only arguments get gradients, not tensors that the functions close over.
 */
export function customGradient<A extends readonly Tensor[], O, S>(
  forward: (...args: A) => { output: O; save: S },
  backward: (save: S, grad: Mapped<O, Tensor>) => readonly (Tensor | null)[],
): (...args: A) => O {
  return (...args) => {
    const { output, save } = forward(
      ...(args.map((t) => (t.node ? variable(t) : t)) as unknown as A),
    );
    if (!isTracing([args, output])) return output;
    return withBackward(args, output, (grads) => {
      let i = 0;
      const tree = mapLeaves(output, (t) => {
        const g = grads[i++];
        return g ?? zeros(t.shape, t.dtype);
      });
      return backward(save, tree as Mapped<O, Tensor>);
    });
  };
}

/**
 * The same function, whose intermediate results are computed again for the derivative instead of
 * kept: less memory for more arithmetic.
 */
export function remat<A extends readonly unknown[], O>(fn: (...args: A) => O): (...args: A) => O {
  return (...args: A) => {
    if (!isTracing(args)) return fn(...args);
    const graph = (treeLeaves(args).find((t) => t.node)?.node?.graph ?? activeGraph()) as Recording;
    const inner = mapLeaves(args, (t) => variable(graph.lift(t))) as unknown as A;
    const first = graph.nodes.length;
    const output = fn(...inner);
    const own = treeLeaves(inner);
    // What fn takes from outside besides its arguments is differentiated, too.
    const outside = new Set<Tensor>();
    for (const node of graph.nodes.slice(first)) {
      for (const t of node.inputs) {
        if (nodeOf(t).id < first && !own.includes(t) && isFloat(t.dtype)) outside.add(t);
      }
    }
    const given = [...treeLeaves(args).map((t) => graph.lift(t)), ...outside];
    return withBackward(given, output, (grads) => {
      const after = grads.filter((g) => g !== null);
      const wait = (t: Tensor) => apply1("barrier", [t, ...after], { mark: marks++ });
      const again = mapLeaves(args, (t) => wait(graph.lift(t))) as unknown as A;
      const result = fn(...again);
      return backward(treeLeaves(result), grads, [...treeLeaves(again), ...outside]);
    });
  };
}
