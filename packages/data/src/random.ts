/** Random numbers for shuffling and splitting: small, fast, and the same everywhere. */

/** A stream of numbers in [0, 1) from a seed (splitmix32, after Steele, Lea and Flood, OOPSLA 2014). */
export function randomStream(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return ((z ^ (z >>> 16)) >>> 0) / 2 ** 32;
  };
}

/** A permutation of 0 … n − 1 (Fisher and Yates). */
export function shuffled(n: number, seed: number): Uint32Array {
  const random = randomStream(seed);
  const order = new Uint32Array(n);
  for (let i = 0; i < n; i++) order[i] = i;
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j] as number, order[i] as number];
  }
  return order;
}
