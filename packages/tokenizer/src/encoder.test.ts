import { expect, test } from "vitest";
import type { BpeModel } from "./bpe.ts";
import { Tokenizer } from "./tokenizer.ts";
import { trainBpe } from "./train.ts";

/** Words of 2 to 40 letters, so that some are too long for the cache; the same for the same seed. */
function makeWords(count: number, seed: number): string[] {
  let state = seed;
  const random = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  return Array.from({ length: count }, () => {
    let word = " ";
    for (let n = 1 + random(39); n > 0; n--) word += "abcdeé中"[random(7)];
    return word;
  });
}

test("a cache that is full and turned over gives the ids that an empty one gives", () => {
  const learned = trainBpe([makeWords(2000, 1).join("")], { vocabSize: 800 });
  const used = new Tokenizer(learned.data);
  const probes = makeWords(300, 2);
  const first = probes.map((word) => used.encode(word).join());
  // 65,536 places; twice as many words that are short enough push every early word out.
  const flood = makeWords(200_000, 3).join("");
  expect(used.decode(used.encode(flood)) === flood).toBe(true);
  expect(probes.map((word) => used.encode(word).join())).toEqual(first);
  const fresh = new Tokenizer(learned.data);
  expect(used.encode(flood).join() === fresh.encode(flood).join()).toBe(true);
});

/** Byte-pair encoding as it is defined: merge the best-ranked pair, from the left, until none is left. */
function mergeSlowly(word: string, { byteIds, merges }: BpeModel): number[] {
  let symbols = Array.from(new TextEncoder().encode(word), (byte) => byteIds[byte]!);
  for (;;) {
    const present = new Set(symbols.slice(1).map((right, i) => `${symbols[i]} ${right}`));
    let at = 0;
    while (at < merges.length && !present.has(`${merges[at]} ${merges[at + 1]}`)) at += 3;
    if (at === merges.length) return symbols;
    const merged: number[] = [];
    for (let i = 0; i < symbols.length; i++) {
      const isPair = symbols[i] === merges[at] && symbols[i + 1] === merges[at + 1];
      merged.push(isPair ? merges[at + 2]! : symbols[i]!);
      if (isPair) i++;
    }
    symbols = merged;
  }
}

test("words of every length have the ids of the definition, also from the cache", () => {
  const learned = trainBpe(["abaab".repeat(80), makeWords(50, 4).join("")], { vocabSize: 340 });
  for (let length = 1; length <= 220; length += length < 100 ? 1 : 9) {
    for (const letters of ["abaab", "aaaab", "cédab"]) {
      const word = letters.repeat(length).slice(0, length);
      const expected = mergeSlowly(word, learned.data.model);
      expect([...learned.encode(word)], word).toEqual(expected);
      expect([...learned.encode(word)], word).toEqual(expected);
    }
  }
});
