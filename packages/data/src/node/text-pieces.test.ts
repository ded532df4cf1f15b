import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type TextPiece, textPieces } from "./text-pieces.ts";

async function* stream(parts: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) {
    const buffer = Uint8Array.from(part);
    yield buffer;
    buffer.fill(0);
  }
}

async function cut(parts: readonly Uint8Array[], maxBytes: number): Promise<TextPiece[]> {
  const pieces: TextPiece[] = [];
  for await (const piece of textPieces(stream(parts), maxBytes)) pieces.push(piece);
  return pieces;
}

describe("textPieces", () => {
  it("keeps a text that is small enough whole", async () => {
    const text = "\ufeffa\n\nb\r\nc";
    expect(await cut([Buffer.from(text)], 100)).toEqual([{ line: 1, text: "a\n\nb\r\nc" }]);
    expect(await cut([], 100)).toEqual([]);
  });

  it("cuts a larger one at blank lines, or else at lines", async () => {
    const text = "one\ntwo\n\nthree\nfour\nfive\nsix";
    expect(await cut([Buffer.from(text)], 12)).toEqual([
      { line: 1, text: "one\ntwo\n\n" },
      { line: 4, text: "three\nfour\n" },
      { line: 6, text: "five\nsix" },
    ]);
  });

  it("tells the line of what it cannot take, and goes on", async () => {
    const text = Buffer.concat([
      Buffer.from("one\ntwo\n"),
      Buffer.from("three \xe9\n", "latin1"),
      Buffer.from("four\n"),
      Buffer.from(`${"x".repeat(50)}\nsix\n`),
      Buffer.from("y".repeat(50)),
    ]);
    const long = "the line has 50 bytes, more than the limit of 9 bytes";
    const expected = [
      { line: 1, text: "one\ntwo\n" },
      { line: 3, problem: "not valid UTF-8" },
      { line: 4, text: "four\n" },
      { line: 5, problem: long },
      { line: 6, text: "six\n" },
      { line: 7, problem: long },
    ];
    expect(await cut([text], 9)).toEqual(expected);
    const bytes = Array.from({ length: text.length }, (_, i) => text.subarray(i, i + 1));
    expect(await cut(bytes, 9)).toEqual(expected);
  });

  it("loses nothing, for any text and any cut of the stream", async () => {
    const line = fc
      .string({ unit: "binary", maxLength: 8 })
      .map((text) => text.replaceAll("\n", ""));
    await fc.assert(
      fc.asyncProperty(
        fc.array(line, { minLength: 1, maxLength: 20 }),
        fc.array(fc.nat(300), { maxLength: 6 }),
        async (lines, cuts) => {
          const text = Buffer.from(`-${lines.join("\n")}`);
          const ends = [...cuts.map((c) => c % (text.length + 1)), text.length];
          const at = [0, ...ends.sort((a, b) => a - b)];
          const parts = at.slice(1).map((end, i) => text.subarray(at[i], end));
          const pieces = await cut(parts, 40);
          expect(pieces).toEqual(await cut([text], 40));
          const texts = pieces.map((piece) => ("text" in piece ? piece.text : "?"));
          expect(texts.join("")).toBe(text.toString());
          for (const piece of texts) expect(Buffer.byteLength(piece)).toBeLessThanOrEqual(40);
        },
      ),
      { numRuns: 50 },
    );
  });
});
