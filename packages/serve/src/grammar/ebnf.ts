/**
 * Grammars in EBNF as llama.cpp (GBNF) and xgrammar write them: rules `name ::= …`, of which `root` is
 * the whole text. In them: "texts", [sets] of characters, `.` for any character, names of rules,
 * (groups), `|`, and `* + ? {m} {m,} {m,n}`. A rule ends where the next one begins; `#` begins a
 * comment that goes to the end of its line.
 */
import { GrammarError, type Network, type Piece } from "./network.ts";
import { MAX_DEPTH, type Range, Scanner } from "./scanner.ts";

const NAME = /[\w-]/;

interface NamedRule {
  readonly id: number;
  readonly define: (piece: Piece) => void;
  /** Where its name stood first, and whether it has been defined. */
  readonly at: number;
  defined: boolean;
}

/** @throws GrammarError with the place for a text that is no grammar */
export function ebnf(net: Network, grammar: string): Piece {
  const scan = new Scanner(grammar, "grammar");
  const rules = new Map<string, NamedRule>();

  const rule = (name: string): NamedRule => {
    let known = rules.get(name);
    if (known === undefined) {
      known = { ...net.rule(name), at: scan.at - name.length, defined: false };
      rules.set(name, known);
    }
    return known;
  };
  const skip = () => {
    for (let c = scan.peek(); c !== undefined; c = scan.peek()) {
      if (c === "#") while (scan.peek() !== undefined && scan.peek() !== "\n") scan.at++;
      else if (/\s/.test(c)) scan.at++;
      else return;
    }
  };
  const name = (): string => {
    let text = "";
    for (let c = scan.peek(); c !== undefined && NAME.test(c); c = scan.peek()) text += scan.take();
    return text;
  };
  /** Whether a definition begins here, and so the rule before it ends. */
  const atDefinition = (): boolean => {
    const here = scan.at;
    const found = name() !== "";
    skip();
    const defines = found && scan.accept("::=");
    scan.at = here;
    return defines;
  };
  const alternatives = (depth: number): Piece => {
    if (depth > MAX_DEPTH) scan.fail("groups are nested too deeply");
    const choices: Piece[] = [];
    do {
      choices.push(sequence(depth));
      skip();
    } while (scan.accept("|"));
    return choices.length === 1 ? choices[0]! : net.choice(choices);
  };
  const sequence = (depth: number): Piece => {
    const pieces: Piece[] = [];
    for (skip(); ; skip()) {
      const c = scan.peek();
      if (c === undefined || c === "|" || c === ")" || atDefinition()) return net.sequence(pieces);
      const piece = atom(depth);
      const times = scan.times();
      pieces.push(times ? net.repeat(piece, ...times) : piece);
      if ("*+?{".includes(scan.peek() ?? " ")) scan.fail("two repetitions of one thing");
    }
  };
  const atom = (depth: number): Piece => {
    const c = scan.peek()!;
    if (NAME.test(c)) return net.call(rule(name()).id);
    scan.at++;
    switch (c) {
      case "(": {
        const inner = alternatives(depth + 1);
        if (!scan.accept(")")) scan.fail('")" is missing');
        return inner;
      }
      case "[":
        return ofRanges(scan.set());
      case ".":
        return net.characters(0, 0x10ffff);
      case '"':
        return text();
      default:
        scan.at--;
        return scan.fail(`${JSON.stringify(c)} begins nothing that a rule may hold`);
    }
  };
  const text = (): Piece => {
    const pieces: Piece[] = [];
    for (let c = scan.take(); c !== '"'; c = scan.take()) {
      pieces.push(c === "\\" ? ofRanges(scan.escaped()) : net.text(c));
    }
    return net.sequence(pieces);
  };
  const ofRanges = (ranges: readonly Range[]) =>
    net.choice(ranges.map(([low, high]) => net.characters(low, high)));

  for (skip(); scan.peek() !== undefined; skip()) {
    if (!atDefinition()) scan.fail('expected a rule, "name ::= …",');
    const defined = rule(name());
    if (defined.defined) scan.fail("a rule is defined twice; write its forms with |");
    defined.defined = true;
    skip();
    scan.accept("::=");
    defined.define(alternatives(0));
    if (scan.peek() === ")") scan.fail('")" closes nothing');
  }
  for (const [missing, { defined, at }] of rules) {
    if (!defined) throw new GrammarError(`grammar: no rule "${missing}", named at character ${at}`);
  }
  const root = rules.get("root");
  if (root === undefined) throw new GrammarError('grammar: no rule "root", the whole text');
  return net.call(root.id);
}
