import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { packConversations } from "./conversations.ts";

const chat = (ids: number[], said: number[]) => ({
  ids: Uint32Array.from(ids),
  mask: Uint8Array.from(ids, (_, i) => (said.includes(i) ? 1 : 0)),
});

describe("packConversations", () => {
  it("targets what the assistant says, inside each conversation", () => {
    const packed = packConversations([chat([1, 2, 3], [2]), chat([4, 5], [1])], 6, 9);
    expect(packed.rows).toBe(1);
    expect([...packed.inputIds]).toEqual([1, 2, 3, 4, 5, 9]);
    expect([...packed.targets]).toEqual([-1, 3, -1, 5, -1, -1]);
    expect([...packed.segments]).toEqual([1, 1, 1, 2, 2, 0]);
  });

  it("cuts what is too long, and drops what teaches nothing", () => {
    const packed = packConversations(
      [chat([1, 2, 3, 4], [3]), chat([1, 2, 3, 4], [1]), chat([], []), chat([7], [0])],
      3,
      0,
    );
    expect(packed.truncated).toEqual([0, 1]);
    expect(packed.dropped).toEqual([0, 2, 3]);
    expect([...packed.inputIds]).toEqual([1, 2, 3]);
    expect([...packed.targets]).toEqual([2, -1, -1]);
  });

  it("gives no rows for no conversations, and refuses rows without room", () => {
    expect(packConversations([], 8, 0)).toMatchObject({ rows: 0, placed: [] });
    expect(() => packConversations([], 1, 0)).toThrow("length is 1");
  });

  it("places every conversation once, whole, with every target", () => {
    const conversation = fc.array(fc.boolean(), { minLength: 2, maxLength: 12 }).map((said) =>
      chat(
        said.map((_, i) => i + 1),
        [...said.keys(), said.length - 1].filter((i) => said[i] || i === said.length - 1),
      ),
    );
    fc.assert(
      fc.property(fc.array(conversation, { maxLength: 20 }), (conversations) => {
        const packed = packConversations(conversations, 12, 99);
        expect(packed.placed.map(({ conversation }) => conversation).sort((a, b) => a - b)).toEqual(
          [...conversations.keys()],
        );
        const taken = new Set<number>();
        for (const { conversation, row, column } of packed.placed) {
          const { ids, mask } = conversations[conversation] as (typeof conversations)[number];
          for (let t = 0; t < ids.length; t++) {
            const at = row * 12 + column + t;
            expect(taken.has(at)).toBe(false);
            taken.add(at);
            expect(packed.inputIds[at]).toBe(ids[t]);
            expect(packed.targets[at]).toBe(mask[t + 1] === 1 ? ids[t + 1] : -1);
            expect(packed.segments[at]).toBe(packed.segments[row * 12 + column]);
          }
        }
        // Two half-empty rows would have been one.
        const fill = Array.from(
          { length: packed.rows },
          (_, r) => packed.segments.subarray(r * 12, (r + 1) * 12).filter((s) => s > 0).length,
        );
        expect(fill.filter((n) => n <= 6).length).toBeLessThan(2);
      }),
    );
  });
});
