/** How the values of all documents become one number, and how far that number can be trusted. */

/** Of one document: a number, or a log-likelihood and what it is divided by (words, bytes). */
export type Value = number | readonly [logprob: number, weight: number];

export interface Metric {
  readonly higherIsBetter: boolean;
  aggregate(values: readonly Value[]): number;
  /** Standard error of the aggregate; null where none is known. */
  stderr(values: readonly Value[]): number | null;
}

const numbers = (values: readonly Value[]): number[] =>
  values.map((value) => (typeof value === "number" ? value : value[0]));

/** Not NaN for no values: there is no such thing as the mean of nothing. */
function meanOf(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError("no documents, and so no mean");
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Sample standard deviation over √n (`mean_stderr` of the harness); null for a single value. */
function meanStderr(values: readonly number[]): number | null {
  if (values.length < 2) return null;
  const mean = meanOf(values);
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return Math.sqrt(squares / (values.length - 1) / values.length);
}

/** The mean, of scores of which more is better. */
export const MEAN: Metric = {
  higherIsBetter: true,
  aggregate: (values) => meanOf(numbers(values)),
  stderr: (values) => meanStderr(numbers(values)),
};

/**
 * exp(−mean log-likelihood). The harness draws bootstrap samples for its error; here it is their limit
 * for many documents, perplexity · stderr(mean log-likelihood) (delta method), which needs no dice.
 */
export const PERPLEXITY: Metric = {
  higherIsBetter: false,
  aggregate: (values) => Math.exp(-meanOf(numbers(values))),
  stderr: (values) => {
    const error = meanStderr(numbers(values));
    return error === null ? null : PERPLEXITY.aggregate(values) * error;
  },
};

/** Nats per unit, over all documents together. */
function natsPerWeight(values: readonly Value[]): number {
  let [nats, weight] = [0, 0];
  for (const value of values) {
    if (typeof value === "number") throw new TypeError("a value without its weight");
    nats -= value[0];
    weight += value[1];
  }
  if (weight === 0) throw new RangeError("nothing to divide by: the documents are empty");
  return nats / weight;
}

export const WEIGHTED_PERPLEXITY: Metric = {
  higherIsBetter: false,
  aggregate: (values) => Math.exp(natsPerWeight(values)),
  stderr: () => null,
};

export const BITS_PER_BYTE: Metric = {
  higherIsBetter: false,
  aggregate: (values) => natsPerWeight(values) / Math.LN2,
  stderr: () => null,
};

/** Where the first of the largest values stands (`numpy.argmax`). */
export function argmax(values: readonly number[]): number {
  return values.reduce((best, value, i) => (value > (values[best] as number) ? i : best), 0);
}

/** The score of a group, and its error. */
export interface GroupScore {
  readonly value: number;
  readonly stderr: number | null;
}

/**
 * Several tasks as one. By size: the mean of all documents, with the error of pooled variances
 * (`pooled_sample_stderr`). Else each task counts the same, and the error is √Σe² / k
 * (`unweighted_mean_stderr`).
 */
export function groupScore(
  parts: readonly { value: number; stderr: number | null; size: number }[],
  bySize: boolean,
): GroupScore {
  const total = parts.reduce((sum, { size }) => sum + size, 0);
  const value = bySize
    ? parts.reduce((sum, part) => sum + part.value * part.size, 0) / total
    : meanOf(parts.map((part) => part.value));
  if (parts.some(({ stderr }) => stderr === null)) return { value, stderr: null };
  const sum = (term: (error: number, size: number) => number) =>
    parts.reduce((all, { stderr, size }) => all + term(stderr as number, size), 0);
  const stderr = bySize
    ? Math.sqrt(sum((e, n) => (n - 1) * e ** 2 * n) / (total - parts.length) / total)
    : Math.sqrt(sum((e) => e ** 2)) / parts.length;
  return { value, stderr };
}
