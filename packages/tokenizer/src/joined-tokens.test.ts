import { expect, test } from "vitest";
import { JoinedTokenSplitter } from "./joined-tokens.ts";
import { trainBpe } from "./train.ts";

const TEXT = 'He said: "no".\n\nThen he left!\n{ x; }\r\n\n— well…\n'.repeat(200);
const tokenizer = trainBpe([TEXT], { vocabSize: 420 });
const ids = tokenizer.encode(TEXT);
const textOf = (id: number) => tokenizer.decode([id]);

test("the tokens that join punctuation and line breaks, and no others, have two parts", () => {
  const { parts } = new JoinedTokenSplitter(tokenizer, { rate: 1 });
  const expected = Array.from({ length: tokenizer.vocabSize }, (_, id) => id).filter((id) =>
    /^ ?[\p{P}\p{S}]+[\r\n]+$/u.test(textOf(id).replace("\ufffd", "half")),
  );
  expect(expected.map(textOf)).toContain('".\n\n');
  expect([...parts.keys()]).toEqual(expected);
  for (const [id, split] of parts) {
    expect(tokenizer.decode(split)).toBe(textOf(id));
    expect(split.length).toBeGreaterThan(1);
    for (const part of split) expect(parts.has(part)).toBe(false);
  }
});

test("rate 0 splits none, 1 all, and between them about that share; the text stays", () => {
  const shareOf = (rate: number): number => {
    const splitter = new JoinedTokenSplitter(tokenizer, { rate });
    const count = (list: Uint32Array) => list.filter((id) => splitter.parts.has(id)).length;
    const split = splitter.split(ids, 1);
    expect(tokenizer.decode(split)).toBe(TEXT);
    return 1 - count(split) / count(ids);
  };
  expect(shareOf(0)).toBe(0);
  expect(shareOf(1)).toBe(1);
  expect(Math.abs(shareOf(0.25) - 0.25)).toBeLessThan(0.06);
});

test("the same seed and key split the same; others do not", () => {
  const split = (seed: number, key: number) =>
    new JoinedTokenSplitter(tokenizer, { rate: 0.5, seed }).split(ids, key).join();
  expect(split(1, 7)).toBe(split(1, 7));
  expect(split(1, 7)).not.toBe(split(1, 8));
  expect(split(1, 7)).not.toBe(split(2, 7));
});

test("a rate that is no share is refused", () => {
  for (const rate of [-0.1, 1.1, Number.NaN]) {
    expect(() => new JoinedTokenSplitter(tokenizer, { rate })).toThrow(/rate .*expected 0 to 1/);
  }
});
