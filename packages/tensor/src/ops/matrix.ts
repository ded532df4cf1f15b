/** Matrix products. Transposes are views, which the kernels take as strides. */
import { type DType, isFloat } from "../dtype.ts";
import { describe } from "../spec.ts";
import type { Node, Tensor } from "../tensor.ts";
import { apply1, define } from "./registry.ts";
import { broadcastShapes, broadcastTo, reshape, transpose } from "./shape.ts";

/** Block scales of a matrix: element (r, c) is value · scale[⌊r/block[0]⌋, ⌊c/block[1]⌋]. */
export interface BlockScale {
  /** f32 [..., ceil(rows / block[0]), ceil(columns / block[1])] */
  readonly scale: Tensor;
  readonly block: readonly [number, number];
}

export interface MatmulOptions {
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  /** Of the result; f32 if either operand is f32 or scaled, else that of a. */
  readonly dtype?: DType;
  /** Scales of the operands as given, before transposition. */
  readonly aScale?: BlockScale;
  readonly bScale?: BlockScale;
}

define("matmul", {
  infer([a, b], attrs) {
    const [x, y] = [a as Tensor, b as Tensor];
    const shape = [...x.shape.slice(0, -1), y.shape.at(-1) as number];
    return [{ shape, dtype: attrs.dtype as DType }];
  },
  grad(node, [g]) {
    if (!g) return node.inputs.map(() => null);
    const [a, b] = node.inputs as [Tensor, Tensor];
    const { aBlock, bBlock } = node.attrs as {
      aBlock?: [number, number];
      bBlock?: [number, number];
    };
    const bScale = bBlock && { scale: node.inputs.at(-1) as Tensor, block: bBlock };
    const aScale = aBlock && { scale: node.inputs[2] as Tensor, block: aBlock };
    // Scaled operands are quantised constants: no gradient reaches them, but it passes through them.
    const da =
      isFloat(a.dtype) && !aBlock
        ? matmul(g, b, { transposeB: true, dtype: a.dtype, ...(bScale && { bScale }) })
        : null;
    return [da, bGrad(a, b, g, aScale, !bBlock), ...node.inputs.slice(2).map(() => null)];
  },
});

/** The gradient of b, laid out as what b is a transpose of where it is one: weights are. */
function bGrad(
  a: Tensor,
  b: Tensor,
  g: Tensor,
  aScale: BlockScale | undefined,
  wanted: boolean,
): Tensor | null {
  if (!wanted || !isFloat(b.dtype)) return null;
  if (b.node?.op === "permute" && aScale === undefined) {
    return transpose(matmul(g, a, { transposeA: true, dtype: b.dtype }));
  }
  return matmul(a, g, { transposeA: true, dtype: b.dtype, ...(aScale && { aScale }) });
}

/**
 * a [..., m, k] · b [..., k, n] → [..., m, n], accumulated in f32; leading axes broadcast. Operands
 * may differ in dtype (bf16 weights with f32 activations, say).
 */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  if (a.rank < 2 || b.rank < 2) {
    throw new Error(`matmul needs matrices, got ${describe(a)} and ${describe(b)}`);
  }
  const x = options.transposeA ? transpose(a) : a;
  const y = options.transposeB ? transpose(b) : b;
  const [m, k] = x.shape.slice(-2) as [number, number];
  const [k2, n] = y.shape.slice(-2) as [number, number];
  if (k !== k2) {
    throw new Error(
      `matmul: inner extents differ: ${k} in ${describe(a)}${options.transposeA ? "ᵀ" : ""}, ${k2} in ${describe(b)}${options.transposeB ? "ᵀ" : ""}`,
    );
  }
  const scaled = options.aScale !== undefined || options.bScale !== undefined;
  const dtype =
    options.dtype ?? (scaled || a.dtype === "f32" || b.dtype === "f32" ? "f32" : a.dtype);
  // Rows of all leading axes are rows of one product if b is a single matrix.
  if (y.rank === 2 && x.rank > 2 && !options.transposeA && !options.aScale) {
    const flat = matmul(reshape(x, [x.size / Math.max(1, k), k]), b, options);
    return reshape(flat, [...x.shape.slice(0, -1), n]);
  }
  const lead = broadcastShapes(x.shape.slice(0, -2), y.shape.slice(0, -2));
  const scales = [
    ...orient(options.aScale, options.transposeA, lead, [m, k], "aScale"),
    ...orient(options.bScale, options.transposeB, lead, [k, n], "bScale"),
  ];
  return apply1(
    "matmul",
    [broadcastTo(x, [...lead, m, k]), broadcastTo(y, [...lead, k, n]), ...scales],
    {
      dtype,
      aBlock: turned(options.aScale, options.transposeA),
      bBlock: turned(options.bScale, options.transposeB),
    },
  );
}

