/** The chance that one of k answers is right, from more than k that were tried. */

/**
 * pass@k of one question, without bias: 1 − C(n − c, k) / C(n, k) = 1 − ∏ᵢ₌ₙ₋c₊₁ⁿ (1 − k/i) (Chen et al.,
 * arXiv 2107.03374, section 2.1). The mean over questions is the benchmark's.
 * @param n answers that were drawn
 * @param c how many of them were right
 * @throws RangeError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n, all whole
 */
export function passAtK(n: number, c: number, k: number): number {
  const whole = [n, c, k].every(Number.isInteger);
  if (!whole || c < 0 || c > n || k < 1 || k > n) {
    throw new RangeError(
      `pass@${k} of ${c} right answers among ${n}: expected 0 ≤ c ≤ n, 1 ≤ k ≤ n`,
    );
  }
  if (n - c < k) return 1;
  let miss = 1;
  for (let i = n - c + 1; i <= n; i++) miss *= 1 - k / i;
  return 1 - miss;
}
