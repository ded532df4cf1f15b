/** From the fields that all routes share to requests of the engine, and their answers side by side. */
import type {
  Delta,
  Drawn,
  Engine,
  Format,
  Generation,
  GenerationRequest,
  Usage,
} from "@dsv3/serve";
import type { Tokenizer } from "@dsv3/tokenizer";
import type { Embedder } from "./embedder.ts";
import { Answering, type Metrics } from "./metrics.ts";
import type { RequestRecord } from "./record.ts";
import type { CommonRequest } from "./schemas.ts";

/** What a request works with: the model that it asked for. */
export interface Service {
  readonly engine: Engine;
  readonly tokenizer: Tokenizer;
  readonly embedder: Embedder | null;
  /** The name that clients call the model by. */
  readonly model: string;
  readonly metrics: Metrics;
  readonly record: RequestRecord;
}

/** The engine's request for a prompt, without what differs between the routes. */
export function engineRequest(
  body: CommonRequest,
  prompt: ArrayLike<number>,
  extra: Partial<GenerationRequest>,
): GenerationRequest {
  const bias = Object.entries(body.logit_bias ?? {}).map(([id, x]) => [Number(id), x] as const);
  const fields = {
    temperature: body.temperature,
    // OpenAI knows no 0; for others it means the single most likely token, as does a tiny number.
    topP: body.top_p === 0 ? Number.EPSILON : body.top_p,
    // vLLM's way to say "all".
    topK: body.top_k === -1 || body.top_k === 0 ? null : body.top_k,
    minP: body.min_p,
    n: body.n,
    presencePenalty: body.presence_penalty,
    frequencyPenalty: body.frequency_penalty,
    repetitionPenalty: body.repetition_penalty,
    logitBias: bias.length > 0 ? new Map(bias) : null,
    seed: body.seed,
    ignoreEos: body.ignore_eos,
    priority: body.priority,
    cacheSalt: body.cache_salt ?? body.user_id,
    format: formatOf(body.structured_outputs),
    ...extra,
  };
  const given = Object.entries(fields).filter(([, value]) => value !== null && value !== undefined);
  return { ...(Object.fromEntries(given) as Partial<GenerationRequest>), prompt, stop: body.stop };
}

function formatOf(outputs: CommonRequest["structured_outputs"]): Format | null {
  if (!outputs) return null;
  if ("regex" in outputs) return { type: "regex", pattern: outputs.regex };
  if ("choice" in outputs) return { type: "choice", choices: outputs.choice };
  if ("grammar" in outputs) return { type: "ebnf", grammar: outputs.grammar };
  return { type: "schema", schema: outputs.json };
}

/** Answers as they come, in parts that nobody has read yet. */
export interface Parts<Part> {
  /** `take` gets every part with its request's place. Fails with the first failure, after cancelling the rest. */
  each(take: (part: Part, request: number) => void | Promise<void>): Promise<Usage>;
  /** Ends all of it; `each` then fails with the reason. */
  cancel(reason: Error): void;
}

/** Requests that the engine has taken: their parts are tokens. */
export interface Run extends Parts<Delta> {
  /** Log-probabilities of a request's prompt, if it asked for them; known from its first token on. */
  prompt(request: number): readonly (Drawn | null)[];
}

/** Queues all requests, or none: what the engine refuses is thrown here, before any answer begins. */
export function start(
  { engine, metrics, record }: Service,
  requests: readonly GenerationRequest[],
  signal: AbortSignal,
): Run {
  const own = new AbortController();
  const all = AbortSignal.any([signal, own.signal]);
  const generations: Generation[] = [];
  try {
    for (const request of requests) generations.push(engine.submit({ ...request, signal: all }));
  } catch (error) {
    own.abort(error);
    throw error;
  }

  const read = async (i: number, take: Parameters<Run["each"]>[0]) => {
    const answering = new Answering(metrics, record);
    for await (const delta of generations[i]!) {
      answering.take(delta.choice, delta.finishReason);
      await take(delta, i);
    }
  };
  return {
    prompt: (request) => generations[request]!.promptLogprobs ?? [],
    cancel: (reason) => own.abort(reason),
    async each(take) {
      const total = (key: keyof Usage) => generations.reduce((sum, g) => sum + g.usage[key], 0);
      try {
        await Promise.all(generations.map((_, i) => read(i, take)));
      } catch (error) {
        metrics.finish(all.aborted ? "abort" : "error");
        own.abort(error);
        throw error;
      } finally {
        record.usage = {
          promptTokens: total("promptTokens"),
          cachedTokens: total("cachedTokens"),
          completionTokens: total("completionTokens"),
        };
      }
      return record.usage;
    },
  };
}

/** OpenAI's count of tokens, with DeepSeek's two fields about the cache. */
export function usageBody(usage: Usage): object {
  const { promptTokens, cachedTokens, completionTokens } = usage;
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
    prompt_cache_hit_tokens: cachedTokens,
    prompt_cache_miss_tokens: promptTokens - cachedTokens,
  };
}

const UTF8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** A token as text and bytes; bytes that are no character alone are shown as U+FFFD. */
export function tokenText(tokenizer: Tokenizer, id: number): { token: string; bytes: number[] } {
  let bytes = new Uint8Array();
  try {
    bytes = new Uint8Array(tokenizer.tokenBytes(id));
  } catch (error) {
    // Models are padded with ids that no text has.
    if (!(error instanceof RangeError)) throw error;
  }
  return { token: UTF8.decode(bytes), bytes: [...bytes] };
}
