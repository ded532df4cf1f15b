/** The values of a JSON file one at a time: the entries of one list, or values one after another. */

/** The UTF-8 of one value, or what is wrong there. */
export type JsonBytes = { readonly bytes: Uint8Array } | { readonly problem: string };

const [QUOTE, BACKSLASH, COMMA] = [0x22, 0x5c, 0x2c];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];
/** What ends a value, and begins none. */
const ENDS = [COMMA, CLOSE_LIST, CLOSE_OBJECT];
const isSpace = (byte: number) => byte === 32 || (byte >= 9 && byte <= 13);

/**
 * Cuts a stream into the values that it holds, by brackets and quotes alone: each value is still to be
 * parsed. A list at the top gives its entries; anything else gives the values at the top.
 * @param maxBytes a larger value is a problem, and is passed over without being kept
 * @throws Error where the values are not separated or ended as they should be, after those before
 */
export async function* splitJson(
  chunks: AsyncIterable<Uint8Array>,
  maxBytes: number,
): AsyncGenerator<JsonBytes> {
  let place: "start" | "entry" | "after entry" | "top" | "after list" = "start";
  let value: ValueBuilder | undefined;
  let count = 0;
  for await (const chunk of withoutByteOrderMark(chunks)) {
    let from = 0;
    for (let i = 0; i < chunk.length; i++) {
      if (value) {
        const end = value.scan(chunk, i);
        if (end < 0) break;
        yield value.finish(chunk.subarray(from, end));
        value = undefined;
        place = place === "top" ? "top" : "after entry";
        i = end - 1;
        continue;
      }
      const byte = chunk[i] as number;
      if (isSpace(byte)) continue;
      if (place === "start" && byte === OPEN_LIST) place = "entry";
      else if (byte === CLOSE_LIST && (place === "after entry" || (place === "entry" && !count))) {
        place = "after list";
      } else if (place === "after entry" && byte === COMMA) place = "entry";
      else if (place === "after list" || place === "after entry" || ENDS.includes(byte)) {
        throw new Error(
          `not valid JSON: unexpected ${JSON.stringify(String.fromCharCode(byte))} after record ${count}`,
        );
      } else {
        if (place === "start") place = "top";
        count++;
        value = new ValueBuilder(maxBytes);
        from = i;
        i--;
      }
    }
    value?.keep(chunk.subarray(from));
  }
  if (value && place === "top" && value.complete) yield value.finish(new Uint8Array());
  else if (value || place === "entry" || place === "after entry") {
    throw new Error(`not valid JSON: the file ends within record ${count}; was it cut short?`);
  }
}

/** Finds the end of one value, over as many chunks as it takes. */
class ValueBuilder {
  readonly #maxBytes: number;
  #parts: Uint8Array[] = [];
  #length = 0;
  #depth = 0;
  #inString = false;
  #escaped = false;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Whether the value may end where the file does: a number does, an open bracket does not. */
  get complete(): boolean {
    return this.#depth === 0 && !this.#inString;
  }

  /** Where in the chunk the value ends, or −1 when it goes on after it. */
  scan(chunk: Uint8Array, from: number): number {
    for (let i = from; i < chunk.length; i++) {
      const byte = chunk[i] as number;
      if (this.#inString) {
        if (this.#escaped) this.#escaped = false;
        else if (byte === BACKSLASH) this.#escaped = true;
        else if (byte === QUOTE) {
          this.#inString = false;
          if (this.#depth === 0) return i + 1;
        }
      } else if (byte === QUOTE) this.#inString = true;
      else if (byte === OPEN_OBJECT || byte === OPEN_LIST) this.#depth++;
      else if (byte === CLOSE_OBJECT || byte === CLOSE_LIST) {
        if (this.#depth <= 1) return this.#depth === 0 && byte === CLOSE_LIST ? i : i + 1;
        this.#depth--;
      } else if (this.#depth === 0 && (byte === COMMA || isSpace(byte))) return i;
    }
    return -1;
  }

  /** Keeps a part of the value; the stream may reuse its buffer. */
  keep(part: Uint8Array): void {
    this.#length += part.length;
    if (this.#length > this.#maxBytes) this.#parts = [];
    else this.#parts.push(new Uint8Array(part));
  }

  finish(last: Uint8Array): JsonBytes {
    const length = this.#length + last.length;
    if (length > this.#maxBytes) {
      return {
        problem: `the record has ${length} bytes, more than the limit of ${this.#maxBytes}`,
      };
    }
    return { bytes: this.#parts.length === 0 ? last : Buffer.concat([...this.#parts, last]) };
  }
}

async function* withoutByteOrderMark(
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  let first = true;
  for await (const chunk of chunks) {
    const marked = first && chunk[0] === 0xef && chunk[1] === 0xbb && chunk[2] === 0xbf;
    first = false;
    yield marked ? chunk.subarray(3) : chunk;
  }
}
