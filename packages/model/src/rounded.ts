/** Which weights training in bf16 rounds before it multiplies by them. */
import type { MlaParams } from "@dsv3/mla";
import type { MlpParams, MoeParams } from "@dsv3/moe";
import type { Tensor } from "@dsv3/tensor";
import type { LayerParams, ModelParams } from "./params.ts";

/**
 * The matrices that `forward` rounds to the dtype of activations, in a fixed order, those that one
 * product multiplies by in one list: laid one below the other (`split` of one tensor), they are
 * multiplied as one. Norms, router and embedding stay as they are.
 */
export function roundedMatrices(params: ModelParams): Tensor[][] {
  return [
    ...params.layers.flatMap(ofLayer),
    ...params.mtp.flatMap((m) => [...ofLayer(m.layer), [m.ehProj]]),
    [params.lmHead],
  ];
}

/** Those of one layer. */
export function ofLayer({ selfAttn, mlp }: LayerParams): Tensor[][] {
  return [...ofAttention(selfAttn), ...ofMlp(mlp)];
}

function ofAttention(p: MlaParams): Tensor[][] {
  const queries =
    "qProj" in p ? [[p.qProj, p.kvAProjWithMqa]] : [[p.qAProj, p.kvAProjWithMqa], [p.qBProj]];
  return [...queries, [p.kvBProj], [p.oProj]];
}

function ofMlp(p: MlpParams | MoeParams): Tensor[][] {
  if ("gateProj" in p) return [[p.gateProj, p.upProj], [p.downProj]];
  return [...ofMlp(p.experts), ...(p.sharedExperts ? ofMlp(p.sharedExperts) : [])];
}
