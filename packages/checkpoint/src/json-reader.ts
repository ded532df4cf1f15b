/** Levels that serde_json allows, and so the reference reader; nothing here needs more than a few. */
const MAX_DEPTH = 127;

// Of character codes, which are faster to walk over than characters. NaN past the end.
const isSpace = (code: number): boolean =>
  code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09;
const isDigit = (code: number): boolean => code >= 0x30 && code <= 0x39;

/**
 * Reads JSON text front to back, telling the caller each key as it comes. `JSON.parse` will not do
 * for files that strangers wrote: it keeps the last of two equal keys, rounds large integers, and
 * builds whatever it is given. This takes linear time, and memory only for what the caller keeps.
 */
export class JsonReader {
  readonly #text: string;
  readonly #fail: (problem: string) => never;
  #at = 0;
  #depth = 0;

  /** @param fail throws; is told what is wrong and at which character. */
  constructor(text: string, fail: (problem: string) => never) {
    this.#text = text;
    this.#fail = fail;
  }

  /** The next character that is not space, "" at the end. */
  peek(): string {
    while (isSpace(this.#text.charCodeAt(this.#at))) this.#at++;
    return this.#text[this.#at] ?? "";
  }

  /** Reads an object; `member` is told each key and must read its value. */
  object(member: (key: string) => void): void {
    this.#list("{", "}", () => {
      const key = this.string();
      this.#expect(":");
      member(key);
    });
  }

  /** Reads an array; `item` must read one value. */
  array(item: () => void): void {
    this.#list("[", "]", item);
  }

  string(): string {
    if (this.peek() !== '"') this.#unexpected("a string");
    const text = this.#text;
    const begin = this.#at++;
    let escaped = false;
    for (; ; this.#at++) {
      const code = text.charCodeAt(this.#at);
      if (code === 0x22 /* " */) break;
      if (Number.isNaN(code)) this.#unexpected("the end of a string");
      if (code < 0x20) this.#unexpected("a string without control characters");
      if (code === 0x5c /* \ */) {
        escaped = true;
        this.#at++;
      }
    }
    const end = ++this.#at;
    if (!escaped) return text.slice(begin + 1, end - 1);
    try {
      const value: string = JSON.parse(text.slice(begin, end));
      if (value.isWellFormed()) return value;
    } catch {
      // Falls through: an escape that JSON does not know.
    }
    this.#at = begin;
    return this.#unexpected("a string of valid escapes");
  }

  /** Reads an integer from 0 to 2^53 - 1, written without sign, point or exponent. */
  integer(): number {
    this.peek();
    const begin = this.#at;
    const whole = this.#whole();
    const value = Number(this.#text.slice(begin, this.#at));
    const next = this.#text[this.#at];
    if (!whole || next === "." || next?.toLowerCase() === "e" || !Number.isSafeInteger(value)) {
      this.#at = begin;
      this.#unexpected("an integer from 0 to 2^53 - 1");
    }
    return value;
  }

  /** Reads and forgets any value. */
  skip(): void {
    const next = this.peek();
    if (next === "{") this.object(() => this.skip());
    else if (next === "[") this.array(() => this.skip());
    else if (next === '"') this.string();
    else if (next === "-" || isDigit(next.charCodeAt(0))) this.#skipNumber();
    else {
      const word =
        ["true", "false", "null"].find((w) => this.#text.startsWith(w, this.#at)) ??
        this.#unexpected("a value");
      this.#at += word.length;
    }
  }

  /** Makes sure that nothing but space is left. */
  end(): void {
    if (this.peek() !== "") this.#unexpected("the end");
  }

  #list(open: string, close: string, item: () => void): void {
    this.#expect(open);
    if (++this.#depth > MAX_DEPTH) this.#unexpected(`at most ${MAX_DEPTH} levels`);
    if (this.peek() === close) this.#at++;
    else {
      for (;;) {
        item();
        const next = this.peek();
        if (next !== "," && next !== close) this.#unexpected(`"," or "${close}"`);
        this.#at++;
        if (next === close) break;
      }
    }
    this.#depth--;
  }

  #skipNumber(): void {
    const begin = this.#at;
    if (this.#text[this.#at] === "-") this.#at++;
    let valid = this.#whole();
    if (this.#text[this.#at] === ".") {
      this.#at++;
      valid &&= this.#digits() > 0;
    }
    if (this.#text[this.#at]?.toLowerCase() === "e") {
      this.#at++;
      if (this.#text[this.#at] === "+" || this.#text[this.#at] === "-") this.#at++;
      valid &&= this.#digits() > 0;
    }
    if (!valid || !Number.isFinite(Number(this.#text.slice(begin, this.#at)))) {
      this.#at = begin;
      this.#unexpected("a number within the range of float64");
    }
  }

  /** Digits without a needless leading zero. */
  #whole(): boolean {
    const leadingZero = this.#text[this.#at] === "0";
    const count = this.#digits();
    return count === 1 || (count > 1 && !leadingZero);
  }

  #digits(): number {
    const begin = this.#at;
    while (isDigit(this.#text.charCodeAt(this.#at))) this.#at++;
    return this.#at - begin;
  }

  #expect(char: string): void {
    if (this.peek() !== char) this.#unexpected(`"${char}"`);
    this.#at++;
  }

  #unexpected(expected: string): never {
    const found = this.#text.slice(this.#at, this.#at + 20);
    return this.#fail(
      `expected ${expected} at character ${this.#at}, found ${found === "" ? "the end" : JSON.stringify(found)}`,
    );
  }
}
