/** Scaled dot-product attention over strided views, with its derivative as an operation. */
import { describe, type Spec } from "../spec.ts";
import type { Tensor } from "../tensor.ts";
import { apply, define } from "./registry.ts";

export interface AttentionOptions {
  /** Factor on q · k before the softmax. */
  readonly scale: number;
  /** Whether a query sees only keys up to its own position. */
  readonly causal?: boolean;
  /** i32 [B]: how many keys of each sequence count; the last query sits on the last of them. */
  readonly lengths?: Tensor;
  /** i32 [B, S]: positions attend only to those with the same number. Needs T = S. */
  readonly segments?: Tensor;
  /** Keys and values in pages: k and v are [pages, pageSize, heads, width], table i32 [B, P]. */
  readonly pages?: { readonly table: Tensor; readonly pageSize: number };
}

/** Optional operands, in the order in which they follow q, k and v. */
const EXTRA = ["lengths", "segments", "pages"] as const;

define("attention", {
  infer([q, _, v]) {
    const [x, y] = [q as Tensor, v as Tensor];
    const [b, t, h] = x.shape as [number, number, number];
    return [
      { shape: [b, t, h, y.shape[3] as number], dtype: x.dtype },
      { shape: [b, h, t], dtype: "f32" },
    ];
  },
  grad(node, [g]) {
    if (!g) return node.inputs.map(() => null);
    const extra = node.inputs.slice(3);
    if ((node.attrs.extra as string[]).includes("pages")) {
      throw new Error(
        "attention over pages has no derivative; use contiguous keys and values for training",
      );
    }
    const grads = apply(
      "attentionGrad",
      [...node.inputs.slice(0, 3), ...node.outputs, g, ...extra],
      node.attrs,
    );
    return [...grads, ...extra.map(() => null)];
  },
});

define("attentionGrad", {
  infer: (inputs): Spec[] => inputs.slice(0, 3).map((t) => ({ shape: t.shape, dtype: t.dtype })),
});

/**
 * softmax(scale · q kᵀ + mask) v.
 * @param q [B, T, H, Dk]
 * @param k [B, S, Hk, Dk], where Hk divides H
 * @param v [B, S, Hk, Dv]
 * @returns [B, T, H, Dv], in the dtype of q; 0 for queries that see no key.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor {
  const fail = (why: string): never => {
    throw new Error(`attention: ${why} (q ${describe(q)}, k ${describe(k)}, v ${describe(v)})`);
  };
  if (q.rank !== 4 || k.rank !== 4 || v.rank !== 4)
    fail("q, k and v are [batch, time, heads, width]");
  if (q.shape[3] !== k.shape[3]) fail("q and k differ in width");
  if (k.shape.slice(0, 3).join() !== v.shape.slice(0, 3).join())
    fail("k and v differ in batch, time or heads");
  if ((q.shape[2] as number) % (k.shape[2] as number) !== 0)
    fail("heads of k do not divide those of q");
  const { lengths, segments, pages } = options;
  const batch = q.shape[0] as number;
  const shaped = (t: Tensor, shape: readonly number[], name: string) => {
    if (t.dtype !== "i32" || t.shape.join() !== shape.join())
      fail(`${name} should be i32[${shape.join(", ")}], got ${describe(t)}`);
  };
  if (lengths) shaped(lengths, [batch], "lengths");
  if (segments) {
    if (q.shape[1] !== k.shape[1] || pages)
      fail("segments need as many queries as keys, and no pages");
    shaped(segments, [batch, k.shape[1] as number], "segments");
  }
  if (pages) {
    shaped(pages.table, [batch, pages.table.shape[1] as number], "pages.table");
    if (pages.pageSize !== k.shape[1])
      fail(`pages of ${pages.pageSize} positions need k and v of that extent`);
    if (!lengths) fail("pages need lengths");
  } else if (k.shape[0] !== batch) fail("q and k differ in batch");
  const extra = EXTRA.filter((name) => options[name] !== undefined);
  const operands = { lengths, segments, pages: pages?.table };
  const inputs = [q, k, v, ...extra.map((name) => operands[name] as Tensor)];
  const attrs = { scale: options.scale, causal: options.causal ?? false, extra };
  return apply("attention", inputs, attrs)[0] as Tensor;
}
