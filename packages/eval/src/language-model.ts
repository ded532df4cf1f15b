/**
 * What is asked of a model: how likely a text is after another one, and how a text goes on. The rules
 * are those of lm-evaluation-harness 0.4.13 (`api/model.py`, `models/huggingface.py`, `utils.py`).
 */
import { rstrip } from "./python-text.ts";

/** Log-likelihood of some tokens, and whether each was the likeliest in its place. */
export interface Likelihood {
  /** Natural logarithm, summed. */
  readonly logprob: number;
  readonly isGreedy: boolean;
}

export interface GenerateSettings {
  /** Texts that end an answer, which stops before them. */
  readonly until: readonly string[];
  /** Tokens of an answer at most. */
  readonly maxTokens: number;
  /** Answers; 1 unless given. */
  readonly n?: number;
  /** 0, the likeliest token, unless given. */
  readonly temperature?: number;
  readonly seed?: number;
}

/** A model and its tokenizer, as far as evaluation needs them. */
export interface LanguageModel {
  /** Most tokens that the model reads at once. */
  readonly maxLength: number;
  /** What an empty context is: the begin-of-sentence token, or else the end-of-sentence token. */
  readonly prefixToken: number;
  /** Ids of a text; with `special`, as a document begins (mostly: after the begin-of-sentence token). */
  encode(text: string, special: boolean): readonly number[];
  /** Ids of a conversation of one question, up to where the assistant begins to speak. */
  encodeQuestion(question: string): readonly number[];
  /** Both hold a token at least, and together at most `maxLength` + 1. */
  score(context: readonly number[], continuation: readonly number[]): Promise<Likelihood>;
  /** Texts of answers; the prompt leaves room for `maxTokens`. */
  generate(prompt: readonly number[], settings: GenerateSettings): Promise<readonly string[]>;
}

/** Token ids of a context and of what follows it. */
export interface Pair {
  readonly context: readonly number[];
  readonly continuation: readonly number[];
}

/**
 * Whitespace at the end of the context goes over to the continuation. The continuation's tokens are
 * those of both texts together from the number of the context's tokens on; before them stand the
 * context's own, so that of a token which spans the border the continuation's part is left out. An empty context is `prefixToken`, unless the
 * continuation begins with it.
 */
export function encodePair(model: LanguageModel, context: string, continuation: string): Pair {
  const head = rstrip(context);
  const tail = context.slice(head.length) + continuation;
  if (head !== "") {
    const [whole, before] = [model.encode(head + tail, true), model.encode(head, true)];
    return { context: before, continuation: whole.slice(before.length) };
  }
  const ids = model.encode(tail, false);
  if (ids[0] !== model.prefixToken) return { context: [model.prefixToken], continuation: ids };
  return { context: ids.slice(0, 1), continuation: ids.slice(1) };
}

/**
 * How likely a continuation is after a context, which is cut from the left where both are too long.
 * @throws RangeError for a continuation without a token, or too long for the model by itself
 */
export async function loglikelihood(
  model: LanguageModel,
  context: string,
  continuation: string,
): Promise<Likelihood> {
  const pair = encodePair(model, context, continuation);
  const length = pair.continuation.length;
  if (length === 0) {
    throw new RangeError(`${JSON.stringify(continuation)} adds no token to its context`);
  }
  if (length > model.maxLength) {
    const most = model.maxLength;
    throw new RangeError(
      `a continuation of ${length} tokens is longer than the context of ${most}`,
    );
  }
  const room = model.maxLength + 1 - length;
  return model.score(pair.context.slice(-room), pair.continuation);
}

/**
 * Cuts a text's tokens into windows, each token predicted once: all but the last window are
 * `maxLength` long and begin after a single token of the one before; the last one has as much context
 * as fits (`get_rolling_token_windows` with a context of 1, then `make_disjoint_window`).
 */
export function rollingWindows(
  tokens: readonly number[],
  prefixToken: number,
  maxLength: number,
): Pair[] {
  const windows: Pair[] = [];
  for (let from = 0; from < tokens.length; from += maxLength) {
    const end = Math.min(tokens.length, from + maxLength);
    const context = from === 0 ? [prefixToken] : tokens.slice(end - maxLength - 1, from);
    windows.push({ context, continuation: tokens.slice(from, end) });
  }
  return windows;
}

/**
 * Log-likelihood of a whole text. The begin-of-sentence token is its context, and never predicted; the
 * harness, with tokenizers that put one before every text, predicts it too.
 */
export async function rollingLoglikelihood(model: LanguageModel, text: string): Promise<number> {
  const windows = rollingWindows(model.encode(text, false), model.prefixToken, model.maxLength);
  const scores = await Promise.all(windows.map((w) => model.score(w.context, w.continuation)));
  return scores.reduce((sum, { logprob }) => sum + logprob, 0);
}

/**
 * How a prompt goes on. It is cut from the left to leave room for the answer.
 * @throws RangeError if the answer alone is as long as the model's context
 */
export async function generateUntil(
  model: LanguageModel,
  prompt: readonly number[],
  settings: GenerateSettings,
): Promise<readonly string[]> {
  const room = model.maxLength - settings.maxTokens;
  if (room <= 0) {
    throw new RangeError(
      `an answer of ${settings.maxTokens} tokens leaves no room in the context of ${model.maxLength}; ask for fewer`,
    );
  }
  return model.generate(prompt.slice(-room), settings);
}
