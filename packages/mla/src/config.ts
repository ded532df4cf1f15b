/** What an attention layer is made of: sizes, parameters, initial values. */
import { foldIn, type Mapped, mul, normal, ones, type Tensor } from "@dsv3/tensor";
import type { RopeConfig } from "./rope.ts";

/** Sizes of Multi-head Latent Attention, by their Hugging Face names in camelCase. */
export interface MlaConfig extends RopeConfig {
  readonly hiddenSize: number; //        D
  readonly numAttentionHeads: number; // H
  readonly qLoraRank: number | null; //  Q; null: queries straight from x (DeepSeek-V2-Lite)
  readonly kvLoraRank: number; //        C, width of the cached latent
  readonly qkNopeHeadDim: number; //     N, width of a head's query and key without position
  readonly qkRopeHeadDim: number; //     R, width of the rotated part, one key for all heads
  readonly vHeadDim: number; //          V
}

/** Weights of one layer. Matrices are [out, in], as on disk; `…WithMqa` gives latent and rotary key. */
export type MlaParams = QueryParams & {
  kvAProjWithMqa: Tensor; // [C + R, D]     W_DKV over W_KR
  kvALayernorm: Tensor; //   [C]
  kvBProj: Tensor; //        [H (N + V), C] per head, W_UK over W_UV
  oProj: Tensor; //          [D, H V]
};

/** Queries through a latent of their own (eq. 6-8), or without one. */
export type QueryParams =
  | {
      qAProj: Tensor; //      [Q, D]         W_DQ
      qALayernorm: Tensor; // [Q]
      qBProj: Tensor; //      [H (N + R), Q] per head, W_UQ over W_QR
    }
  | { qProj: Tensor }; //     [H (N + R), D]

type Shape = readonly number[];

/** Shapes of every parameter of a layer; nothing is allocated. */
export function mlaParamShapes(c: MlaConfig): Mapped<MlaParams, Shape> {
  const qWidth = c.numAttentionHeads * (c.qkNopeHeadDim + c.qkRopeHeadDim);
  const query: Mapped<QueryParams, Shape> =
    c.qLoraRank === null
      ? { qProj: [qWidth, c.hiddenSize] }
      : {
          qAProj: [c.qLoraRank, c.hiddenSize],
          qALayernorm: [c.qLoraRank],
          qBProj: [qWidth, c.qLoraRank],
        };
  return {
    ...query,
    kvAProjWithMqa: [c.kvLoraRank + c.qkRopeHeadDim, c.hiddenSize],
    kvALayernorm: [c.kvLoraRank],
    kvBProj: [c.numAttentionHeads * (c.qkNopeHeadDim + c.vHeadDim), c.kvLoraRank],
    oProj: [c.hiddenSize, c.numAttentionHeads * c.vHeadDim],
  };
}

/** Fresh f32 parameters: matrices normal with deviation `std`, norms 1. `key` is a u32 [2] random key. */
export function initMla(c: MlaConfig, key: Tensor, std: number): MlaParams {
  const entries = Object.entries(mlaParamShapes(c)).map(([name, shape], i) => [
    name,
    shape.length === 1 ? ones(shape) : mul(normal(foldIn(key, i), shape), std),
  ]);
  return Object.fromEntries(entries) as MlaParams;
}
