/**
 * Answers bound to a grammar: which tokens of a vocabulary may come next. What a state allows is
 * found by walking the vocabulary as a tree of bytes, once for each state, and kept as bits.
 */
import type { Tokenizer } from "@dsv3/tokenizer";
import { Automaton, type State } from "./automaton.ts";
import { ebnf } from "./ebnf.ts";
import { jsonObject, jsonSchema } from "./json-schema.ts";
import { GrammarError, Network, type Piece } from "./network.ts";
import { regex } from "./regex.ts";

/** What an answer must be. */
export type Format =
  /** Any JSON object. */
  | { readonly type: "json" }
  /** JSON that fits a JSON Schema. */
  | { readonly type: "schema"; readonly schema: unknown }
  /** A text that a regular expression matches from its start to its end. */
  | { readonly type: "regex"; readonly pattern: string }
  /** A text of the rule `root` of a grammar in EBNF, as llama.cpp and xgrammar write it. */
  | { readonly type: "ebnf"; readonly grammar: string }
  /** One of some texts. */
  | { readonly type: "choice"; readonly choices: readonly string[] }
  /** A call of one of some functions, as DeepSeek-V3 writes it behind `function<｜tool▁sep｜>`. */
  | { readonly type: "call"; readonly functions: readonly FunctionSpec[] };

/** A function that a model may call; its parameters are a JSON Schema, of an object. */
export interface FunctionSpec {
  readonly name: string;
  readonly parameters?: unknown;
}

/** The automaton of a format. @throws GrammarError for one that is none, with the place */
export function automatonOf(format: Format): Automaton {
  const net = new Network();
  const { id, define } = net.rule();
  switch (format.type) {
    case "json":
      define(jsonObject(net));
      break;
    case "schema":
      define(jsonSchema(net, format.schema));
      break;
    case "regex":
      define(regex(net, format.pattern));
      break;
    case "ebnf":
      define(ebnf(net, format.grammar));
      break;
    case "choice":
      if (format.choices.length === 0) throw new GrammarError("there is nothing to choose from");
      define(net.choice(format.choices.map((text) => net.text(text))));
      break;
    case "call":
      if (format.functions.length === 0) throw new GrammarError("there is nothing to call");
      define(net.choice(format.functions.map((one) => call(net, one))));
  }
  return new Automaton(net, id);
}

function call(net: Network, { name, parameters }: FunctionSpec): Piece {
  const free = parameters === undefined || parameters === null;
  const values = free ? jsonObject(net) : jsonSchema(net, parameters);
  return net.sequence([net.text(`${name}\n\`\`\`json\n`), values, net.text("\n```")]);
}

/**
 * A vocabulary as a tree of bytes, its branches one after another, each before those that go on from
 * it: whoever walks over them from left to right skips from a branch that may not be to its sibling.
 */
export interface TokenTree {
  readonly bytesOf: (id: number) => Uint8Array;
  /** Of each branch: its byte, how many bytes there are with it, and where its part of the tree ends. */
  readonly bytes: Uint8Array;
  readonly depths: Uint16Array;
  readonly ends: Int32Array;
  /** The tokens that end at each branch: those of `tokens` from its number here to the next one's. */
  readonly firsts: Int32Array;
  readonly tokens: Int32Array;
}

interface Branch {
  readonly tokens: number[];
  readonly children: Map<number, Branch>;
}

