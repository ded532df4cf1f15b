import fc from "fast-check";
import { expect, test } from "vitest";
import { randomSource, sampleToken } from "./sample.ts";

test("temperature 0 takes the largest, the first of equals, and asks for no luck", () => {
  const never = () => {
    throw new Error("asked");
  };
  expect(sampleToken(Float32Array.of(1, 3, 3, 2), {}, never)).toBe(1);
});

test("tokens come as often as their probabilities say", () => {
  const p = [0.5, 0.3, 0.15, 0.05];
  const temperature = 0.7;
  const logits = Float32Array.from(p, (x) => Math.log(x) * temperature);
  const count = (topP: number) => {
    const random = randomSource(7);
    const counts = [0, 0, 0, 0];
    for (let i = 0; i < 20_000; i++) counts[sampleToken(logits, { temperature, topP }, random)]!++;
    return counts.map((n) => n / 20_000);
  };
  for (const [i, share] of count(1).entries()) expect(share).toBeCloseTo(p[i]!, 1.7);
  // 0.5 + 0.3 reach 0.75: the rest is never drawn.
  const cut = count(0.75);
  expect(cut[0]).toBeCloseTo(0.625, 1.7);
  expect(cut.slice(2)).toEqual([0, 0]);
  expect(count(0.01)).toEqual([1, 0, 0, 0]);
});

test("a seed fixes the draw, and every draw is in [0, 1)", () => {
  const [a, b, c] = [randomSource(1), randomSource(1), randomSource(2)];
  const first = Array.from({ length: 1000 }, a);
  expect(Array.from({ length: 1000 }, b)).toEqual(first);
  expect(Array.from({ length: 1000 }, c)).not.toEqual(first);
  expect(first.every((x) => x >= 0 && x < 1)).toBe(true);
});

test("any logits give a token that can be", () => {
  const logit = fc.oneof(fc.float({ noNaN: true, min: -1e4, max: 1e4 }), fc.constant(-Infinity));
  const options = fc.record({
    temperature: fc.constantFrom(1e-6, 0.2, 1, 100),
    topP: fc.constantFrom(1e-9, 0.5, 0.999, 1),
  });
  fc.assert(
    fc.property(fc.array(logit, { minLength: 1, maxLength: 20 }), options, fc.nat(), (l, o, s) => {
      fc.pre(l.some((x) => x > -Infinity));
      const token = sampleToken(Float32Array.from(l), o, randomSource(s));
      expect(l[token]).toBeGreaterThan(-Infinity);
    }),
  );
});
