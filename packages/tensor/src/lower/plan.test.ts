import fc from "fast-check";
import { expect, test } from "vitest";
import { ALIGNMENT, type Lifetime, planMemory } from "./plan.ts";

const lifetimes = fc.array(
  fc
    .record({ bytes: fc.integer({ min: 0, max: 5000 }), from: fc.nat(40), length: fc.nat(15) })
    .map(({ bytes, from, length }): Lifetime => ({ bytes, from, to: from + length })),
  { maxLength: 60 },
);

test("what lives at the same time never overlaps, and all lies in the arena, aligned", () => {
  fc.assert(
    fc.property(lifetimes, (lives) => {
      const { offsets, total } = planMemory(lives);
      lives.forEach((a, i) => {
        const start = offsets[i] as number;
        expect(start % ALIGNMENT).toBe(0);
        expect(start + a.bytes).toBeLessThanOrEqual(total);
        lives.slice(0, i).forEach((b, j) => {
          const other = offsets[j] as number;
          const together = a.from <= b.to && b.from <= a.to;
          if (together && a.bytes > 0 && b.bytes > 0) {
            expect(start >= other + b.bytes || other >= start + a.bytes).toBe(true);
          }
        });
      });
    }),
  );
});

test("memory is used again as soon as it is free", () => {
  const chain = Array.from(
    { length: 10 },
    (_, i): Lifetime => ({ bytes: 1000, from: i, to: i + 1 }),
  );
  expect(planMemory(chain).total).toBe(2 * 1024);
});
