/**
 * Sending tokens to experts and back. The N K (token, expert) pairs are put in order of expert, so
 * that each expert's rows lie together for a grouped matrix product; no token is dropped, whatever
 * the load. Both directions, and both gradients, are gathers: a sum over pairs of one token reads
 * them through the inverse permutation, so nothing is scattered and results do not depend on order.
 *
 *   N tokens, D hidden, E experts, K picked per token; pair n K + k is token n's k-th expert
 */
import {
  cast,
  countingSort,
  customGradient,
  div,
  expandDims,
  reshape,
  sliceAxis,
  sub,
  sum,
  type Tensor,
  take,
  where,
} from "@dsv3/tensor";

/** The pairs in order of expert, stable in the order of tokens. */
export type Dispatch = {
  tokens: Tensor; //  i32 [N K]   token of each sorted row
  pairs: Tensor; //   i32 [N K]   pair of each sorted row
  rank: Tensor; //    i32 [N, K]  sorted row of each pair: the inverse of `pairs`
  offsets: Tensor; // i32 [E + 1] where each expert's rows start
};

/**
 * Sorts pairs by expert; experts i32 [N, K] in [0, E). Tokens that are false in `real`, bool [N], come
 * after the last expert's rows, so that none computes anything for them.
 */
export function planDispatch(experts: Tensor, nRoutedExperts: number, real?: Tensor): Dispatch {
  const [N, K] = experts.shape as [number, number];
  const E = nRoutedExperts;
  const keys = real ? where(expandDims(real, 1), experts, E) : experts;
  const sorted = countingSort(reshape(keys, [N * K]), real ? E + 1 : E);
  const offsets = real ? sliceAxis(sorted.offsets, 0, 0, E + 1) : sorted.offsets;
  return {
    tokens: div(sorted.order, K),
    pairs: sorted.order,
    rank: reshape(sorted.rank, [N, K]),
    offsets,
  };
}

/** Pairs sent to each expert: f32 [E], summing to N K. */
export function expertLoad({ offsets }: Dispatch): Tensor {
  const E = offsets.shape[0]! - 1;
  return cast(sub(sliceAxis(offsets, 0, 1, E + 1), sliceAxis(offsets, 0, 0, E)), "f32");
}

/** Each expert's rows: x [N, D] → [N K, D] in order of expert. */
export function dispatch(x: Tensor, plan: Dispatch): Tensor {
  const send = customGradient(
    (x: Tensor) => ({ output: take(x, plan.tokens), save: null }),
    (_, dRows: Tensor) => [sumPairs(dRows, plan)],
  );
  return send(x);
}

/** The weight of each row: weights [N, K] → [N K] in order of expert. */
export function dispatchWeights(weights: Tensor, plan: Dispatch): Tensor {
  const send = customGradient(
    (weights: Tensor) => ({ output: take(reshape(weights, [-1]), plan.pairs), save: null }),
    (_, dRows: Tensor) => [take(dRows, plan.rank)],
  );
  return send(weights);
}

/** Σ_k rows[rank[n, k]]: rows [N K, D] → [N, D]. */
export function combine(rows: Tensor, plan: Dispatch): Tensor {
  const merge = customGradient(
    (rows: Tensor) => ({ output: sumPairs(rows, plan), save: null }),
    (_, dOut: Tensor) => [take(dOut, plan.tokens)],
  );
  return merge(rows);
}

/** The sum over each token's pairs of rows [N K, D], in f32: [N, D] in rows' dtype. */
function sumPairs(rows: Tensor, { rank }: Dispatch): Tensor {
  return cast(sum(cast(take(rows, rank), "f32"), 1), rows.dtype); // of [N, K, D]
}
