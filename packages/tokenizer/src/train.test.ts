/** Training against what Hugging Face's BpeTrainer learns from the same texts. */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { PreTokenizerName } from "./pretokenize.ts";
import { SPECIAL_TOKENS } from "./special.ts";
import { Tokenizer } from "./tokenizer.ts";
import { type TrainBpeProgress, trainBpe } from "./train.ts";

interface Case {
  name: string;
  texts: string[];
  vocabSize: number;
  preTokenizer: PreTokenizerName;
  minFrequency: number;
  maxTokenLength: number | null;
  specialTokens: string[];
  /** What Hugging Face tokenizers 0.23 learned. */
  merges: string[][];
  /** The tokens after the special ones and the bytes, by id. */
  vocabTail: string[];
}

const cases = JSON.parse(
  readFileSync(new URL("./__fixtures__/train.json", import.meta.url), "utf8"),
) as Case[];

interface Saved {
  model: { vocab: Record<string, number>; merges: string[][] };
}

describe("the merges and ids of Hugging Face's trainer", () => {
  for (const { name, texts, merges, vocabTail, maxTokenLength, ...options } of cases) {
    test(name, () => {
      const limit = maxTokenLength === null ? {} : { maxTokenLength };
      const tokenizer = trainBpe(texts, { ...options, ...limit });
      const { model } = tokenizer.toJSON() as unknown as Saved;
      expect(model.merges.map((pair) => pair.join(" "))).toEqual(merges);
      const tokens = Object.entries(model.vocab).sort((a, b) => a[1] - b[1]);
      expect(tokens.map(([, id]) => id)).toEqual(tokens.map((_, i) => i));
      const first = options.specialTokens.length + 256;
      expect(tokens.slice(first).map(([token]) => token)).toEqual(vocabTail);
    });
  }
});

const TEXT = "the cat sat on the mat; the bat sat on the hat. ".repeat(20);

describe("trainBpe", () => {
  test("reserves DeepSeek's control tokens with their roles", () => {
    const { special, addedTokens, data } = trainBpe([TEXT], { vocabSize: 400 });
    expect(special).toEqual(
      Object.fromEntries(Object.keys(SPECIAL_TOKENS).map((role, id) => [role, id])),
    );
    expect(addedTokens.map(({ content }) => content)).toEqual(Object.values(SPECIAL_TOKENS));
    // What is thought is text to show; all others are left out when special tokens are.
    const shown = addedTokens.filter((token) => !token.special).map(({ content }) => content);
    expect(shown).toEqual(["<think>", "</think>"]);
    expect(data.prefix).toEqual([special.bos]);
  });

  test("what is saved reads back as the same tokenizer", () => {
    const tokenizer = trainBpe([TEXT], { vocabSize: 320 });
    const again = Tokenizer.fromJSON(JSON.stringify(tokenizer.toJSON()), tokenizer.config);
    expect(again.toJSON()).toEqual(tokenizer.toJSON());
    expect(again.special).toEqual(tokenizer.special);
    const options = { addSpecial: true, allowSpecial: true };
    const text = "<｜User｜>the cat <think>sat</think>";
    expect(again.encode(text, options)).toEqual(tokenizer.encode(text, options));
    expect(again.encode(text, options)[0]).toBe(tokenizer.special.bos);
  });

  test("any text, unseen ones too, decodes to itself", () => {
    const tokenizer = trainBpe([TEXT], { vocabSize: 300 });
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 40 }), (raw) => {
        const text = raw.toWellFormed();
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
      }),
      { numRuns: 200 },
    );
  });

  test("no text merges into a special token", () => {
    const texts = ["stop ".repeat(100)];
    const tokenizer = trainBpe(texts, { vocabSize: 300, specialTokens: ["stop"] });
    expect(Array.from(tokenizer.encode("stop stop"))).not.toContain(0);
    expect(tokenizer.toJSON()).toEqual(
      Tokenizer.fromJSON(tokenizer.toJSON(), tokenizer.config).toJSON(),
    );
  });

  test("tells how far it is", () => {
    const seen: TrainBpeProgress[] = [];
    const texts = Array.from({ length: 5 }, (_, i) => `${i} ${TEXT}`.repeat(600));
    const { vocabSize } = trainBpe(texts, { vocabSize: 290, onProgress: (p) => seen.push(p) });
    expect(seen[0]).toMatchObject({ stage: "count" });
    expect(seen.at(-1)).toEqual({ stage: "merge", done: vocabSize, total: vocabSize });
    for (const stage of ["count", "merge"]) {
      const done = seen.filter((p) => p.stage === stage).map((p) => p.done);
      expect(done).toEqual(done.toSorted((a, b) => a - b));
    }
  });

  test("no text, and text without pairs, give the bytes alone", () => {
    expect(trainBpe([], { vocabSize: 1000, specialTokens: [] }).vocabSize).toBe(256);
    expect(trainBpe(["", "a", "1"], { vocabSize: 1000, specialTokens: [] }).vocabSize).toBe(256);
  });

  test("a long run of one character takes linear time and fits a token's 65,535 bytes", () => {
    const tokenizer = trainBpe(["a".repeat(1_000_000)], { vocabSize: 2000, specialTokens: [] });
    const longest = Math.max(...tokenizer.byteLengths);
    expect(longest).toBeGreaterThanOrEqual(1 << 15);
    expect(longest).toBeLessThanOrEqual(65_535);
    const run = "a".repeat(300_000);
    expect(tokenizer.encode(run).length).toBeLessThan(20);
    expect(tokenizer.decode(tokenizer.encode(run)) === run).toBe(true);
  });

  test("settings that make no sense are refused with what was expected", () => {
    const small = () => trainBpe([TEXT], { vocabSize: 256 });
    expect(small).toThrow(/vocabSize 256: expected a whole number from 276/);
    expect(() => trainBpe([TEXT], { vocabSize: 1.5e9 })).toThrow(/vocabSize 1500000000/);
    expect(() => trainBpe([TEXT], { vocabSize: 300.5 })).toThrow(/vocabSize 300.5/);
    const special = (...specialTokens: string[]) =>
      trainBpe([TEXT], { vocabSize: 300, specialTokens });
    expect(() => special("<s>", "<s>")).toThrow(/"<s>" is given twice/);
    expect(() => special("")).toThrow(/empty/);
    expect(() => special("a")).toThrow(/"a" is the token of a byte/);
    const other = (options: object) => trainBpe([TEXT], { vocabSize: 300, ...options });
    expect(() => other({ maxTokenLength: 1 })).toThrow(/maxTokenLength 1/);
    expect(() => other({ minFrequency: -1 })).toThrow(/minFrequency -1/);
    expect(() => other({ preTokenizer: "bert" })).toThrow(/unknown pre-tokenizer "bert"/);
  });
});
