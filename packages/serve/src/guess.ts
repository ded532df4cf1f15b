/** Guesses at tokens to come: the MTP module, and the module again over what it guessed. */
import { type LatentCache, type ModelConfig, type ModelParams, mtpCached } from "@dsv3/model";
import {
  add,
  and,
  argmax,
  concat,
  expandDims,
  gt,
  iota,
  le,
  mul,
  reshape,
  type Tensor,
  take,
  takeAlong,
  where,
} from "@dsv3/tensor";

/** Tokens of some sequences, as the programs take them. */
export type Placed = { ids: Tensor; lengths: Tensor; pages: Tensor; used: Tensor | null };

/** Where guessing goes on from: i32 [B] each. */
export type GuessFrom = {
  column: Tensor; // of the last token that is certain
  length: Tensor; // tokens up to it, 0 for idle rows
  room: Tensor; //   tokens that the row's blocks hold
};

/**
 * `ahead` guesses for each row, i32 [B, ahead]. hidden: [B, T, D] of the main model; the ids of the
 * batch stand one place further on. After the first guess the module goes on as if its own guess and
 * hidden state were the model's (EAGLE, arXiv 2401.15077).
 */
export function guessAhead(
  params: ModelParams,
  hidden: Tensor,
  { ids, lengths, pages, used }: Placed,
  { column, length, room }: GuessFrom,
  cache: LatentCache,
  ahead: number,
  config: ModelConfig,
  computeDtype: "f32" | "bf16",
): { tokens: Tensor; cache: LatentCache } {
  const settings = { pages, used, computeDtype, form: "absorbed", logits: "all" } as const;
  const first = mtpCached(params, 1, hidden, ids, cache, lengths, config, settings);
  const [batch, width, D] = first.hidden.shape as [number, number, number];
  let token = takeAlong(argmax(first.logits, 2), expandDims(column, 1)); // [B, 1]
  const at = add(mul(iota(batch), width), column);
  let state = expandDims(take(reshape(first.hidden, [batch * width, D]), at), 1); // [B, 1, D]
  const tokens = [token];
  let updated = first.cache;
  for (let i = 1; i < ahead; i++) {
    const reach = add(length, i);
    const fits = and(gt(length, 0), le(reach, room));
    const result = mtpCached(
      params,
      1,
      state,
      token,
      updated,
      where(fits, reach, 0),
      config,
      settings,
    );
    token = argmax(result.logits, 2);
    state = result.hidden;
    updated = result.cache;
    tokens.push(token);
  }
  return { tokens: concat(tokens, 1), cache: updated };
}
