/** Attention: which kernel takes which shape. */
import type { AttentionGradKernel, AttentionKernel } from "../contract.ts";
import type { Lower } from "../kernel.ts";
import { flashAttention } from "./attention-flash.ts";
import { flashAttentionGrad } from "./attention-grad-flash.ts";
import { plainAttention, plainAttentionGrad } from "./attention-plain.ts";
import { mlaDecode } from "./mla-decode.ts";

/** In order of preference; the last takes every shape. */
export const attentionLowerings: readonly Lower<AttentionKernel>[] = [
  mlaDecode,
  flashAttention,
  plainAttention,
];

export const attentionGradLowerings: readonly Lower<AttentionGradKernel>[] = [
  flashAttentionGrad,
  plainAttentionGrad,
];
