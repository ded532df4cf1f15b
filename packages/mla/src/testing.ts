/** What tests compute with. */
import type { MlaConfig } from "./config.ts";

/** As small as it may be, no two sizes alike. */
export const SMALL: MlaConfig = {
  hiddenSize: 12,
  numAttentionHeads: 3,
  qLoraRank: 7,
  kvLoraRank: 10,
  qkNopeHeadDim: 6,
  qkRopeHeadDim: 4,
  vHeadDim: 5,
  ropeTheta: 100,
  ropeScaling: null,
  ropeInterleave: true,
};