/** Tokens that stand for text; control tokens and unused ids are in no grammar. */
export function tokenTree(tokenizer: Tokenizer): TokenTree {
  const root: Branch = { tokens: [], children: new Map() };
  let branches = 0;
  const bytesOf = (id: number) =>
    (tokenizer.byteLengths[id] ?? 0) > 0 ? tokenizer.tokenBytes(id) : new Uint8Array();
  for (let id = 0; id < tokenizer.vocabSize; id++) {
    const text = bytesOf(id);
    if (text.length === 0) continue;
    let branch = root;
    for (const byte of text) {
      let child = branch.children.get(byte);
      if (child === undefined) {
        child = { tokens: [], children: new Map() };
        branch.children.set(byte, child);
        branches++;
      }
      branch = child;
    }
    branch.tokens.push(id);
  }
  const [bytes, depths] = [new Uint8Array(branches), new Uint16Array(branches)];
  const [ends, firsts] = [new Int32Array(branches), new Int32Array(branches + 1)];
  const tokens: number[] = [];
  let at = 0;
  const lay = (branch: Branch, depth: number) => {
    for (const [byte, child] of branch.children) {
      const here = at++;
      bytes[here] = byte;
      depths[here] = depth;
      firsts[here] = tokens.length;
      tokens.push(...child.tokens);
      lay(child, depth + 1);
      ends[here] = at;
    }
  };
  lay(root, 1);
  firsts[branches] = tokens.length;
  return { bytesOf, bytes, depths, ends, firsts, tokens: Int32Array.from(tokens) };
}

const MAX_MASKS = 2_000;

/** A format over a vocabulary, shared by all answers that ask for it. */
export class Grammar {
  readonly #automaton: Automaton;
  readonly #tree: TokenTree;
  /** Ids that end an answer; allowed where the text is whole. */
  readonly #ends: readonly number[];
  readonly #words: number;
  readonly #masks = new Map<string, Int32Array>();

  /** @throws GrammarError for a format that is none, with the place */
  constructor(format: Format, tree: TokenTree, ends: readonly number[], vocabSize: number) {
    this.#automaton = automatonOf(format);
    this.#tree = tree;
    this.#ends = ends;
    this.#words = Math.ceil(vocabSize / 32);
  }

  /** Before the first token. */
  get start(): State {
    return this.#automaton.start;
  }

  /** The state after a token; null if it may not come here. */
  after(state: State, token: number): State | null {
    const bytes = this.#tree.bytesOf(token);
    if (bytes.length === 0) return null;
    let at: State | null = state;
    for (const byte of bytes) {
      at = this.#automaton.step(at, byte);
      if (at === null) return null;
    }
    return at;
  }

  /** Whether nothing but the end may follow. */
  complete(state: State): boolean {
    return state.accepting && state.places.length === 0;
  }

  /**
   * One bit for each id, i32 [ceil(V / 32)]: whether it may come when `remaining` tokens are left,
   * this one counted. A token after which the text could not be brought to its end in those, a byte
   * a token, may not, unless no token could be.
   */
  mask(state: State, remaining: number): Int32Array {
    // Far from the limit, every number of tokens left means the same.
    const left = Math.min(remaining - 1, state.distance + LONGEST_TOKEN);
    const pressed = remaining - 1 < state.distance + LONGEST_TOKEN && state.distance <= remaining;
    const key = pressed ? `${state.id},${left}` : `${state.id}`;
    const known = this.#masks.get(key);
    if (known) return known;
    const mask = new Int32Array(this.#words);
    const allow = (id: number) => {
      mask[id >>> 5]! |= 1 << (id & 31);
    };
    if (state.accepting) for (const id of this.#ends) allow(id);
    const { bytes, depths, ends, firsts, tokens } = this.#tree;
    /** The states that the bytes of the branch at work lead to. */
    const path: State[] = [state];
    for (let branch = 0; branch < bytes.length; ) {
      const depth = depths[branch]!;
      const next = this.#automaton.step(path[depth - 1]!, bytes[branch]!);
      if (next === null) {
        branch = ends[branch]!;
        continue;
      }
      path[depth] = next;
      if (!pressed || next.distance <= left) {
        for (let i = firsts[branch]!; i < firsts[branch + 1]!; i++) allow(tokens[i]!);
      }
      branch++;
    }
    // A place that no token leads on from: better a text cut short than one that is none.
    if (mask.every((word) => word === 0)) for (const id of this.#ends) allow(id);
    if (this.#masks.size >= MAX_MASKS) this.#masks.clear();
    this.#masks.set(key, mask);
    return mask;
  }
}

/** Bytes that one token may add to what is left to be closed, as far as pressure is concerned. */
const LONGEST_TOKEN = 64;
