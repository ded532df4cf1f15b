/**
 * The graph that a trace records: nodes in topological order, equal nodes shared. Symbolic tensors
 * are the edges.
 */
import { describe, type Spec } from "./spec.ts";
import { type Attrs, type Node, type Recording, Tensor } from "./tensor.ts";

export class Graph implements Recording {
  readonly nodes: Node[] = [];
  /** Concrete tensors used inside the trace, by the input that stands for each. */
  readonly captures: Map<Tensor, Tensor> = new Map();
  readonly #shared: Map<string, Node> = new Map();

  /** A node that computes `op`; an equal node made before is returned instead. */
  add(op: string, inputs: readonly Tensor[], attrs: Attrs, specs: readonly Spec[]): Node {
    const key = `${op}(${inputs.map((t) => `${nodeOf(t).id}.${t.output}`).join()})${JSON.stringify(attrs, exactNumbers)}${specs.map((s) => `${s.dtype}${s.shape}`).join()}`;
    const known = this.#shared.get(key);
    if (known !== undefined) return known;
    const outputs: Tensor[] = [];
    const node: Node = { id: this.nodes.length, op, inputs, attrs, outputs, graph: this };
    specs.forEach((spec, i) => {
      outputs.push(Tensor.symbolic(spec.shape, spec.dtype, node, i));
    });
    this.nodes.push(node);
    this.#shared.set(key, node);
    return node;
  }

  input(spec: Spec): Tensor {
    return this.add("input", [], { position: this.nodes.length }, [spec]).outputs[0] as Tensor;
  }

  /** The symbolic tensor that stands for `t` in this graph. */
  lift(t: Tensor): Tensor {
    if (t.node !== undefined) {
      if (t.node.graph !== this) {
        throw new Error(
          `a ${describe(t)} tensor of one compiled function was used outside it; return it from that function instead`,
        );
      }
      return t;
    }
    let symbol = this.captures.get(t);
    if (symbol === undefined) {
      symbol = this.input(t);
      this.captures.set(t, symbol);
    }
    return symbol;
  }
}

/** JSON has no infinities, NaN or −0; as parts of a key they must differ. */
export function exactNumbers(_: string, v: unknown): unknown {
  if (typeof v !== "number") return v;
  return Number.isFinite(v) && !Object.is(v, -0) ? v : `#${Object.is(v, -0) ? "-0" : v}`;
}

export function nodeOf(t: Tensor): Node {
  if (t.node === undefined) throw new Error("expected a symbolic tensor");
  return t.node;
}
