/** What regular expressions and EBNF have in common: characters, sets of them, and counts. */
import { GrammarError } from "./network.ts";

/** Code points low … high. */
export type Range = readonly [low: number, high: number];

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
/** Digits of an escape that is a number. */
const NUMBERS: Readonly<Record<string, number>> = { x: 2, u: 4, U: 8 };
const MAX_REPEAT = 1000;

/** What groups may be nested to. */
export const MAX_DEPTH = 100;

/** Characters read from left to right. */
export class Scanner {
  readonly input: readonly string[];
  /** What is read, for messages. */
  readonly #what: string;
  at = 0;
  end: number;

  constructor(text: string, what: string) {
    this.input = [...text];
    this.end = this.input.length;
    this.#what = what;
  }

  fail(why: string): never {
    throw new GrammarError(`${this.#what}: ${why} at character ${this.at}`);
  }

  peek(): string | undefined {
    return this.at < this.end ? this.input[this.at] : undefined;
  }

  take(): string {
    return this.at < this.end ? this.input[this.at++]! : this.fail("it ends too early");
  }

  /** Takes what stands here, if it is `text`. */
  accept(text: string): boolean {
    const here = this.input.slice(this.at, this.at + text.length).join("") === text;
    if (here) this.at += text.length;
    return here;
  }

  /** How often what stands before may come: `* + ? {m} {m,} {m,n}`; undefined: once. */
  times(): [low: number, high?: number] | undefined {
    if (this.accept("*")) return [0];
    if (this.accept("+")) return [1];
    if (this.accept("?")) return [0, 1];
    if (this.peek() !== "{") return undefined;
    const rest = this.input.slice(this.at, Math.min(this.end, this.at + 32)).join("");
    const counts = /^\{(\d+)(,(\d*))?\}/.exec(rest);
    if (!counts) return this.fail('"{" begins no count; write \\{');
    const low = Number(counts[1]);
    const high = counts[2] === undefined ? low : counts[3] ? Number(counts[3]) : undefined;
    if (low > MAX_REPEAT || (high ?? low) > MAX_REPEAT) this.fail(`more than ${MAX_REPEAT} times`);
    if (high !== undefined && high < low) this.fail("the count ends before it begins");
    this.at += counts[0].length;
    return high === undefined ? [low] : [low, high];
  }

  /** What an escape stands for, after its backslash. */
  escaped(): readonly Range[] {
    const c = this.take();
    const lower = c.toLowerCase();
    if (Object.hasOwn(CLASSES, lower)) {
      return c === lower ? CLASSES[lower]! : inverse(CLASSES[lower]!);
    }
    let code = Object.hasOwn(CONTROLS, c) ? CONTROLS[c] : undefined;
    const length = Object.hasOwn(NUMBERS, c) ? NUMBERS[c] : undefined;
    if (length !== undefined) {
      const digits = Array.from({ length }, () => this.take()).join("");
      code = /^[\da-f]+$/i.test(digits) ? Number.parseInt(digits, 16) : LAST + 1;
      if (code > LAST) this.fail(`\\${c}${digits} is no character`);
    } else if (code === undefined && /[a-z\d]/i.test(c)) this.fail(`\\${c} is not understood`);
    code ??= c.codePointAt(0)!;
    return [[code, code]];
  }

  /** A set of characters, after its opening bracket. */
  set(): readonly Range[] {
    const negated = this.accept("^");
    const ranges: Range[] = [];
    while (this.peek() !== "]") {
      const low = this.#item();
      const isRange = low.length === 1 && this.peek() === "-" && this.input[this.at + 1] !== "]";
      if (!isRange) {
        ranges.push(...low);
        continue;
      }
      this.at++;
      const high = this.#item();
      if (high.length !== 1 || high[0]![1] < low[0]![0]) this.fail("a range ends before it begins");
      ranges.push([low[0]![0], high[0]![1]]);
    }
    this.at++;
    return negated ? inverse(ranges) : ranges;
  }

  #item(): readonly Range[] {
    const c = this.take();
    if (c === "\\") return this.escaped();
    const code = c.codePointAt(0)!;
    return [[code, code]];
  }
}

/** All characters but these. */
export function inverse(ranges: readonly Range[]): Range[] {
  const gaps: Range[] = [];
  let from = 0;
  for (const [low, high] of ranges.toSorted((a, b) => a[0] - b[0])) {
    if (low > from) gaps.push([from, low - 1]);
    from = Math.max(from, high + 1);
  }
  if (from <= LAST) gaps.push([from, LAST]);
  return gaps;
}
