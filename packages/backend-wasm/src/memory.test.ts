import fc from "fast-check";
import { expect, test } from "vitest";
import { Heap, type WasmBuffer } from "./memory.ts";

const MIB = 2 ** 20;

test("buffers never overlap, are aligned, and memory comes back whole", () => {
  const operation = fc.oneof(
    fc.record({ alloc: fc.oneof(fc.nat(300), fc.nat(5000), fc.nat(2 * MIB)) }),
    fc.record({ free: fc.nat() }),
  );
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 200 }), (operations) => {
      const heap = new Heap(128, { initial: MIB, maximum: 512 * MIB });
      const live: WasmBuffer[] = [];
      const sorted = () => [...live].sort((a, b) => a.address - b.address);
      for (const op of operations) {
        if ("alloc" in op) live.push(heap.alloc(op.alloc));
        else if (live.length > 0) heap.free(live.splice(op.free % live.length, 1)[0] as WasmBuffer);
        let end = 128;
        for (const b of sorted()) {
          expect(b.address % 64).toBe(0);
          expect(b.address).toBeGreaterThanOrEqual(end);
          end = b.address + b.bytes;
        }
        expect(end).toBeLessThanOrEqual(heap.bytes.length);
      }
      expect(heap.stats().liveBuffers).toBe(live.length);
      expect(heap.stats().liveBytes).toBe(live.reduce((n, b) => n + b.bytes, 0));
      for (const b of live) heap.free(b);
      expect(heap.stats()).toMatchObject({ liveBytes: 0, liveBuffers: 0 });
      // One piece again: everything but the reserved start can be had at once, without growing.
      const size = heap.bytes.length;
      heap.alloc(size - 128);
      expect(heap.bytes.length).toBe(size);
    }),
    { numRuns: 60 },
  );
});

test("equal sizes in a loop reuse memory", () => {
  const heap = new Heap(64);
  const first = [1000, 50_000, 1000].map((n) => heap.alloc(n));
  const size = heap.bytes.length;
  for (const b of first) heap.free(b);
  for (let i = 0; i < 1000; i++) {
    const again = [1000, 50_000, 1000].map((n) => heap.alloc(n));
    for (const b of again) heap.free(b);
  }
  expect(heap.bytes.length).toBe(size);
  expect(heap.stats().peakBytes).toBe(52_000);
});

test("running out says who wanted how much, and what is in use; the heap goes on", () => {
  const heap = new Heap(64, { initial: MIB, maximum: 4 * MIB });
  const half = heap.alloc(2 * MIB);
  expect(() => heap.alloc(3 * MIB)).toThrow(
    /out of memory: a buffer needs 3145728 bytes, but of 4194304 bytes 2097152 are in 1 live buffers/,
  );
  expect(() => heap.reserveScratch(2 ** 40, "scratch memory of programs")).toThrow(
    /scratch memory of programs needs 1099511627776 bytes/,
  );
  heap.free(half);
  heap.free(heap.alloc(3 * MIB));
});

test("nonsense is refused", () => {
  const heap = new Heap(64);
  const buffer = heap.alloc(10);
  heap.free(buffer);
  expect(() => heap.free(buffer)).toThrow("a buffer of 10 bytes is used after it was freed");
  expect(() => new Heap(64).free(heap.alloc(4))).toThrow("belongs to another backend");
  for (const bytes of [-1, 0.5, Number.NaN, Infinity]) {
    expect(() => heap.alloc(bytes)).toThrow("a size is a whole number ≥ 0");
  }
  expect(() => new Heap(64, { maximum: 2 ** 33 })).toThrow("memory.maximum is 8589934592 bytes");
  expect(() => new Heap(64, { initial: 2 * MIB, maximum: MIB })).toThrow("memory.initial");
});

test("zero bytes are a buffer too", () => {
  const heap = new Heap(64);
  const [a, b] = [heap.alloc(0), heap.alloc(0)];
  expect(a.address).not.toBe(b.address);
});
