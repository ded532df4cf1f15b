/**
 * Walks over JSON in UTF-8 without building it, so that a vocabulary of 128,000 tokens goes
 * straight into arrays. Errors say the line and column.
 */
export class JsonReader {
  readonly bytes: Uint8Array;
  pos = 0;
  readonly #name: string;

  /** @param name what the errors call the file */
  constructor(bytes: Uint8Array, name: string) {
    // A plain view: the engine compiles the loops for one kind of array, not for Node's Buffer too.
    this.bytes = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#name = name;
    if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) this.pos = 3; // a byte order mark
  }

  fail(message: string, at: number = this.pos): never {
    let line = 1;
    let lineStart = 0;
    const stop = Math.min(at, this.bytes.length);
    for (let i = 0; i < stop; i++) {
      if (this.bytes[i] === 0x0a) {
        line++;
        lineStart = i + 1;
      }
    }
    throw new Error(`${this.#name}:${line}:${stop - lineStart + 1}: ${message}`);
  }

  /** Skips white space and returns the next byte, or -1 at the end. */
  peek(): number {
    const bytes = this.bytes;
    const length = bytes.length;
    let i = this.pos;
    let byte = -1;
    for (; i < length; i++) {
      byte = bytes[i]!;
      if (byte > 0x20 || (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09)) break;
    }
    this.pos = i;
    return i < length ? byte : -1;
  }

  /** Takes one punctuation mark of JSON. */
  expect(char: string): void {
    if (this.peek() !== char.charCodeAt(0)) this.fail(`expected ${char}${this.#found()}`);
    this.pos++;
  }

  /**
   * Enters the object or array here, and says whether it has a first element. With {@link more} a
   * loop and no callback, which the engine compiles as one piece:
   * `for (let more = reader.enter("["); more; more = reader.more("]"))`
   */
  enter(bracket: "{" | "["): boolean {
    this.expect(bracket);
    if (this.peek() !== bracket.charCodeAt(0) + 2) return true; // in ASCII, "}" and "]" are 2 on
    this.pos++;
    return false;
  }

  /** After an element: goes past the comma, or past the closing bracket and says false. */
  more(bracket: "}" | "]"): boolean {
    const byte = this.peek();
    if (byte !== 0x2c && byte !== bracket.charCodeAt(0)) {
      this.fail(`expected , or ${bracket}${this.#found()}`);
    }
    this.pos++;
    return byte === 0x2c;
  }

  /** The key of an object's element, with its colon. */
  key(): string {
    this.quote();
    this.pos--;
    const key = this.value();
    this.expect(":");
    return key as string;
  }

  /** Goes past the quotation mark that a string starts with. */
  quote(): void {
    if (this.peek() !== 0x22) this.fail(`expected a string${this.#found()}`);
    this.pos++;
  }

  /** The value here, of any kind, as JSON.parse gives it. */
  value(): unknown {
    const start = this.pos;
    this.skip();
    try {
      return JSON.parse(new TextDecoder().decode(this.bytes.subarray(start, this.pos)));
    } catch (error) {
      this.fail(`not JSON: ${(error as Error).message}`, start);
    }
  }

  /** Moves past the value here, looking only at strings and brackets. */
  skip(): void {
    const bytes = this.bytes;
    const start = this.pos;
    let depth = 0;
    this.peek();
    while (this.pos < bytes.length) {
      const byte = bytes[this.pos]!;
      if (byte === 0x22) this.#skipString();
      else if (byte === 0x7b || byte === 0x5b) {
        depth++;
        this.pos++;
      } else if (byte === 0x7d || byte === 0x5d) {
        if (depth === 0) return;
        depth--;
        this.pos++;
      } else if (depth > 0) {
        this.pos++;
        continue;
      } else if (byte === 0x2c) return;
      else {
        this.#skipScalar();
        return;
      }
      if (depth === 0) return;
    }
    this.fail("the file ends inside this value", start);
  }

  /** A whole number that is not negative. */
  integer(): number {
    this.peek();
    const bytes = this.bytes;
    const start = this.pos;
    let value = 0;
    let i = start;
    for (let digit = (bytes[i] ?? 0) - 0x30; digit >= 0 && digit <= 9; digit = bytes[i]! - 0x30) {
      value = value * 10 + digit;
      i++;
    }
    const byte = bytes[i];
    if (i === start || byte === 0x2e || byte === 0x65 || byte === 0x45 || value > 0x7fffffff) {
      this.fail("expected a whole number from 0 to 2147483647");
    }
    this.pos = i;
    return value;
  }

  /** The code point that the escape at `pos` (a backslash) stands for; half of a pair stays half. */
  escape(): number {
    const byte = this.bytes[this.pos + 1] ?? 0;
    if (byte === 0x75) {
      const digits = String.fromCharCode(...this.bytes.subarray(this.pos + 2, this.pos + 6));
      if (!/^[0-9a-fA-F]{4}$/.test(digits)) this.fail("expected four hexadecimal digits after \\u");
      this.pos += 6;
      return Number.parseInt(digits, 16);
    }
    const at = '"\\/bfnrt'.indexOf(String.fromCharCode(byte));
    if (at < 0) this.fail("unknown escape in a string");
    this.pos += 2;
    return '"\\/\b\f\n\r\t'.charCodeAt(at);
  }

  /** Errors unless only white space is left. */
  end(): void {
    if (this.peek() !== -1) this.fail(`expected the end of the file${this.#found()}`);
  }

  #skipString(): void {
    const start = this.pos;
    let i = this.bytes.indexOf(0x22, start + 1);
    for (; i >= 0; i = this.bytes.indexOf(0x22, i + 1)) {
      let slashes = 0;
      while (this.bytes[i - 1 - slashes] === 0x5c) slashes++;
      if (slashes % 2 === 0) {
        this.pos = i + 1;
        return;
      }
    }
    this.fail("the file ends inside this string", start);
  }

  #skipScalar(): void {
    while (
      this.pos < this.bytes.length &&
      !" \n\r\t,]}".includes(String.fromCharCode(this.bytes[this.pos]!))
    ) {
      this.pos++;
    }
  }

  #found(): string {
    const byte = this.peek();
    return byte === -1
      ? ", but the file ends here"
      : `, found ${JSON.stringify(String.fromCharCode(byte))}`;
  }
}
