/** Attention that leaves out some of its weights, for training on little text. */
import {
  and,
  cast,
  type Dropout,
  dropout,
  eq,
  expandDims,
  ge,
  iota,
  matmul,
  mul,
  permute,
  softmax,
  type Tensor,
  where,
} from "@dsv3/tensor";

/** A score that no softmax lets through, and that has no NaN in its derivative. */
const UNSEEN = -1e30;

/**
 * dropout(softmax(scale · q kᵀ + causal mask)) v, as nanoGPT trains. The fused `attention` never holds
 * the weights; here they are made, B H T² numbers, in f32.
 * q, k [B, T, H, Dk], v [B, T, H, Dv], segments i32 [B, T] → [B, T, H, Dv] in v's dtype.
 */
export function attentionWithDropout(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: {
    readonly scale: number;
    readonly segments?: Tensor | undefined;
    readonly dropout: Dropout;
  },
): Tensor {
  const byHead = (x: Tensor) => permute(x, [0, 2, 1, 3]); // [B, T, H, d] ↔ [B, H, T, d]
  const scores = matmul(byHead(q), byHead(k), { transposeB: true, dtype: "f32" }); // [B, H, T, T]
  const position = iota(q.shape[1]!);
  const past = ge(expandDims(position, 1), expandDims(position, 0)); // [T, T]
  const { segments } = options;
  const same = segments && eq(expandDims(segments, 2), expandDims(segments, 1)); // [B, T, T]
  const seen = same ? expandDims(and(same, past), 1) : past;
  const weights = softmax(where(seen, mul(scores, options.scale), UNSEEN));
  const kept = cast(dropout(weights, options.dropout), v.dtype);
  return byHead(matmul(kept, byHead(v), { dtype: v.dtype })); //           [B, T, H, Dv]
}
