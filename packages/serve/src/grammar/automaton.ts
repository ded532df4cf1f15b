/**
 * A network at work: which bytes may come next. A state is the set of all places that the bytes so
 * far may have led to, each with the calls that it has to return from. States are made when they are
 * first reached and then kept, so that reading a byte is soon a table look-up.
 */
import { GrammarError, type Network, type Rule } from "./network.ts";

/** Nodes to return to, innermost first; equal stacks are one object. */
interface Stack {
  readonly id: number;
  readonly node: number;
  readonly below: Stack | null;
  readonly depth: number;
  /** Least bytes to the end of the grammar, from `node` on. */
  readonly distance: number;
}

interface Place {
  readonly node: number;
  readonly stack: Stack | null;
}

export interface State {
  readonly id: number;
  readonly places: readonly Place[];
  /** The bytes so far are a whole text of the grammar. */
  readonly accepting: boolean;
  /** Least bytes that make them one. */
  readonly distance: number;
  /** States after each byte, as far as they are known; null: the byte may not come. */
  readonly next: (State | null | undefined)[];
}

/** Nesting beyond this ends in a refusal of the bytes that would open more. */
const MAX_DEPTH = 256;
/** States that are kept. When there are more, all are made anew as they are needed. */
const MAX_STATES = 20_000;
/** Places at once. What would lead to more is refused, so that no grammar takes all time. */
const MAX_PLACES = 512;

export class Automaton {
  readonly #net: Network;
  /** Least bytes from each node to the end of its rule. */
  readonly #distances: readonly number[];
  readonly #ends: ReadonlySet<number>;
  /** Before the first byte. */
  readonly start: State;
  #stacks = new Map<string, Stack>();
  #states = new Map<string, State>();
  #count = 0;

