/** A text file as documents: one, or several where it is larger than a document may be. */
import { isUtf16 } from "./lines.ts";

/** A document, or what is wrong with it; `line` is its first, or that of the problem, from 1. */
export type TextPiece =
  | { readonly line: number; readonly text: string }
  | { readonly line: number; readonly problem: string };

const NEWLINE = 10;

/**
 * Cuts a text into pieces of at most `maxBytes`, each at the last blank line that fits, or else at the
 * last line end. A line longer than that is a problem, and is passed over without being kept.
 */
export async function* textPieces(
  chunks: AsyncIterable<Uint8Array>,
  maxBytes: number,
): AsyncGenerator<TextPiece> {
  let parts: Uint8Array[] = [];
  let length = 0;
  let line = 1;
  /** Bytes of a line that is too long, which are passed over up to its end. */
  let tooLong = 0;
  for await (let chunk of chunks) {
    if (tooLong > 0) {
      const end = chunk.indexOf(NEWLINE);
      tooLong += end < 0 ? chunk.length : end;
      if (end < 0) continue;
      yield { line: line++, problem: longLine(tooLong, maxBytes) };
      tooLong = 0;
      chunk = chunk.subarray(end + 1);
    }
    // The stream may reuse its buffer.
    parts.push(new Uint8Array(chunk));
    length += chunk.length;
    if (length <= maxBytes) continue;
    let rest: Buffer = Buffer.concat(parts);
    while (rest.length > maxBytes) {
      const cut = cutWithin(rest, maxBytes);
      if (cut > 0) {
        yield decoded(rest.subarray(0, cut), line);
        line += countLines(rest.subarray(0, cut));
        rest = rest.subarray(cut);
        continue;
      }
      const end = rest.indexOf(NEWLINE);
      if (end < 0) tooLong = rest.length;
      else yield { line: line++, problem: longLine(end, maxBytes) };
      rest = rest.subarray(end < 0 ? rest.length : end + 1);
    }
    parts = rest.length > 0 ? [rest] : [];
    length = rest.length;
  }
  if (tooLong > 0) yield { line, problem: longLine(tooLong, maxBytes) };
  if (length > 0) yield decoded(Buffer.concat(parts), line);
}

const longLine = (bytes: number, maxBytes: number) =>
  `the line has ${bytes} bytes, more than the limit of ${maxBytes} bytes`;

/** After the last blank line, or the last line end, in the first `maxBytes`; 0 when there is none. */
function cutWithin(bytes: Buffer, maxBytes: number): number {
  const blank = bytes.lastIndexOf("\n\n", maxBytes - 2);
  return blank > maxBytes / 2 ? blank + 2 : bytes.lastIndexOf(NEWLINE, maxBytes - 1) + 1;
}

function decoded(bytes: Uint8Array, line: number): TextPiece {
  if (line === 1 && isUtf16(bytes)) {
    return { line, problem: "the file is UTF-16; save it as UTF-8" };
  }
  try {
    return {
      line,
      text: new TextDecoder("utf-8", { fatal: true, ignoreBOM: line > 1 }).decode(bytes),
    };
  } catch {
    return { line: line + linesBeforeInvalid(bytes), problem: "not valid UTF-8" };
  }
}

/** How many lines stand before the first that does not decode. */
function linesBeforeInvalid(bytes: Uint8Array): number {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  for (let lines = 0, from = 0; ; lines++) {
    const newline = bytes.indexOf(NEWLINE, from);
    const end = newline < 0 ? bytes.length : newline;
    try {
      decoder.decode(bytes.subarray(from, end));
    } catch {
      return lines;
    }
    if (newline < 0) return lines;
    from = end + 1;
  }
}

function countLines(bytes: Uint8Array): number {
  let lines = 0;
  for (let at = bytes.indexOf(NEWLINE); at >= 0; at = bytes.indexOf(NEWLINE, at + 1)) lines++;
  return lines;
}
