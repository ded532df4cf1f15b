/**
 * Sums of exp(x − max x) along with the maximum: one loop instead of two over rows that are too long to
 * be kept. Each thread scales what it has summed up whenever its maximum grows, and so do the threads
 * when they agree on one (Milakov and Gimelshein, "Online normalizer calculation for softmax",
 * arXiv 1805.02867).
 */
import type { LoopKernel, Stage } from "../contract.ts";

/** Stages that only sum exp(x − max x) of the stage before them, which only takes the maximum of x. */
export function onlineSums({ stages }: LoopKernel): Set<number> {
  const found = new Set<number>();
  stages.forEach((stage, s) => {
    const before = stages[s - 1];
    if (before !== undefined && sumsExponentials(stage, before)) found.add(s);
  });
  return found;
}

function sumsExponentials(stage: Stage, before: Stage): boolean {
  const [max, sum] = [before.reduces[0], stage.reduces[0]];
  if (max?.op !== "max" || max.value.type !== "f32" || sum?.op !== "sum") return false;
  if (stage.reduces.length + before.reduces.length !== 2) return false;
  if (stage.stores.length + before.stores.length > 0) return false;
  if (before.inner.length === 0 || stage.inner.join() !== before.inner.join()) return false;
  const difference = sum.value.op === "exp" ? sum.value.args[0] : undefined;
  if (difference?.op !== "sub") return false;
  const [x, top] = difference.args;
  return x === max.value && top.op === "acc" && top.acc === max.acc;
}

/** What is taken from every x: nothing where all of them are −∞ so far, which has no difference to itself. */
export function shiftOf(max: string): string {
  return `(${max} == (-INF) ? 0.0f : ${max})`;
}

/**
 * Statements of one pass: `x` in the lanes of `each` goes into the thread's maximum and its lanes' sums.
 */
export function onlineUpdate(x: string, max: string, sum: string, each: string): string[] {
  return [
    `f32 top = ${max};`,
    `${each}top = max_nan(top, ${x});`,
    `const f32 shift = ${shiftOf("top")}, scale = expf(${max} - shift);`,
    `${each}${sum} = ${sum} * scale + expf(${x} - shift);`,
    `${max} = top;`,
  ];
}

/** Where all x are −∞, their differences to the maximum are NaN, and so is the sum. */
export function onlineEnd(max: string, sum: string): string {
  return `if (${max} == (-INF)) ${sum} = NAN;`;
}
