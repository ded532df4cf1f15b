/** Guesses at tokens to come: the MTP modules one after another, the last of them over what it guessed. */
import {
  columnOf,
  type LatentCache,
  type ModelConfig,
  type ModelParams,
  mtpCached,
} from "@dsv3/model";
import {
  add,
  and,
  argmax,
  concat,
  expandDims,
  ge,
  gt,
  iota,
  le,
  sliceAxis,
  type Tensor,
  where,
} from "@dsv3/tensor";
import type { Placed } from "./place.ts";

/** Where guessing goes on from: i32 [B] each. */
export type GuessFrom = {
  column: Tensor; // of the last token that is certain
  length: Tensor; // tokens up to it, 0 for idle rows
  room: Tensor; //   tokens that the row's blocks hold
};

/**
 * `ahead` guesses for each row, i32 [B, ahead]. hidden: [B, T, D] of the main model; the ids of the
 * batch stand one place further on. `caches`: one of each module that guesses.
 *
 * Module k reads the hidden states of module k − 1 and the tokens k places further on, as it was trained
 * (report, section 2.2); past the last certain token these are the guesses so far. After the last module's
 * guess it goes on as if its own guess and hidden state were true (EAGLE, arXiv 2401.15077).
 */
export function guessAhead(
  params: ModelParams,
  hidden: Tensor,
  { ids, lengths, pages, used }: Placed,
  { column, length, room }: GuessFrom,
  caches: readonly LatentCache[],
  ahead: number,
  config: ModelConfig,
  computeDtype: "f32" | "bf16",
): { tokens: Tensor; caches: LatentCache[] } {
  const settings = { pages, used, computeDtype, form: "absorbed" } as const;
  const width = ids.shape[1]!;
  const past = ge(iota(width), expandDims(column, 1)); // [B, T]
  const updated: LatentCache[] = [];
  const guesses: Tensor[] = []; // [B, 1] each
  let [states, tokens] = [hidden, ids];
  for (const [i, cache] of caches.entries()) {
    const options = { ...settings, logits: column };
    const result = mtpCached(params, i + 1, states, tokens, cache, lengths, config, options);
    const guess = argmax(result.logits, 2);
    updated.push(result.cache);
    guesses.push(guess);
    states = result.hidden;
    tokens = where(past, guess, concat([sliceAxis(tokens, 1, 1, width), guess], 1));
  }

  const modules = caches.length;
  let state = columnOf(states, column);
  while (guesses.length < ahead) {
    const reach = add(length, guesses.length - modules + 1);
    const fits = and(gt(length, 0), le(reach, room));
    const to = where(fits, reach, 0);
    const cache = updated.pop()!;
    const result = mtpCached(params, modules, state, guesses.at(-1)!, cache, to, config, settings);
    state = result.hidden;
    updated.push(result.cache);
    guesses.push(argmax(result.logits, 2));
  }
  return { tokens: concat(guesses, 1), caches: updated };
}
