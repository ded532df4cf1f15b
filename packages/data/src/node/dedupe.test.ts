import { describe, expect, it } from "vitest";
import { randomStream } from "../random.ts";
import { Deduplicator } from "./dedupe.ts";

/** `n` words drawn from 5,000. */
function words(n: number, seed: number): string[] {
  const random = randomStream(seed);
  return Array.from({ length: n }, () => `w${Math.floor(random() * 5000)}`);
}

/** A text, the same with words left out, put in and replaced, and their exact similarity. */
function pair(seed: number): { first: string; second: string; jaccard: number } {
  const random = randomStream(seed);
  const word = () => `w${Math.floor(3000 * random() ** 3)}`;
  const first = Array.from({ length: 30 + Math.floor(400 * random() ** 2) }, word);
  const rate = 0.06 * random();
  const second = first.flatMap((kept) => {
    const u = random();
    if (u >= rate) return kept;
    return u < rate / 3 ? [] : u < (2 * rate) / 3 ? word() : [kept, word()];
  });
  const shingles = (text: string[]) =>
    new Set(text.slice(4).map((_, i) => text.slice(i, i + 5).join(" ")));
  const [a, b] = [shingles(first), shingles(second)];
  const common = [...a].filter((shingle) => b.has(shingle)).length;
  const jaccard = common / (a.size + b.size - common);
  return { first: first.join(" "), second: second.join(" "), jaccard };
}

const meets = (s: number) => 1 - (1 - s ** 4) ** 32;

/** That at least 103 of 128 places agree, which is 0.8 of them. */
function estimated(s: number): number {
  let [sum, term] = [0, (1 - s) ** 128];
  for (let k = 0; k <= 128; k++) {
    if (k >= 103) sum += term;
    term *= ((128 - k) / (k + 1)) * (s / (1 - s));
  }
  return sum;
}

describe("Deduplicator", () => {
  it("knows a text again", () => {
    const seen = new Deduplicator({ near: 1 });
    expect(["a b", "a  b", "a b", ""].map((text) => seen.add(text))).toEqual([
      "new",
      "new",
      "exact",
      "new",
    ]);
  });

  it("finds near duplicates, and no others, among thousands", () => {
    const seen = new Deduplicator({ near: 0.8 });
    for (let d = 0; d < 2000; d++) expect(seen.add(words(200, d).join(" "))).toBe("new");
    let near = 0;
    for (let d = 0; d < 200; d++) {
      // One word changed of 200 leaves 191 of 201 different shingles in common: 0.95.
      const changed = words(200, d);
      changed[100] = "changed";
      if (seen.add(changed.join(" ")) === "near") near++;
    }
    expect(near).toBeGreaterThan(195);
    // Half of the text in common is a Jaccard similarity of about a third.
    const half = [...words(100, 0), ...words(100, 999_999)].join(" ");
    expect(seen.add(half)).toBe("new");
  });

  it("finds pairs as often as the curve says, and hardly any others", { timeout: 30_000 }, () => {
    const pairs = Array.from({ length: 2500 }, (_, seed) => pair(seed)).filter(
      ({ jaccard }) => jaccard > 0.4 && jaccard < 1,
    );
    const found = pairs.map(({ first, second }) => {
      const seen = new Deduplicator({ near: 0.8 });
      seen.add(first);
      return seen.add(second) === "near";
    });
    const share = (of: number, from: number, to: number) => {
      const chosen = pairs.flatMap(({ jaccard }, i) => (jaccard >= from && jaccard < to ? i : []));
      expect(chosen.length).toBeGreaterThan(100);
      return chosen.filter((i) => found[i] === (of === 1)).length / chosen.length;
    };
    // Recall well above the similarity asked for, and precision well below.
    expect(share(1, 0.85, 1)).toBeGreaterThan(0.98);
    expect(share(1, 0.9, 1)).toBe(1);
    expect(share(0, 0.4, 0.7)).toBeGreaterThan(0.995);
    expect(share(0, 0.4, 0.65)).toBe(1);
    // In between, by the S-curve: 32 bands of 4 places, then 103 of 128 places.
    for (const from of [0.7, 0.75, 0.8]) {
      const near = pairs.filter(({ jaccard }) => jaccard >= from && jaccard < from + 0.05);
      const expected = near.reduce((sum, { jaccard: s }) => sum + meets(s) * estimated(s), 0);
      expect(Math.abs(share(1, from, from + 0.05) - expected / near.length)).toBeLessThan(0.09);
    }
  });

  it("takes each character for a word where words have no spaces", () => {
    const seen = new Deduplicator();
    const characters = Array.from({ length: 200 }, (_, i) => String.fromCodePoint(0x4e00 + 7 * i));
    expect(seen.add(characters.join(""))).toBe("new");
    expect(seen.add(characters.with(100, "𠀀").join(""))).toBe("near");
    expect(seen.add(characters.toReversed().join(""))).toBe("new");
  });

  it("still knows all of many texts", () => {
    const seen = new Deduplicator({ near: 1 });
    const all = Array.from({ length: 20_000 }, (_, i) => `text ${i}`);
    expect(all.every((text) => seen.add(text) === "new")).toBe(true);
    expect(all.every((text) => seen.add(text) === "exact")).toBe(true);
  });

  it("does not mind case and punctuation", () => {
    const seen = new Deduplicator();
    seen.add(words(50, 1).join(" "));
    expect(seen.add(`${words(50, 1).join(", ").toUpperCase()}!`)).toBe("near");
  });

  it("takes texts shorter than a shingle, and texts without words", () => {
    const seen = new Deduplicator();
    expect(["one two", "One two.", "?!", "..."].map((text) => seen.add(text))).toEqual([
      "new",
      "near",
      "new",
      "new",
    ]);
  });

  it("refuses a similarity that is none", () => {
    for (const near of [0, -1, 1.1, Number.NaN]) {
      expect(() => new Deduplicator({ near })).toThrow("near must lie in (0, 1]");
    }
  });
});
