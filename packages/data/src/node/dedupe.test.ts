import { describe, expect, it } from "vitest";
import { randomStream } from "../random.ts";
import { Deduplicator } from "./dedupe.ts";

/** `n` words drawn from 5,000. */
function words(n: number, seed: number): string[] {
  const random = randomStream(seed);
  return Array.from({ length: n }, () => `w${Math.floor(random() * 5000)}`);
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
