/** AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019) over trees. */
import {
  add,
  cast,
  concat,
  type DType,
  div,
  exp,
  isFloat,
  type Mapped,
  minimum,
  mul,
  reshape,
  sqrt,
  square,
  sub,
  sum,
  type Tensor,
  treeLeaves,
  treeMap,
  zeros,
} from "@dsv3/tensor";

export interface AdamWConfig {
  /** Decay of the moments: 0.9 and 0.95 in the report. */
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** Multiplied by the learning rate; on matrices only (tensors of two or more axes). */
  readonly weightDecay: number;
}

export const ADAMW: AdamWConfig = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 };

/** First and second moments, in the structure of the parameters. */
export type Moments<P> = { first: Mapped<P, Tensor>; second: Mapped<P, Tensor> };

/** Moments of zero, f32 or bf16 (as the report keeps them). */
export function initMoments<P>(params: P, dtype: Extract<DType, "f32" | "bf16">): Moments<P> {
  const zero = () => treeMap((p) => zeros(p.shape, dtype), params);
  return { first: zero(), second: zero() };
}

/** Large tensors become so many sums, or fewer; what is smaller than `SMALL` is summed with others. */
const PARTS = 256;
const SMALL = 4096;
const TOGETHER = 8;

/** √Σ g² over all tensors of a tree, f32, by as few kernels as the many small ones allow. */
export function globalNorm(tree: unknown): Tensor {
  const squares = treeLeaves(tree).map((g) => {
    const each = square(cast(g, "f32"));
    // By rows first: a gradient may be some rows of a larger matrix, which do not lie in one piece.
    const rows = g.rank > 1 && g.size > SMALL ? sum(each, -1) : each;
    const flat = reshape(rows, [rows.size]);
    if (flat.size <= SMALL) return flat;
    let parts = PARTS;
    while (flat.size % parts !== 0) parts /= 2;
    return sum(reshape(flat, [parts, flat.size / parts]), 1);
  });
  const sums: Tensor[] = [];
  for (let i = 0; i < squares.length; i += TOGETHER)
    sums.push(sum(concat(squares.slice(i, i + TOGETHER), 0)));
  return sqrt(sums.reduce((a, b) => add(a, b)));
}

/** Gradients scaled so that their global norm is at most `limit`, and the norm before. */
export function clipByGlobalNorm<G>(
  grads: G,
  limit: number,
): { grads: Mapped<G, Tensor>; norm: Tensor } {
  const norm = globalNorm(grads);
  const factor = minimum(div(limit, add(norm, 1e-6)), 1);
  return { grads: treeMap((g) => mul(g, cast(factor, g.dtype)), grads), norm };
}

/**
 * One update.
 * @param step f32 scalar, 1 for the first update
 * @param learningRate f32 scalar
 */
export function adamw<P>(
  params: P,
  grads: unknown,
  moments: Moments<P>,
  { step, learningRate }: { step: Tensor; learningRate: Tensor },
  c: AdamWConfig,
): { params: P; moments: Moments<P> } {
  const correction = (beta: number) => sub(1, power(beta, step));
  const [correction1, correction2] = [correction(c.beta1), correction(c.beta2)];
  const mix = (beta: number, old: Tensor, fresh: Tensor) =>
    cast(add(mul(cast(old, "f32"), beta), mul(fresh, 1 - beta)), old.dtype);

  const first = treeMap((m, g) => mix(c.beta1, m, cast(g, "f32")), moments.first, grads);
  const second = treeMap((v, g) => mix(c.beta2, v, square(cast(g, "f32"))), moments.second, grads);
  const updated = treeMap(
    (p, m, v) => {
      const root = add(sqrt(div(cast(v, "f32"), correction2)), c.eps);
      const direction = div(div(cast(m, "f32"), correction1), root);
      const decay = p.rank >= 2 && isFloat(p.dtype) ? c.weightDecay : 0;
      const kept = mul(cast(p, "f32"), sub(1, mul(learningRate, decay)));
      return cast(sub(kept, mul(direction, learningRate)), p.dtype);
    },
    params,
    first,
    second,
  );
  return {
    params: updated as P,
    moments: { first: first as Mapped<P, Tensor>, second: second as Mapped<P, Tensor> },
  };
}

/** base^exponent for a base in (0, 1). */
function power(base: number, exponent: Tensor): Tensor {
  return exp(mul(exponent, Math.log(base)));
}