  /** @throws GrammarError if no text at all is one of the grammar */
  constructor(net: Network, root: number) {
    this.#net = net;
    this.#ends = new Set(net.rules.map(({ end }) => end));
    this.#distances = distances(net);
    if (this.#distances[net.rules[root]!.start] === Number.POSITIVE_INFINITY) {
      throw new GrammarError("no text fits the grammar: everything it asks for asks for more");
    }
    const recursive = leftRecursive(net, this.#distances);
    if (recursive) {
      const name = recursive.name === undefined ? "a part of it" : `the rule "${recursive.name}"`;
      throw new GrammarError(
        `the grammar never begins: ${name} may begin with itself (left recursion); let it read something first`,
      );
    }
    const start = this.#state([{ node: net.rules[root]!.start, stack: null }]);
    if (start === null) throw new GrammarError(`the grammar may begin in over ${MAX_PLACES} ways`);
    this.start = start;
  }

  /** The state after one more byte; null if it may not come. */
  step(state: State, byte: number): State | null {
    const known = state.next[byte];
    if (known !== undefined) return known;
    const places: Place[] = [];
    for (const { node, stack } of state.places) {
      for (const edge of this.#net.edges[node]!) {
        if (edge.kind === "bytes" && edge.low <= byte && byte <= edge.high) {
          places.push({ node: edge.to, stack });
        }
      }
    }
    const next = places.length === 0 ? null : this.#state(places);
    // What leads nowhere (nested too deeply, say) is not entered.
    const leads = next !== null && (next.accepting || next.places.length > 0);
    state.next[byte] = leads ? next : null;
    return state.next[byte];
  }

  /** The state of the places reached, and of all that can be reached from them without a byte. */
  #state(reached: readonly Place[]): State | null {
    const seen = new Set<string>();
    const places: Place[] = [];
    let accepting = false;
    const queue = [...reached];
    for (let place = queue.pop(); place; place = queue.pop()) {
      const { node, stack } = place;
      if (this.#distances[node] === Number.POSITIVE_INFINITY) continue;
      const key = `${node},${stack?.id ?? ""}`;
      if (seen.has(key)) continue;
      seen.add(key);
      if (seen.size > MAX_PLACES) return null;
      if (this.#ends.has(node)) {
        if (stack === null) accepting = true;
        else queue.push({ node: stack.node, stack: stack.below });
      }
      let reads = false;
      for (const edge of this.#net.edges[node]!) {
        if (edge.kind === "bytes") reads = true;
        else if (edge.kind === "empty") queue.push({ node: edge.to, stack });
        else if ((stack?.depth ?? 0) < MAX_DEPTH) {
          const start = this.#net.rules[edge.rule]!.start;
          queue.push({ node: start, stack: this.#push(edge.to, stack) });
        }
      }
      if (reads) places.push(place);
    }
    const key = `${accepting}:${[...seen].sort().join(";")}`;
    const known = this.#states.get(key);
    if (known) return known;
    if (this.#states.size >= MAX_STATES) this.#states.clear();
    const distance = accepting
      ? 0
      : places.reduce((least, { node, stack }) => {
          return Math.min(least, this.#distances[node]! + (stack?.distance ?? 0));
        }, Number.POSITIVE_INFINITY);
    const state = { id: this.#count++, places, accepting, distance, next: [] };
    this.#states.set(key, state);
    return state;
  }

  #push(node: number, below: Stack | null): Stack {
    const key = `${node},${below?.id ?? ""}`;
    const known = this.#stacks.get(key);
    if (known) return known;
    const distance = this.#distances[node]! + (below?.distance ?? 0);
    const depth = (below?.depth ?? 0) + 1;
    const stack = { id: this.#stacks.size, node, below, depth, distance };
    this.#stacks.set(key, stack);
    return stack;
  }
}

/** Least bytes from every node to the end of its rule, by going round until nothing gets shorter. */
function distances(net: Network): number[] {
  const found = new Array<number>(net.edges.length).fill(Number.POSITIVE_INFINITY);
  for (const { end } of net.rules) found[end] = 0;
  // Who has to be looked at again when a node's distance, or a rule's, gets shorter.
  const before: number[][] = net.edges.map(() => []);
  for (const [from, edges] of net.edges.entries()) {
    for (const edge of edges) {
      before[edge.to]!.push(from);
      if (edge.kind === "call") before[net.rules[edge.rule]!.start]!.push(from);
    }
  }
  const queue = net.rules.flatMap(({ end }) => before[end]!);
  for (let node = queue.pop(); node !== undefined; node = queue.pop()) {
    let least = found[node]!;
    for (const edge of net.edges[node]!) {
      const cost =
        edge.kind === "bytes" ? 1 : edge.kind === "empty" ? 0 : found[net.rules[edge.rule]!.start]!;
      least = Math.min(least, cost + found[edge.to]!);
    }
    if (least >= found[node]!) continue;
    found[node] = least;
    queue.push(...before[node]!);
  }
  return found;
}

/** A rule that may call itself, or be called by one that it calls, before a byte is read. */
function leftRecursive(net: Network, distances: readonly number[]): Rule | null {
  /** Rules that one may call before it reads. */
  const first = net.rules.map(({ start }) => {
    const called = new Set<number>();
    const seen = new Set([start]);
    for (const node of seen) {
      for (const edge of net.edges[node]!) {
        if (edge.kind === "empty") seen.add(edge.to);
        if (edge.kind !== "call") continue;
        called.add(edge.rule);
        if (distances[net.rules[edge.rule]!.start] === 0) seen.add(edge.to);
      }
    }
    return called;
  });
  // What begins with no rule that may go round cannot either, until only those that do are left.
  const open = new Set(first.keys());
  for (let before = -1; before !== open.size; ) {
    before = open.size;
    for (const rule of open) if (![...first[rule]!].some((r) => open.has(r))) open.delete(rule);
  }
  // One of the circle itself: whatever is open leads into it.
  let [rule] = open;
  for (const _ of open) rule = [...first[rule!]!].find((r) => open.has(r));
  return rule === undefined ? null : net.rules[rule]!;
}
