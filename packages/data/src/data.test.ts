import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type DocumentTokenizer, encodeCorpus } from "./corpus.ts";
import { fillInTheMiddle } from "./fim.ts";
import { PackedRows } from "./packing.ts";
import { randomStream } from "./random.ts";

/** UTF-16 code units as tokens, shifted past four control tokens. */
const units: DocumentTokenizer = {
  encode: (text) => Array.from({ length: text.length }, (_, i) => text.charCodeAt(i) + 4),
  special: { eos: 0, fimBegin: 1, fimHole: 2, fimEnd: 3 },
};
const text = (ids: readonly number[]) => String.fromCharCode(...ids.map((i) => i - 4));

describe("encodeCorpus", () => {
  test("ends every document, skips empty ones", () => {
    const { tokens, starts } = encodeCorpus(["ab", "", "c"], units);
    expect(Array.from(tokens)).toEqual([101, 102, 0, 103, 0]);
    expect(Array.from(starts)).toEqual([0, 3, 5]);
  });
  test("begins every document where the tokenizer has a token for it", () => {
    const { tokens, starts } = encodeCorpus(["ab", "c"], { ...units, special: { bos: 9, eos: 0 } });
    expect(Array.from(tokens)).toEqual([9, 101, 102, 0, 9, 103, 0]);
    expect(Array.from(starts)).toEqual([0, 4, 7]);
  });
  test("rewrites about the given share for filling in the middle", () => {
    const { tokens } = encodeCorpus(
      Array.from({ length: 4000 }, () => "hello"),
      units,
      { fimRate: 0.1, seed: 3 },
    );
    const share = tokens.filter((t) => t === 1).length / 4000;
    expect(Math.abs(share - 0.1)).toBeLessThan(0.015);
  });
  test("a tokenizer without the tokens is refused", () => {
    expect(() => encodeCorpus(["a"], { ...units, special: {} })).toThrow(
      "no end-of-sequence token",
    );
    expect(() => encodeCorpus(["a"], { ...units, special: { eos: 0 } }, { fimRate: 1 })).toThrow(
      "fill-in-the-middle",
    );
  });
});

test("prefix, middle and suffix make up the document, and no surrogate pair is split", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), fc.nat(), (document, seed) => {
      const ids = fillInTheMiddle(document, units, randomStream(seed));
      const [begin, hole, end] = [ids.indexOf(1), ids.indexOf(2), ids.indexOf(3)];
      expect(begin).toBe(0);
      const parts = [ids.slice(1, hole), ids.slice(end + 1), ids.slice(hole + 1, end)].map(text);
      expect(parts.join("")).toBe(document);
      if (document.isWellFormed()) for (const part of parts) expect(part.isWellFormed()).toBe(true);
    }),
  );
});

describe("PackedRows", () => {
  const corpus = encodeCorpus(["first", "the second", "3", "and a fourth one"], units);

  test("an epoch holds every token once, in whole documents", () => {
    const rows = new PackedRows(corpus, 1);
    const { inputIds } = rows.next(1, corpus.tokens.length);
    expect(rows.position).toEqual({ epoch: 1, document: 0, offset: 0 });
    expect(Array.from(inputIds).sort()).toEqual(Array.from(corpus.tokens).sort());
    expect(
      text(Array.from(inputIds))
        .split(text([0]))
        .sort(),
    ).toEqual(["", "3", "and a fourth one", "first", "the second"]);
  });
  test("epochs differ, seeds differ, the same seed repeats", () => {
    const take = (seed: number, n: number) =>
      Array.from(new PackedRows(corpus, seed).next(1, n).inputIds);
    const n = corpus.tokens.length;
    expect(take(1, n)).toEqual(take(1, n));
    expect(new Set([1, 2, 3, 4, 5].map((s) => take(s, n).join())).size).toBeGreaterThan(1);
    const two = take(1, 2 * n);
    expect(
      [1, 2, 3, 4, 5].some(
        (s) =>
          take(s, 2 * n)
            .slice(0, n)
            .join() !==
          take(s, 2 * n)
            .slice(n)
            .join(),
      ),
    ).toBe(true);
    expect(two).toHaveLength(2 * n);
  });
  test("targets are the next tokens, across rows, documents and epochs; any position resumes exactly", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 40 }),
        fc.nat(6),
        (rows, length, skip) => {
          const stream = new PackedRows(corpus, 9);
          for (let i = 0; i < skip; i++) stream.next(rows, length);
          const resumed = new PackedRows(corpus, 9);
          resumed.seek(JSON.parse(JSON.stringify(stream.position)));
          const a = stream.next(rows, length);
          expect(resumed.next(rows, length)).toEqual(a);
          const flat = Array.from(a.inputIds);
          expect(Array.from(a.targets).slice(0, -1)).toEqual(flat.slice(1));
          expect(a.targets.at(-1)).toBe(stream.next(1, 1).inputIds[0]);
        },
      ),
    );
  });
  test("positions of other data, and corpora without tokens, are refused", () => {
    const stream = new PackedRows(corpus, 1);
    expect(() => stream.seek({ epoch: 0, document: 9, offset: 0 })).toThrow(
      "does not lie in this corpus of 4 documents",
    );
    expect(() => stream.seek({ epoch: -1, document: 0, offset: 0 })).toThrow(RangeError);
    expect(() => new PackedRows(encodeCorpus([], units), 1)).toThrow("needs two tokens");
  });
});

test("the README's example does what it says", () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const code = (/```ts\n([\s\S]*?)```/.exec(readme) as RegExpExecArray)[1] as string;
  const body = code.replace(/^import .*$/gm, "").replace(/console\.log\((.*)\);/g, "out.push($1);");
  const out: unknown[] = [];
  new Function("encodeCorpus", "PackedRows", "tokenizer", "out", body)(
    encodeCorpus,
    PackedRows,
    units,
    out,
  );
  expect(out).toEqual([8, 8, true]);
});
