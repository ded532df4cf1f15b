/**
 * Regular expressions, the part of JavaScript's that is regular: literals, `.`, classes, groups, `|`,
 * `* + ? {m,n}`, and the escapes \d \w \s \D \W \S \n \r \t \f \v \uXXXX \xXX. A pattern holds for the
 * whole text; `^` at its start and `$` at its end are let pass.
 */
import { GrammarError, type Network, type Piece } from "./network.ts";

type Range = readonly [low: number, high: number];

const LAST = 0x10ffff;
const CLASSES: Readonly<Record<string, readonly Range[]>> = {
  d: [[48, 57]],
  w: [
    [48, 57],
    [65, 90],
    [95, 95],
    [97, 122],
  ],
  s: [
    [9, 13],
    [32, 32],
    [0xa0, 0xa0],
    [0xfeff, 0xfeff],
  ],
};
const CONTROLS: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, f: 12, v: 11, "0": 0 };
const MAX_REPEAT = 1000;
const MAX_DEPTH = 100;

/** `character` maps ranges of code points to what stands for them: in JSON strings, not themselves. */
export function regex(
  net: Network,
  pattern: string,
  character: (low: number, high: number) => Piece = (low, high) => net.characters(low, high),
): Piece {
  const input = [...pattern];
  let at = 0;
  let end = input.length;
  if (input[0] === "^") at++;
  if (input[end - 1] === "$" && input[end - 2] !== "\\") end--;

  const fail = (why: string): never => {
    throw new GrammarError(`pattern ${JSON.stringify(pattern)}: ${why} at character ${at}`);
  };
  const peek = () => (at < end ? input[at] : undefined);
  const take = () => (at < end ? input[at++]! : fail("it ends too early"));

  const alternatives = (depth: number): Piece => {
    if (depth > MAX_DEPTH) fail("groups are nested too deeply");
    const choices: Piece[] = [];
    do choices.push(sequence(depth));
    while (peek() === "|" && at++ < end);
    return choices.length === 1 ? choices[0]! : net.choice(choices);
  };
  const sequence = (depth: number): Piece => {
    const pieces: Piece[] = [];
    while (peek() !== undefined && peek() !== "|" && peek() !== ")") {
      pieces.push(repeated(atom(depth)));
    }
    return net.sequence(pieces);
  };
  const repeated = (piece: Piece): Piece => {
    const sign = peek();
    let times: [number, number?] | undefined;
    if (sign === "*") times = [0];
    else if (sign === "+") times = [1];
    else if (sign === "?") times = [0, 1];
    else if (sign === "{") {
      const rest = input.slice(at, end).join("");
      const counts = /^\{(\d+)(,(\d*))?\}/.exec(rest);
      if (!counts) return fail('"{" begins no count; write \\{');
      const low = Number(counts[1]);
      const high = counts[2] === undefined ? low : counts[3] ? Number(counts[3]) : undefined;
      if (low > MAX_REPEAT || (high ?? low) > MAX_REPEAT) fail(`more than ${MAX_REPEAT} times`);
      if (high !== undefined && high < low) fail("the count ends before it begins");
      at += counts[0].length - 1;
      times = high === undefined ? [low] : [low, high];
    }
    if (times === undefined) return piece;
    at++;
    if (peek() === "?") at++; // lazy or not, the same texts match
    if (["*", "+", "?", "{"].includes(peek() ?? "")) fail("two repetitions of one thing");
    return net.repeat(piece, ...times);
  };
  const atom = (depth: number): Piece => {
    const c = take();
    if (c === "(") {
      if (peek() === "?") {
        at++;
        if (take() !== ":") fail("only groups (…) and (?:…) are regular");
      }
      const inner = alternatives(depth + 1);
      if (take() !== ")") fail('")" is missing');
      return inner;
    }
    if (c === "[") return ofRanges(set());
    if (c === ".")
      return ofRanges(
        inverse([
          [10, 10],
          [13, 13],
          [0x2028, 0x2029],
        ]),
      );
    if (c === "\\") return ofRanges(escaped());
    if ("*+?{".includes(c)) fail(`"${c}" has nothing to repeat`);
    if ("^$".includes(c)) fail(`"${c}" is only understood at the ends`);
    return one(c.codePointAt(0)!);
  };
  const one = (code: number) => character(code, code);
  const ofRanges = (ranges: readonly Range[]) =>
    net.choice(ranges.map(([a, b]) => character(a, b)));
  const escaped = (): readonly Range[] => {
    const c = take();
    const lower = c.toLowerCase();
    if (Object.hasOwn(CLASSES, lower)) {
      return c === lower ? CLASSES[lower]! : inverse(CLASSES[lower]!);
    }
    let code = Object.hasOwn(CONTROLS, c) ? CONTROLS[c] : undefined;
    if (c === "u" || c === "x") {
      const digits = Array.from({ length: c === "u" ? 4 : 2 }, take).join("");
      if (!/^[\da-f]+$/i.test(digits)) fail(`\\${c}${digits} is no character`);
      code = Number.parseInt(digits, 16);
    } else if (code === undefined && /[a-z\d]/i.test(c)) fail(`\\${c} is not understood`);
    code ??= c.codePointAt(0)!;
    return [[code, code]];
  };
  const set = (): readonly Range[] => {
    const negated = peek() === "^";
    if (negated) at++;
    const ranges: Range[] = [];
    while (peek() !== "]") {
      const low = item();
      const isRange = low.length === 1 && peek() === "-" && input[at + 1] !== "]";
      if (!isRange) {
        ranges.push(...low);
        continue;
      }
      at++;
      const high = item();
      if (high.length !== 1 || high[0]![1] < low[0]![0]) fail("a range ends before it begins");
      ranges.push([low[0]![0], high[0]![1]]);
    }
    at++;
    return negated ? inverse(ranges) : ranges;
  };
  const item = (): readonly Range[] => {
    const c = take();
    if (c === "\\") return escaped();
    const code = c.codePointAt(0)!;
    return [[code, code]];
  };

  const piece = alternatives(0);
  if (at < end) fail(`"${input[at]}" closes nothing`);
  return piece;
}

function inverse(ranges: readonly Range[]): Range[] {
  const gaps: Range[] = [];
  let from = 0;
  for (const [low, high] of ranges.toSorted((a, b) => a[0] - b[0])) {
    if (low > from) gaps.push([from, low - 1]);
    from = Math.max(from, high + 1);
  }
  if (from <= LAST) gaps.push([from, LAST]);
  return gaps;
}
