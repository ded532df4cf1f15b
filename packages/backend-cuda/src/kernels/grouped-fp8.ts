/**
 * What is different about grouped products of e4m3 with block scales on the tensor cores: which operands
 * they take, and a step of the contraction. They read 8-bit operands along the contraction only, and add
 * 8-bit products in fewer bits than f32 has, so every 128 are added up outside (DeepSeek-V3, section
 * 3.3.2), which is also where the scales change.
 */
import type { GroupedMatmulKernel, MatrixView } from "../contract.ts";
import type { Launch, TensorMap } from "../kernel.ts";
import { transposeBytes } from "./transpose-bytes.ts";

/** Contiguous along the contraction, in lines that the copy engine takes. */
function along(view: MatrixView, inner: number, across: number): boolean {
  return inner === 1 && [view.offset, across, ...view.batch].every((s) => s % 16 === 0);
}

/**
 * Whether scales are as DeepSeek-V3 has them and operands lie along the contraction: in "rows" 1 × 128
 * for a and 128 × 128 for b, in "groups" 128 × 1 for both, side by side.
 */
export function blockScaled({ form, rows, k, n, a, b }: GroupedMatmulKernel): boolean {
  if (a.dtype !== "f8e4m3" || b.dtype !== "f8e4m3" || !a.scale || !b.scale) return false;
  const blocks = `${a.scale.block.join()} ${b.scale.block.join()}`;
  if (form === "rows")
    return blocks === "1,128 128,128" && along(a, a.col, a.row) && along(b, b.row, b.col);
  const beside = ({ scale }: MatrixView, width: number) =>
    scale?.col === 1 && scale.row % 4 === 0 && scale.row >= width;
  return (
    blocks === "128,1 128,1" &&
    rows % 128 === 0 &&
    along(a, a.row, a.col) &&
    along(b, b.row, b.col) &&
    beside(a, k) &&
    beside(b, n)
  );
}

/** The weights turned over, so that they lie along the contraction: the view of the copy, and its making. */
export function turnedWeights(k: GroupedMatmulKernel): {
  readonly view: MatrixView;
  readonly source: string;
  readonly launch: Launch;
  readonly workspace: number;
} {
  const { b } = k;
  const { source, launch } = transposeBytes(
    {
      ...{ from: { slot: b.slot, offset: b.offset }, to: { workspace: 0 }, batch: k.groups },
      ...{ rows: k.k, columns: k.n, leading: b.row, stride: b.batch[0] ?? 0 },
    },
    "turn_weights",
  );
  const dense = { offset: 0, batch: [k.k * k.n], row: 1, col: k.k };
  return { view: { ...b, ...dense }, source, launch, workspace: k.groups * k.k * k.n };
}

/** In "groups": the scales of a block of the contraction, as boxes of a line. */
export function scaleMap(
  { scale }: MatrixView,
  rows: number,
  width: number,
  box: number,
): TensorMap {
  if (scale === undefined) throw new Error("an FP8 operand has lost its scales");
  return {
    slot: scale.slot,
    dtype: "f32",
    dims: [width, rows / 128],
    strides: [scale.row * 4],
    box: [box, 1],
    swizzle: 0,
  };
}

/** A step: the product of a stage, times its scales, is added to `sum`. */
export function multiplyScaled({ form, a, b }: GroupedMatmulKernel): string {
  const product = `const u64 a_desc = k_major<64>(stage + part * (64 * 128)), b_desc = k_major<64>(stage + B_AT);
        f32 product[BN / 2], scale[2];
        pin(product);
        wgmma_begin();
        #pragma unroll
        for (int i = 0; i < 4; ++i) wgmma_f8(product, a_desc + k_step<64, BM>(i), b_desc + k_step<64, BN>(i), i > 0);
        wgmma_commit();`;
  const row = "part * 64 + (thread >> 5) * 16 + (lane >> 2) + 8 * h";
  if (form === "rows")
    return `${product}
        const f32 scale_b = b_scale[(i64)at.group * ${b.scale?.batch[0] ?? 0} + (i64)step * ${b.scale?.row} + (i64)(at.column / 128) * ${b.scale?.col}];
        #pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int r = min(at.row + ${row}, ROWS - 1);
          scale[h] = scale_b * a_scale[(i64)r * ${a.scale?.row} + (i64)step * ${a.scale?.col}];
        }
        wgmma_wait<0>();
        pin(product);
        if (lane == 0) barrier_arrive(ring.empty());
        #pragma unroll
        for (int i = 0; i < BN / 2; ++i) sum[i] += product[i] * scale[i >> 1 & 1];`;
  return `${product}
        const f32* const scales = (const f32*)(memory + ring.stage * STAGE_BYTES + SCALES_AT);
        f32 scale_b[BN / 4];
        #pragma unroll
        for (int h = 0; h < 2; ++h) scale[h] = scales[${row}];
        #pragma unroll
        for (int j = 0; j < BN / 8; ++j) {
          const float2 two = *(const float2*)(scales + BM + 8 * j + 2 * (lane & 3));
          scale_b[2 * j] = two.x, scale_b[2 * j + 1] = two.y;
        }
        wgmma_wait<0>();
        pin(product);
        __syncwarp(); // all have read the scales
        if (lane == 0) barrier_arrive(ring.empty());
        #pragma unroll
        for (int i = 0; i < BN / 2; ++i) sum[i] += product[i] * scale_b[i >> 2 << 1 | i & 1] * scale[i >> 1 & 1];`;
}
