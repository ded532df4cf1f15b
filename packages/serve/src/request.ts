/** What can be asked of the engine, and the checks that every request passes before it is queued. */
import { checkTokenIds, type ModelConfig } from "@dsv3/model";
import type { Format } from "./grammar/grammar.ts";

/** How tokens are drawn. Everything has the neutral value by default, except `temperature`, which is 1. */
export interface Sampling {
  /** Logits are divided by it; 0 takes the most likely token. */
  readonly temperature?: number;
  /** Draws from this many most likely tokens alone (those as likely as the last of them, too). */
  readonly topK?: number;
  /** Draws from the fewest most likely tokens that together have this probability. */
  readonly topP?: number;
  /** Draws from tokens at least this many times as likely as the most likely one. */
  readonly minP?: number;
  /** Taken from the logits of tokens that were generated before, once (OpenAI; −2 … 2). */
  readonly presencePenalty?: number;
  /** Taken from the logits of tokens for each time they were generated (OpenAI; −2 … 2). */
  readonly frequencyPenalty?: number;
  /** Divides positive logits, and multiplies negative ones, of tokens seen in prompt or answer (arXiv 1909.05858). */
  readonly repetitionPenalty?: number;
  /** Added to logits, by token id (−100 … 100). */
  readonly logitBias?: ReadonlyMap<number, number>;
  /** The same seed, request and model give the same tokens, whatever else the engine does. Random unless given. */
  readonly seed?: number;
}

export interface GenerationRequest extends Sampling {
  /** Token ids, at least one. */
  readonly prompt: ArrayLike<number>;
  /** At most this many tokens are generated; up to the end of the context unless given. */
  readonly maxTokens?: number;
  /** Answers to the same prompt, 1 unless given; they share its blocks and draw from seeds of their own. */
  readonly n?: number;
  /** Texts that end an answer, which stops before them. They need an engine with a tokenizer. */
  readonly stop?: readonly string[];
  /** Token ids that end an answer, besides the model's own end-of-sequence ids. */
  readonly stopIds?: readonly number[];
  /** Binds the answer to JSON, a schema, a regular expression or a choice. It needs a tokenizer. */
  readonly format?: Format;
  /** Control tokens that appear in the text by their names; all others leave no trace in it. */
  readonly showIds?: readonly number[];
  /** Goes on after the model's end-of-sequence ids. */
  readonly ignoreEos?: boolean;
  /**
   * Log-probabilities of this many most likely tokens (0 … 20) in the place of each that is drawn. That
   * of the drawn one is always told: see `Drawn.logprob`.
   */
  readonly logprobs?: number;
  /**
   * The same of each token of the prompt but the first, which then is computed whole, past the prefix
   * cache: see `Generation.promptLogprobs`.
   */
  readonly promptLogprobs?: number;
  /**
   * Of `promptLogprobs`, the first that is needed: tokens before may come from the prefix cache, and have
   * null. 1, all that have one, unless given.
   */
  readonly promptLogprobsFrom?: number;
  /** Lower is served first, in the place of running ones that are higher; 0 unless given. */
  readonly priority?: number;
  /** Requests share cached prefixes only with requests of the same salt. */
  readonly cacheSalt?: string;
  /** Cancels the request; `AbortSignal.timeout(ms)` is a deadline. */
  readonly signal?: AbortSignal;
}

/** A request that cannot be served: names the field, what it is, and what was expected. */
export class RequestError extends Error {
  readonly field: string;

  constructor(field: string, problem: string) {
    super(`${field}: ${problem}`);
    this.name = "RequestError";
    this.field = field;
  }
}

/** The queue has no room for the request: try again later. */
export class QueueFullError extends Error {
  constructor(limit: number) {
    super(`the waiting queue is full: it holds ${limit} answers; try again later`);
    this.name = "QueueFullError";
  }
}

/** What requests are checked against. */
export interface Limits {
  readonly config: ModelConfig;
  /** Tokens of prompt and answer together. */
  readonly maxContext: number;
  readonly hasTokenizer: boolean;
}

const MAX_CHOICES = 128;
const MAX_STOPS = 64;
export const MAX_LOGPROBS = 20;

/** @throws RequestError for the first field that is out of its range */
export function checkRequest(request: GenerationRequest, limits: Limits): void {
  const { config, maxContext, hasTokenizer } = limits;
  const fail = (field: string, problem: string): never => {
    throw new RequestError(field, problem);
  };
  const range = (field: keyof GenerationRequest, low: number, high: number, whole = false) => {
    const value = request[field] as unknown;
    if (value === undefined) return;
    const fits = typeof value === "number" && value >= low && value <= high;
    if (fits && (!whole || Number.isInteger(value))) return;
    fail(field, `${String(value)} is not a ${whole ? "whole " : ""}number from ${low} to ${high}`);
  };

  range("temperature", 0, 100);
  range("topK", 1, Number.MAX_SAFE_INTEGER, true);
  range("topP", Number.MIN_VALUE, 1);
  range("minP", 0, 1);
  range("presencePenalty", -2, 2);
  range("frequencyPenalty", -2, 2);
  range("repetitionPenalty", 0.01, 100);
  range("seed", Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, true);
  range("maxTokens", 1, Number.MAX_SAFE_INTEGER, true);
  range("n", 1, MAX_CHOICES, true);
  range("logprobs", 0, Math.min(MAX_LOGPROBS, config.vocabSize), true);
  range("promptLogprobs", 0, Math.min(MAX_LOGPROBS, config.vocabSize), true);
  range("promptLogprobsFrom", 1, Math.max(1, request.prompt.length - 1), true);
  range("priority", Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, true);

  const ids = (field: string, values: ArrayLike<number>) => {
    try {
      checkTokenIds(config, values, field);
    } catch (error) {
      throw new RequestError(field, (error as Error).message.slice(field.length + 2));
    }
  };
  const { prompt, maxTokens = 1, stop = [], stopIds = [], logitBias } = request;
  if (prompt.length === 0) fail("prompt", "is empty; begin with one token at least");
  if (prompt.length + maxTokens > maxContext) {
    const asked = `${prompt.length} tokens and ${maxTokens} new ones`;
    fail("prompt", `${asked} are more than the context of ${maxContext}`);
  }
  ids("prompt", prompt);
  ids("stopIds", stopIds);
  ids("showIds", request.showIds ?? []);
  if (stop.length + stopIds.length > MAX_STOPS) {
    fail("stop", `${stop.length + stopIds.length} ends, but ${MAX_STOPS} are the most`);
  }
  if (stop.length > 0 && !hasTokenizer) fail("stop", "texts need an engine with a tokenizer");
  if (request.format && !hasTokenizer) fail("format", "texts need an engine with a tokenizer");
  if (request.format && request.ignoreEos)
    fail("format", "an answer that is whole has to end: leave ignoreEos out");
  if (stop.includes("")) fail("stop", "an empty text would stop at once");
  if (logitBias) {
    ids("logitBias", [...logitBias.keys()]);
    for (const [id, bias] of logitBias) {
      if (!(bias >= -100 && bias <= 100)) {
        fail("logitBias", `${bias} of token ${id} is not a number from -100 to 100`);
      }
    }
  }
}
