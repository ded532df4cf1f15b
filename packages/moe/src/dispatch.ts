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
  mul,
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

/** Σ_k weights[n, k] · rows[rank[n, k]]: rows [N K, D], weights f32 [N, K] → [N, D] in rows' dtype. */
export function combine(rows: Tensor, weights: Tensor, plan: Dispatch): Tensor {
  const merge = customGradient(
    (rows: Tensor, weights: Tensor) => ({
      output: sumPairs(rows, plan, weights),
      save: { rows, weights },
    }),
    ({ rows, weights }: { rows: Tensor; weights: Tensor }, dOut: Tensor) => {
      const sent = cast(take(dOut, plan.tokens), "f32"); // [N K, D]
      const rowWeights = take(reshape(weights, [-1]), plan.pairs); // [N K]
      const dRows = cast(mul(sent, expandDims(rowWeights, 1)), rows.dtype);
      const dWeights = take(sum(mul(sent, cast(rows, "f32")), 1), plan.rank); // [N, K]
      return [dRows, dWeights];
    },
  );
  return merge(rows, weights);
}

/** The (weighted) sum over each token's pairs of rows [N K, D], in f32: [N, D] in rows' dtype. */
function sumPairs(rows: Tensor, { rank }: Dispatch, weights?: Tensor): Tensor {
  const byPair = cast(take(rows, rank), "f32"); // [N, K, D]
  const terms = weights ? mul(byPair, expandDims(weights, 2)) : byPair;
  return cast(sum(terms, 1), rows.dtype);
}
