/**
 * Regular expressions, the part of JavaScript's that is regular: literals, `.`, classes, groups, `|`,
 * `* + ? {m,n}`, and the escapes \d \w \s \D \W \S \n \r \t \f \v \uXXXX \xXX. A pattern holds for the
 * whole text; `^` at its start and `$` at its end are let pass.
 */
import type { Network, Piece } from "./network.ts";
import { inverse, MAX_DEPTH, type Range, Scanner } from "./scanner.ts";

/** `character` maps ranges of code points to what stands for them: in JSON strings, not themselves. */
export function regex(
  net: Network,
  pattern: string,
  character: (low: number, high: number) => Piece = (low, high) => net.characters(low, high),
): Piece {
  const scan = new Scanner(pattern, `pattern ${JSON.stringify(pattern)}`);
  if (scan.input[scan.end - 1] === "$" && scan.input[scan.end - 2] !== "\\") scan.end--;
  scan.accept("^");

  const alternatives = (depth: number): Piece => {
    if (depth > MAX_DEPTH) scan.fail("groups are nested too deeply");
    const choices: Piece[] = [];
    do choices.push(sequence(depth));
    while (scan.peek() === "|" && scan.accept("|"));
    return choices.length === 1 ? choices[0]! : net.choice(choices);
  };
  const sequence = (depth: number): Piece => {
    const pieces: Piece[] = [];
    for (let c = scan.peek(); c !== undefined && c !== "|" && c !== ")"; c = scan.peek()) {
      pieces.push(repeated(atom(depth)));
    }
    return net.sequence(pieces);
  };
  const repeated = (piece: Piece): Piece => {
    const times = scan.times();
    if (times === undefined) return piece;
    if (scan.peek() === "?") scan.at++; // lazy or not, the same texts match
    if (["*", "+", "?", "{"].includes(scan.peek() ?? "")) scan.fail("two repetitions of one thing");
    return net.repeat(piece, ...times);
  };
  const atom = (depth: number): Piece => {
    const c = scan.take();
    if (c === "(") {
      if (scan.peek() === "?") {
        scan.at++;
        if (scan.take() !== ":") scan.fail("only groups (…) and (?:…) are regular");
      }
      const inner = alternatives(depth + 1);
      if (scan.take() !== ")") scan.fail('")" is missing');
      return inner;
    }
    if (c === "[") return ofRanges(scan.set());
    if (c === ".") return ofRanges(inverse(LINE_ENDS));
    if (c === "\\") return ofRanges(scan.escaped());
    if ("*+?{".includes(c)) scan.fail(`"${c}" has nothing to repeat`);
    if ("^$".includes(c)) scan.fail(`"${c}" is only understood at the ends`);
    const code = c.codePointAt(0)!;
    return character(code, code);
  };
  const ofRanges = (ranges: readonly Range[]) =>
    net.choice(ranges.map(([a, b]) => character(a, b)));

  const piece = alternatives(0);
  if (scan.at < scan.end) scan.fail(`"${scan.peek()}" closes nothing`);
  return piece;
}

const LINE_ENDS: readonly Range[] = [
  [10, 10],
  [13, 13],
  [0x2028, 0x2029],
];
