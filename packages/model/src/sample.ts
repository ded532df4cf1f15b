/** Choosing a token from logits, on the host, reproducibly from a seed. */

export interface SampleOptions {
  /** 0 (the default) takes the most likely token; above, logits are divided by it. */
  readonly temperature?: number;
  /** Samples from this many most likely tokens alone; from all unless told. */
  readonly topK?: number;
  /** Samples from the fewest most likely tokens that together have this probability. 1: from all. */
  readonly topP?: number;
}

/** Uniform numbers in [0, 1): splitmix32, the same on every machine. */
export function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return ((z ^ (z >>> 16)) >>> 0) / 2 ** 32;
  };
}

/** A token of one row of logits [V]; equal logits by lower id. `random` is asked once, if at all. */
export function sampleToken(
  logits: Float32Array,
  { temperature = 0, topK = logits.length, topP = 1 }: SampleOptions,
  random: () => number,
): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id]! > logits[best]!) best = id;
  if (temperature === 0) return best;

  const weights = Float64Array.from(logits, (x) => Math.exp((x - logits[best]!) / temperature));
  if (topP >= 1 && topK >= logits.length)
    return draw(weights.keys(), weights, sumOf(weights) * random());

  const order = Uint32Array.from(weights.keys()).sort((a, b) => weights[b]! - weights[a]! || a - b);
  const candidates = order.subarray(0, topK);
  const enough = topP * candidates.reduce((sum, id) => sum + weights[id]!, 0);
  let kept = 0;
  let mass = 0;
  while (kept === 0 || (mass < enough && kept < candidates.length)) {
    mass += weights[candidates[kept++]!]!;
  }
  return draw(candidates.subarray(0, kept), weights, mass * random());
}

/** The first id at which the running sum of weights passes `at`. */
function draw(ids: Iterable<number>, weights: Float64Array, at: number): number {
  let sum = 0;
  let last = 0;
  for (const id of ids) {
    if (weights[id] === 0) continue;
    last = id;
    sum += weights[id]!;
    if (sum > at) break;
  }
  return last;
}

function sumOf(weights: Float64Array): number {
  return weights.reduce((sum, w) => sum + w, 0);
}
