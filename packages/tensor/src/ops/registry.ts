/**
 * The table of operations. Each has one entry: how its result's shape follows from its operands,
 * its derivative (written in operations), and how it is lowered: to an expression inside a fused
 * loop, to an index map (shape operations cost nothing), or to a kernel of its own.
 */

import type { Expr, Index, LoopBuilder } from "../loop.ts";
import type { Spec } from "../spec.ts";
import type { Attrs, Node, Recording, Tensor } from "../tensor.ts";

/** What an operation's lowering may ask for. */
export interface EmitContext {
  readonly b: LoopBuilder;
  /** The value of a tensor's element, inlined or loaded. */
  at(t: Tensor, index: readonly Index[]): Expr;
}

export interface OpDef {
  infer(inputs: readonly Tensor[], attrs: Attrs): readonly Spec[];
  /** Gradients of the inputs from those of the outputs (null: none). */
  grad?(node: Node, grads: readonly (Tensor | null)[]): readonly (Tensor | null)[];
  /** Inside a loop: the element of the output at an index. */
  emit?(context: EmitContext, node: Node, index: readonly Index[]): Expr;
  /** Shape operations: which element of input 0 the output's element is. */
  source?(b: LoopBuilder, node: Node, index: readonly Index[], output: number): readonly Index[];
  /** Rough arithmetic cost of an element, for deciding what to recompute. */
  readonly cost?: number;
}

const table = new Map<string, OpDef>();

export function define(name: string, def: OpDef): void {
  table.set(name, def);
}

export function opDef(name: string): OpDef {
  const def = table.get(name);
  if (def === undefined) throw new Error(`unknown operation "${name}"`);
  return def;
}

/** Arguments of a trace; their specs are given, never inferred. */
define("input", { infer: () => [] });

let tracing: Recording | undefined;

/** The graph being recorded, if any. */
export function activeGraph(): Recording | undefined {
  return tracing;
}

/** Runs `fn` while operations on concrete tensors, too, are recorded in `graph`. */
export function withGraph<T>(graph: Recording, fn: () => T): T {
  const before = tracing;
  tracing = graph;
  try {
    return fn();
  } finally {
    tracing = before;
  }
}

type EagerRunner = (op: string, inputs: readonly Tensor[], attrs: Attrs) => readonly Tensor[];
let runEagerly: EagerRunner | undefined;

/** Set by compile.ts, which depends on this table. */
export function setEagerRunner(runner: EagerRunner): void {
  runEagerly = runner;
}

/** Applies an operation: recorded while tracing, run at once otherwise. */
export function apply(op: string, inputs: readonly Tensor[], attrs: Attrs = {}): readonly Tensor[] {
  const graph = inputs.find((t) => t.node !== undefined)?.node?.graph ?? tracing;
  if (graph === undefined) return (runEagerly as EagerRunner)(op, inputs, attrs);
  const lifted = inputs.map((t) => graph.lift(t));
  return graph.add(op, lifted, attrs, opDef(op).infer(lifted, attrs)).outputs;
}

/** {@link apply} for operations with one output. */
export function apply1(op: string, inputs: readonly Tensor[], attrs: Attrs = {}): Tensor {
  return apply(op, inputs, attrs)[0] as Tensor;
}
