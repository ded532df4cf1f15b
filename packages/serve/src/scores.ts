/** What is known of tokens in their places: log-probabilities, and the most likely ones. */
import type { ScoreResult } from "./sampling.ts";

/** A token that was drawn, with what was asked to be known of it. */
export interface Drawn {
  readonly token: number;
  /**
   * log softmax of the model's logits at this token: at temperature 1, and before penalties, biases,
   * formats, top-k, top-p and min-p, whatever the request draws with. So it is the probability that the
   * token was drawn with only where the request leaves all of them at their neutral values.
   */
  readonly logprob: number;
  /** The most likely tokens in its place, as many as the request asked for. */
  readonly top: readonly { readonly token: number; readonly logprob: number }[];
}

/** Scores of rows, on the host. */
interface Scores {
  readonly logprobs: ArrayLike<number>;
  readonly topTokens: ArrayLike<number>;
  readonly topLogprobs: ArrayLike<number>;
}

export async function readScores(result: ScoreResult): Promise<Scores> {
  const [logprobs, topTokens, topLogprobs] = await Promise.all([
    result.logprob.data(),
    result.topTokens.data(),
    result.topLogprobs.data(),
  ]);
  return { logprobs, topTokens, topLogprobs };
}

/** The `length` most likely tokens of a row, of the `width` that were read. */
export function topOf(scores: Scores, row: number, width: number, length: number): Drawn["top"] {
  return Array.from({ length }, (_, k) => ({
    token: scores.topTokens[row * width + k]!,
    logprob: scores.topLogprobs[row * width + k]!,
  }));
}
