/** Trees: nested records and arrays of tensors, the form of parameters, states and batches. */
import { Tensor } from "./tensor.ts";

export type Tree = Tensor | null | undefined | readonly Tree[] | { readonly [key: string]: Tree };

/** The same structure with every leaf replaced by `Leaf`. */
export type Mapped<T, Leaf> = T extends Tensor
  ? Leaf
  : T extends null | undefined
    ? T
    : { [K in keyof T]: Mapped<T[K], Leaf> };

/** Leaves with their paths ("layers.0.attn.qProj"), in a fixed order: keys as they stand. */
export function treePaths(tree: unknown, prefix = ""): [string, Tensor][] {
  if (tree instanceof Tensor) return [[prefix, tree]];
  if (tree === null || typeof tree !== "object") return [];
  return Object.entries(tree).flatMap(([key, child]) =>
    treePaths(child, prefix === "" ? key : `${prefix}.${key}`),
  );
}

/** The leaves of a tree, in the order of {@link treePaths}. */
export function treeLeaves(tree: unknown): Tensor[] {
  const leaves: Tensor[] = [];
  mapLeaves(tree, (t) => {
    leaves.push(t);
    return t;
  });
  return leaves;
}

/** A tree of the results of `fn` on corresponding leaves of trees of one structure. */
export function treeMap<T, R>(
  fn: (leaf: Tensor, ...rest: Tensor[]) => R,
  tree: T,
  ...rest: readonly unknown[]
): Mapped<T, R> {
  const others = rest.map((r) => treeLeaves(r));
  const count = treeLeaves(tree).length;
  for (const leaves of others) {
    if (leaves.length !== count) {
      throw new Error(
        `treeMap: trees have ${count} and ${leaves.length} tensors; their structures must agree`,
      );
    }
  }
  let i = 0;
  return mapLeaves(tree, (leaf) => {
    const result = fn(leaf, ...others.map((leaves) => leaves[i] as Tensor));
    i++;
    return result;
  }) as Mapped<T, R>;
}

/** Disposes every tensor of a tree. */
export function disposeTree(tree: unknown): void {
  for (const leaf of treeLeaves(tree)) leaf.dispose();
}

/** The tree with leaves replaced in order; values that are no tensors stay. */
export function mapLeaves(tree: unknown, fn: (leaf: Tensor) => unknown): unknown {
  if (tree instanceof Tensor) return fn(tree);
  if (Array.isArray(tree)) return tree.map((child) => mapLeaves(child, fn));
  if (tree !== null && typeof tree === "object" && !ArrayBuffer.isView(tree)) {
    return Object.fromEntries(Object.entries(tree).map(([k, child]) => [k, mapLeaves(child, fn)]));
  }
  return tree;
}
