import { describe, expect, it } from "vitest";
import { ConversationSource } from "./conversation-source.ts";

const chat = (source: string, first: number, size: number) => ({
  source,
  ids: Uint32Array.from({ length: size }, (_, i) => first + i),
  mask: Uint8Array.from({ length: size }, (_, i) => (i > 0 ? 1 : 0)),
});
const options = { length: 4, padId: 9, epochs: 2, seed: 3, tooLong: "truncate" } as const;
const five = [0, 10, 20, 30, 40].map((first, i) => chat(i < 2 ? "b" : "a", first, 4));

describe("ConversationSource", () => {
  it("gives every row once an epoch, in another order, then rows without a target", () => {
    const source = new ConversationSource(five, options);
    const firsts = () => Array.from({ length: 5 }, () => source.next(1, 4).inputIds[0]);
    const [one, two] = [firsts(), firsts()];
    expect(one.toSorted()).toEqual([0, 10, 20, 30, 40]);
    expect(two.toSorted()).toEqual(one.toSorted());
    expect(two).not.toEqual(one);
    const after = source.next(1, 4);
    expect([...after.inputIds, ...after.targets]).toEqual([9, 9, 9, 9, -1, -1, -1, -1]);
  });

  it("goes on from a saved position", () => {
    const source = new ConversationSource(five, options);
    source.next(3, 4);
    const saved = JSON.parse(JSON.stringify(source.position));
    const expected = source.next(4, 4);
    const other = new ConversationSource(five, options);
    other.seek(saved);
    expect(other.next(4, 4)).toEqual(expected);
    expect(() => other.seek(-1)).toThrow("no number of rows");
    expect(() => other.next(1, 5)).toThrow("packed to 4 tokens, not 5");
  });

  it("says which source a target is of, two in one row too", () => {
    const source = new ConversationSource([chat("b", 0, 2), chat("a", 5, 2)], options);
    expect(source.sourceNames).toEqual(["a", "b"]);
    const { targets, segments, sources } = source.next(1, 4);
    expect([...targets]).toEqual([1, -1, 6, -1]);
    expect([...segments]).toEqual([1, 1, 2, 2]);
    expect([...sources]).toEqual([1, -1, 0, -1]);
  });

  it("cuts or skips what is too long, and counts it", () => {
    const chats = [chat("a", 0, 9), chat("a", 20, 3), { ...chat("a", 30, 1) }];
    const cut = new ConversationSource(chats, options);
    expect(cut.counts).toEqual({ truncated: 1, skipped: 0, withoutTarget: 1 });
    expect(cut.rows).toBe(2);
    const skipped = new ConversationSource(chats, { ...options, tooLong: "skip" });
    expect(skipped.counts).toEqual({ truncated: 0, skipped: 1, withoutTarget: 1 });
    expect(skipped.rows).toBe(1);
    expect(() => new ConversationSource([chat("a", 0, 1)], options)).toThrow(
      "none of 1 conversations has words of the assistant within 4 tokens",
    );
    expect(() => new ConversationSource([], options)).toThrow("none of 0");
  });
});
