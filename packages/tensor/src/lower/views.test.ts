import fc from "fast-check";
import { beforeAll, expect, test } from "vitest";
import { compile } from "../compile.ts";
import { add } from "../ops/pointwise.ts";
import { sum } from "../ops/reduce.ts";
import { concat, flip, pad, permute, reshape, slice } from "../ops/shape.ts";
import { sizeOf } from "../spec.ts";
import { scope, setBackend, type Tensor, tensor } from "../tensor.ts";
import { referenceBackend } from "../testing/index.ts";

beforeAll(() => setBackend(referenceBackend()));

/** A shape operation as the library does it, and one that stores its result before the next. */
type Move = (x: Tensor) => Tensor;

/** Random shape operations, chosen by a stream of numbers so that they fit whatever shape is there. */
function moveFor(shape: readonly number[], pick: (n: number) => number): Move {
  const axis = pick(Math.max(1, shape.length));
  switch (pick(7)) {
    case 0: {
      const axes = shape.map((_, a) => a);
      for (let i = axes.length - 1; i > 0; i--) {
        const j = pick(i + 1);
        [axes[i], axes[j]] = [axes[j] as number, axes[i] as number];
      }
      return (x) => permute(x, axes);
    }
    case 1:
      return (x) => reshape(x, [x.size]);
    case 2: {
      const d = shape[axis] ?? 1;
      const divisor = [2, 3, 5].find((n) => d % n === 0 && d > 0);
      if (shape.length === 0 || divisor === undefined) return (x) => reshape(x, [1, ...x.shape]);
      return (x) =>
        reshape(x, [...shape.slice(0, axis), divisor, d / divisor, ...shape.slice(axis + 1)]);
    }
    case 3: {
      const starts = shape.map((d) => pick(d + 1));
      const steps = shape.map(() => 1 + pick(3));
      return (x) => slice(x, starts, undefined, steps);
    }
    case 4:
      return (x) => (x.rank === 0 ? x : flip(x, [axis]));
    case 5:
      return (x) =>
        pad(
          x,
          x.shape.map((): [number, number] => [pick(2), pick(3)]),
          9,
        );
    default:
      return (x) => (x.rank === 0 ? x : concat([x, flip(x, [axis])], axis));
  }
}

test("chains of shape operations give the same fused as one by one", () => {
  const shapes = fc.array(fc.integer({ min: 0, max: 6 }), { maxLength: 3 });
  fc.assert(
    fc.property(
      shapes,
      fc.array(fc.nat(1_000_000), { minLength: 60, maxLength: 60 }),
      (shape, stream) => {
        let at = 0;
        const pick = (n: number) => (stream[at++ % stream.length] as number) % n;
        scope(() => {
          const x = tensor(
            Float32Array.from({ length: sizeOf(shape) }, (_, i) => i),
            { shape },
          );
          const moves: Move[] = [];
          let eager = x;
          for (let i = 0; i < 4 && eager.size < 5000; i++) {
            const from = at;
            const move = moveFor(eager.shape, pick);
            eager = move(eager);
            const used = at;
            // Replayed with the same picks while tracing.
            moves.push((t) => {
              at = from;
              const out = moveFor(t.shape, pick)(t);
              at = used;
              return out;
            });
          }
          const fused = compile((t: Tensor) => {
            const moved = moves.reduce((y, move) => move(y), t);
            return [add(moved, 0), sum(moved)];
          });
          const [values, total] = fused(x) as [Tensor, Tensor];
          expect(values.shape).toEqual(eager.shape);
          expect(Array.from(values.dataSync())).toEqual(Array.from(eager.dataSync()));
          const expected = Array.from(eager.dataSync() as Float32Array).reduce((a, b) => a + b, 0);
          expect(total.dataSync()[0]).toBeCloseTo(expected, 1);
        });
      },
    ),
    { numRuns: 150 },
  );
});