function turned(s: BlockScale | undefined, transposed = false): readonly number[] | undefined {
  return s && (transposed ? [s.block[1], s.block[0]] : s.block);
}

/** The scales in the orientation of the product, checked. */
function orient(
  s: BlockScale | undefined,
  transposed: boolean | undefined,
  lead: readonly number[],
  extent: readonly [number, number],
  name: string,
): Tensor[] {
  if (s === undefined) return [];
  const scale = transposed ? transpose(s.scale) : s.scale;
  const [br, bc] = turned(s, transposed) as [number, number];
  const shape = [...lead, Math.ceil(extent[0] / br), Math.ceil(extent[1] / bc)];
  if (scale.dtype !== "f32" || scale.shape.slice(-2).join() !== shape.slice(-2).join()) {
    throw new Error(
      `matmul: ${name} should be f32[${shape.join(", ")}] in the product's orientation, got ${describe(scale)}`,
    );
  }
  return [broadcastTo(scale, shape)];
}

define("groupedRows", {
  infer([x, w], attrs) {
    return [
      {
        shape: [(x as Tensor).shape[0] as number, (w as Tensor).shape[2] as number],
        dtype: attrs.dtype as DType,
      },
    ];
  },
  grad(node, [g]) {
    if (!g) return [null, null, null];
    const [x, w, offsets] = node.inputs as [Tensor, Tensor, Tensor];
    return [
      groupedMatmul(g, w, offsets, { transposeB: true, dtype: x.dtype }),
      // Transposed weights get their gradient in the layout that they are stored in.
      w.node?.op === "permute"
        ? transpose(groupedOuter(g, x, offsets, w.dtype))
        : groupedOuter(x, g, offsets, w.dtype),
      null,
    ];
  },
});

define("groupedOuter", {
  infer([a, b, offsets], attrs) {
    const groups = ((offsets as Tensor).shape[0] as number) - 1;
    return [
      {
        shape: [groups, (a as Tensor).shape[1] as number, (b as Tensor).shape[1] as number],
        dtype: attrs.dtype as DType,
      },
    ];
  },
  grad(node: Node, [g]) {
    if (!g) return [null, null, null];
    const [a, b, offsets] = node.inputs as [Tensor, Tensor, Tensor];
    return [
      groupedMatmul(b, g, offsets, { transposeB: true, dtype: a.dtype }),
      groupedMatmul(a, g, offsets, { dtype: b.dtype }),
      null,
    ];
  },
});

/** out[g] = a[run g]ᵀ · b[run g]: the gradient of a grouped product's weights. */
function groupedOuter(a: Tensor, b: Tensor, offsets: Tensor, dtype: DType): Tensor {
  return apply1("groupedOuter", [a, b, offsets], { dtype });
}

/**
 * A matrix per run of rows: x [N, K], w [G, K, M] ([G, M, K] with transposeB), offsets i32 [G + 1]
 * → [N, M] with out[r] = x[r] · w[g] for offsets[g] ≤ r < offsets[g + 1]. Rows in no run give 0.
 */
export function groupedMatmul(
  x: Tensor,
  w: Tensor,
  offsets: Tensor,
  options: { transposeB?: boolean; dtype?: DType } = {},
): Tensor {
  const y = w.rank === 3 && options.transposeB ? transpose(w) : w;
  if (x.rank !== 2 || y.rank !== 3 || x.shape[1] !== y.shape[1]) {
    throw new Error(
      `groupedMatmul: ${describe(x)} does not fit weights ${describe(w)}${options.transposeB ? "ᵀ" : ""}`,
    );
  }
  if (
    offsets.dtype !== "i32" ||
    offsets.rank !== 1 ||
    offsets.shape[0] !== (y.shape[0] as number) + 1
  ) {
    throw new Error(
      `groupedMatmul: offsets should be i32[${(y.shape[0] as number) + 1}], got ${describe(offsets)}`,
    );
  }
  const dtype = options.dtype ?? (x.dtype === "f32" || w.dtype === "f32" ? "f32" : x.dtype);
  return apply1("groupedRows", [x, y, offsets], { dtype });
}
