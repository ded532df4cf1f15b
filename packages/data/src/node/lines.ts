/** Lines of a byte stream, each checked by itself, so that one bad line does not lose a file. */

/** A line's text, or what is wrong with it. `number` counts from 1. */
export interface Line {
  readonly number: number;
  readonly text?: string;
  readonly problem?: string;
}

const NEWLINE = 10;

/**
 * Lines in groups, as they come: a step of an asynchronous iteration costs as much as a short line.
 * Splits at "\n" ("\r\n" too) and decodes UTF-8; a byte order mark is dropped.
 * @param maxBytes a longer line is a problem, and is passed over without being kept
 */
export async function* splitLines(
  chunks: AsyncIterable<Uint8Array>,
  maxBytes: number,
): AsyncGenerator<Line[]> {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let parts: Uint8Array[] = [];
  let length = 0;
  let number = 0;
  const add = (part: Uint8Array) => {
    length += part.length;
    if (length > maxBytes) parts = [];
    else if (part.length > 0) parts.push(part);
  };
  const finish = (): Line => {
    number++;
    const line = toLine(number, parts, length, maxBytes, decoder);
    parts = [];
    length = 0;
    return line;
  };
  for await (const chunk of chunks) {
    const lines: Line[] = [];
    let from = 0;
    for (let at = chunk.indexOf(NEWLINE); at >= 0; at = chunk.indexOf(NEWLINE, from)) {
      add(chunk.subarray(from, at));
      lines.push(finish());
      from = at + 1;
    }
    // The stream may reuse its buffer, so that what is kept over chunks is copied.
    if (from < chunk.length) add(new Uint8Array(chunk.subarray(from)));
    if (lines.length > 0) yield lines;
  }
  if (length > 0) yield [finish()];
}

function toLine(
  number: number,
  parts: readonly Uint8Array[],
  length: number,
  maxBytes: number,
  decoder: TextDecoder,
): Line {
  if (length > maxBytes) {
    return { number, problem: `the line has ${length} bytes, more than the limit of ${maxBytes}` };
  }
  const bytes = parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts);
  if (number === 1 && isUtf16(bytes)) {
    return { number, problem: "the file is UTF-16; save it as UTF-8" };
  }
  try {
    let text = decoder.decode(bytes);
    if (number === 1 && text.startsWith("\ufeff")) text = text.slice(1);
    return { number, text: text.endsWith("\r") ? text.slice(0, -1) : text };
  } catch {
    return { number, problem: "not valid UTF-8" };
  }
}

export function isUtf16(bytes: Uint8Array): boolean {
  return (bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff);
}
