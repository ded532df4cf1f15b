/** Matrix products. Transposes are views, which the kernels take as strides. */
import { type DType, isFloat } from "../dtype.ts";
import { describe } from "../spec.ts";
import type { Node, Tensor } from "../tensor.ts";
import { cast, mul } from "./pointwise.ts";
import { apply1, define } from "./registry.ts";
import { broadcastShapes, broadcastTo, reshape, slice, transpose } from "./shape.ts";

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

/** What {@link dequantize} made its results of. */
const blockScaled = new WeakMap<Tensor, BlockScale & { readonly values: Tensor }>();

/**
 * values [..., R, C] times the scales of their blocks: a quantised matrix as the f32 matrix that it
 * stands for. A product whose right operand it is reads the stored values themselves; in a compiled
 * program the f32 matrix is made only for other uses.
 */
export function dequantize(values: Tensor, { scale, block }: BlockScale): Tensor {
  const lead = values.shape.slice(0, -2);
  const [R, C] = values.shape.slice(-2) as [number, number];
  const [rows, columns] = [Math.ceil(R / block[0]), Math.ceil(C / block[1])];
  orient({ scale, block }, false, lead, [R, C], "scale");
  const each = broadcastTo(reshape(scale, [...lead, rows, 1, columns, 1]), [
    ...lead,
    rows,
    block[0],
    columns,
    block[1],
  ]);
  const whole = reshape(each, [...lead, rows * block[0], columns * block[1]]);
  const start = whole.shape.map(() => 0);
  const result = mul(cast(values, "f32"), slice(whole, start, values.shape));
  blockScaled.set(result, { values, scale, block });
  return result;
}

/** The quantised matrix that t stands for, also where t was cast to the dtype of activations. */
export function storedValues(t: Tensor): (BlockScale & { readonly values: Tensor }) | undefined {
  const { node } = t;
  return blockScaled.get(node?.op === "cast" ? (node.inputs[0] as Tensor) : t);
}

define("matmul", {
  infer([a, b], attrs) {
    const [x, y] = [a as Tensor, b as Tensor];
    const shape = [...x.shape.slice(0, -1), y.shape.at(-1) as number];
    return [{ shape, dtype: attrs.dtype as DType }];
  },
  grad(node, [wide]) {
    if (!wide) return node.inputs.map(() => null);
    const [a, b] = node.inputs as [Tensor, Tensor];
    // Both gradients are rounded to bf16 in any case; one that is meets a bf16 factor at full speed.
    const g = a.dtype === "bf16" && b.dtype === "bf16" ? cast(wide, "bf16") : wide;
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
  const stored = storedValues(b);
  if (stored && !options.bScale) {
    return matmul(a, stored.values, { ...options, bScale: stored });
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
    if (!g) return node.inputs.map(() => null);
    const [x, w, offsets] = node.inputs as [Tensor, Tensor, Tensor];
    const { aBlock, bBlock } = node.attrs as {
      aBlock?: [number, number];
      bBlock?: [number, number];
    };
    // No gradient reaches quantised constants, but it passes through them.
    if (aBlock) throw new Error("a grouped product with quantised rows has no derivative");
    const scale = node.inputs[3];
    const bScale = scale && bBlock && { scale, block: bBlock };
    const options = { transposeB: true, dtype: x.dtype, ...(bScale && { bScale }) };
    const dx = groupedMatmul(g, w, offsets, options);
    if (bScale) return [dx, null, null, null];
    return [
      dx,
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
    if (!g) return node.inputs.map(() => null);
    const [a, b, offsets, ...scales] = node.inputs as [Tensor, Tensor, Tensor, ...Tensor[]];
    if (scales.length > 0)
      throw new Error("a grouped product of quantised operands has no derivative");
    return [
      groupedMatmul(b, g, offsets, { transposeB: true, dtype: a.dtype }),
      groupedMatmul(a, g, offsets, { dtype: b.dtype }),
      null,
    ];
  },
});

/**
 * out[g] = a[run g]ᵀ · b[run g]: the gradient of a grouped product's weights. Runs of operands with
 * scales, of 128 × 1, start at multiples of 128.
 */
export function groupedOuter(
  a: Tensor,
  b: Tensor,
  offsets: Tensor,
  dtype: DType,
  { aScale, bScale }: Pick<MatmulOptions, "aScale" | "bScale"> = {},
): Tensor {
  const scales = [
    ...orient(aScale, false, [], a.shape as [number, number], "aScale"),
    ...orient(bScale, false, [], b.shape as [number, number], "bScale"),
  ];
  return apply1("groupedOuter", [a, b, offsets, ...scales], {
    dtype,
    aBlock: turned(aScale),
    bBlock: turned(bScale),
  });
}

export interface GroupedMatmulOptions {
  readonly transposeB?: boolean;
  readonly dtype?: DType;
  readonly aScale?: BlockScale;
  /** Scales of w as given, before transposition. */
  readonly bScale?: BlockScale;
}

/**
 * A matrix per run of rows: x [N, K], w [G, K, M] ([G, M, K] with transposeB), offsets i32 [G + 1]
 * → [N, M] with out[r] = x[r] · w[g] for offsets[g] ≤ r < offsets[g + 1]. Rows in no run give 0.
 */
export function groupedMatmul(
  x: Tensor,
  w: Tensor,
  offsets: Tensor,
  options: GroupedMatmulOptions = {},
): Tensor {
  const stored = storedValues(w);
  if (stored && !options.bScale) {
    return groupedMatmul(x, stored.values, offsets, { ...options, bScale: stored });
  }
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
  const scaled = options.aScale !== undefined || options.bScale !== undefined;
  const dtype =
    options.dtype ?? (scaled || x.dtype === "f32" || w.dtype === "f32" ? "f32" : x.dtype);
  const [groups, k, m] = y.shape as [number, number, number];
  const rows = x.shape[0] as number;
  const scales = [
    ...orient(options.aScale, false, [], [rows, k], "aScale"),
    ...orient(options.bScale, options.transposeB, [groups], [k, m], "bScale"),
  ];
  return apply1("groupedRows", [x, y, offsets, ...scales], {
    dtype,
    aBlock: turned(options.aScale),
    bBlock: turned(options.bScale, options.transposeB),
  });
}
