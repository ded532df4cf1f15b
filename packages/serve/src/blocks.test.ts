import fc from "fast-check";
import { expect, test } from "vitest";
import { BlockPool, blockKey, rootKey } from "./blocks.ts";
import type { GenerationRequest } from "./request.ts";
import { Scheduler } from "./scheduler.ts";
import { Sequence } from "./sequence.ts";

const ids = (...tokens: number[]) => Uint32Array.from(tokens);

test("a block keeps its content until it is needed, the longest unused going first", () => {
  const pool = new BlockPool(2);
  const root = rootKey("");
  const [a, b] = [pool.take()!, pool.take()!];
  expect(pool.take()).toBeNull();
  const [ka, kb] = [blockKey(root, ids(1)), blockKey(root, ids(2))];
  pool.publish(a, ka, root, ids(1));
  pool.publish(b, kb, root, ids(2));
  pool.release([b]);
  pool.release([a]);
  expect(pool.free).toBe(2);
  expect(pool.find(ka, root, ids(1))).toBe(a);
  expect(pool.take()).toBe(b);
  expect(pool.find(kb, root, ids(2))).toBeUndefined();
  pool.share(a);
  expect(pool.free).toBe(0);
  pool.check([[a], [b]]);
});

test("content is compared on a hit: a key alone proves nothing", () => {
  const pool = new BlockPool(1);
  const id = pool.take()!;
  pool.publish(id, "same key", "before", ids(1, 2));
  expect(pool.find("same key", "before", ids(1, 2))).toBe(id);
  expect(pool.find("same key", "before", ids(1, 3))).toBeUndefined();
  expect(pool.find("same key", "other", ids(1, 2))).toBeUndefined();
});

test("a pool that forgets keeps its blocks, but finds none", () => {
  const pool = new BlockPool(2);
  const [a, b] = [pool.take()!, pool.take()!];
  pool.publish(a, "a", "", ids(1));
  pool.publish(b, "b", "", ids(2));
  pool.release([a]);
  pool.forget();
  pool.check([[b]]);
  expect(pool.free).toBe(1);
  expect([pool.find("a", "", ids(1)), pool.find("b", "", ids(2))]).toEqual([undefined, undefined]);
  expect(pool.take()).toBe(a);
});

test("keys depend on salt, prefix, and every token", () => {
  const keys = [
    blockKey(rootKey("a"), ids(1, 2)),
    blockKey(rootKey("b"), ids(1, 2)),
    blockKey(rootKey("a"), ids(2, 1)),
    blockKey(rootKey("a"), ids(1, 2 + 2 ** 24)),
    blockKey(blockKey(rootKey("a"), ids(1)), ids(2)),
  ];
  expect(new Set(keys).size).toBe(keys.length);
});

test("the check finds blocks that leaked, were lost, or are counted twice", () => {
  const pool = new BlockPool(3);
  const [a, b] = [pool.take()!, pool.take()!];
  pool.check([[a, b]]);
  expect(() => pool.check([[a]])).toThrow(`block ${b} has 1 references, but 0 users`);
  expect(() => pool.check([[a, b], [a]])).toThrow(`block ${a} has 1 references, but 2 users`);
  pool.release([a]);
  expect(() => pool.release([a])).toThrow(`block ${a} was released twice`);
});

test("whatever comes, goes or is cancelled, no block is lost and every answer ends", () => {
  const arrival = fc.record({
    length: fc.integer({ min: 1, max: 300 }),
    answer: fc.integer({ min: 1, max: 80 }),
    family: fc.integer({ min: 0, max: 2 }),
    priority: fc.integer({ min: -1, max: 1 }),
    at: fc.integer({ min: 0, max: 40 }),
    cancelled: fc.option(fc.integer({ min: 0, max: 60 }), { freq: 4 }),
    /** Steps after which its reader falls behind, and for how many. */
    deaf: fc.option(fc.tuple(fc.integer({ min: 0, max: 60 }), fc.integer({ min: 1, max: 60 }))),
  });
  const sizes = fc.record({
    blocks: fc.integer({ min: 6, max: 20 }), // one of the largest sequences fits
    maxRunning: fc.integer({ min: 1, max: 6 }),
    maxPrefill: fc.integer({ min: 1, max: 200 }),
  });
  fc.assert(
    fc.property(sizes, fc.array(arrival, { maxLength: 12 }), (sizes, arrivals) => {
      const scheduler = new Scheduler(sizes);
      const alive = new Map<Sequence, (typeof arrivals)[number]>();
      let left = arrivals.length;
      for (let step = 0; left > 0 || alive.size > 0; step++) {
        expect(step).toBeLessThan(5000);
        for (const [i, a] of arrivals.entries()) {
          if (a.at !== step) continue;
          // Of one family, one prompt begins another.
          const prompt = Array.from({ length: a.length }, (_, t) => (t * (a.family + 3)) % 50);
          const request: GenerationRequest = { prompt, priority: a.priority };
          const sequence = new Sequence(request, 0, 0, i);
          scheduler.add(sequence);
          alive.set(sequence, a);
          left--;
        }
        for (const [sequence, a] of alive) {
          if (a.cancelled === null || a.at + a.cancelled !== step) continue;
          scheduler.remove(sequence);
          alive.delete(sequence);
        }
        for (const [sequence, { at, deaf }] of alive) {
          if (deaf === null) continue;
          const [from, length] = deaf;
          sequence.paused = step >= at + from && step < at + from + length;
        }
        const { prefill, decode } = scheduler.plan();
        const planned = [...decode, ...prefill.map((chunk) => chunk.sequence)];
        expect(planned.some(({ paused }) => paused)).toBe(false);
        const ready = [...alive.keys()].some(({ paused }) => !paused);
        expect(planned.length > 0).toBe(ready); // nobody waits for those who wait for their readers
        const budget = prefill.reduce((sum, { start, end }) => sum + end - start, 0);
        expect(budget).toBeLessThanOrEqual(sizes.maxPrefill);
        expect(scheduler.running).toBeLessThanOrEqual(sizes.maxRunning);
        const drawing = prefill.filter(({ sequence, end }) => end === sequence.tokens.length);
        for (const sequence of [...drawing.map((chunk) => chunk.sequence), ...decode]) {
          expect(sequence.blocks).toHaveLength(Math.ceil(sequence.tokens.length / 64));
          sequence.append(step % 50);
          if (sequence.generatedCount < alive.get(sequence)!.answer) continue;
          scheduler.remove(sequence);
          alive.delete(sequence);
        }
        scheduler.check();
      }
      expect(scheduler.pool.used).toBe(0);
    }),
    { numRuns: 200 },
  );
});
