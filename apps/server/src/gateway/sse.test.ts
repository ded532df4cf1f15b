import { Readable } from "node:stream";
import fc from "fast-check";
import { expect, test } from "vitest";
import { eventData } from "./sse.ts";

async function read(parts: readonly (string | Uint8Array)[], most = 1000): Promise<string[]> {
  const bytes = parts.map((part) => (typeof part === "string" ? Buffer.from(part) : part));
  const events: string[] = [];
  for await (const data of eventData(Readable.from(bytes), most)) events.push(data);
  return events;
}

test("events are the same however their bytes come", async () => {
  const text =
    ': comment\n\ndata: {"a":"é✓"}\r\n\r\nevent: x\ndata:1\ndata: 2\n\nid: 5\n\ndata: [DONE]\n\n';
  const bytes = Buffer.from(text);
  const cuts = fc.array(fc.integer({ min: 0, max: bytes.length }), { maxLength: 20 });
  await fc.assert(
    fc.asyncProperty(cuts, async (places) => {
      const at = [0, ...places.toSorted((a, b) => a - b), bytes.length];
      const parts = at.slice(1).map((end, i) => bytes.subarray(at[i], end));
      expect(await read(parts)).toEqual(['{"a":"é✓"}', "1\n2", "[DONE]"]);
    }),
  );
});

test("the last event needs no empty line; other bytes are no events", async () => {
  expect(await read(["data: a\n\ndata: b"])).toEqual(["a", "b"]);
  expect(await read(["data: a\r\rdata: b\r"])).toEqual(["a", "b"]);
  expect(await read([])).toEqual([]);
  expect(await read([new Uint8Array([0xff, 0xfe, 10, 10])])).toEqual([]);
});

test("an event that grows without end is not kept", async () => {
  const line = `data: ${"x".repeat(90)}\n`;
  await expect(read(Array(20).fill(line), 1000)).rejects.toThrow("more than 1000 characters");
  await expect(read(Array(20).fill("x".repeat(90)), 1000)).rejects.toThrow("more than 1000");
  expect(await read(Array(20).fill(`${line}\n`), 1000)).toHaveLength(20);
});
