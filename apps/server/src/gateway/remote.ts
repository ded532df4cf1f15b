/** One request at one upstream, as the routes use it. */
import type { IncomingMessage } from "node:http";
import type { Usage } from "@dsv3/serve";
import { ApiError } from "../errors.ts";
import type { Parts } from "../generate.ts";
import { Answering, type Metrics } from "../metrics.ts";
import type { RequestRecord } from "../record.ts";
import { isObject, type Json, type Kind, requestFor, usageFrom } from "./dialect.ts";
import { refusalIn } from "./refusal.ts";
import { eventData } from "./sse.ts";
import type { RemoteModel, Upstream, Working } from "./upstream.ts";

/** Characters of an event: a chunk of 16 answers with all their log-probabilities is far below. */
const MAX_EVENT = 4 * 2 ** 20;

/** Milliseconds that a stream may go on after its end was told. */
const MAX_REST = 1000;

export class Remote implements Working {
  readonly model: string;
  /** Aborts when the client goes, the time is up, or the upstream is lost. */
  readonly signal: AbortSignal;
  readonly #own = new AbortController();
  readonly #upstream: Upstream;
  readonly #kind: Kind;
  readonly #record: RequestRecord;
  readonly #metrics: Metrics;
  readonly #answering: Answering;

  /** At work until `release` is called. */
  constructor(upstream: Upstream, model: RemoteModel, record: RequestRecord, signal: AbortSignal) {
    this.model = model.name;
    this.signal = AbortSignal.any([signal, this.#own.signal]);
    this.#upstream = upstream;
    this.#kind = model.kind;
    this.#record = record;
    this.#metrics = upstream.metricsOf(model.name);
    this.#answering = new Answering(this.#metrics, record);
    upstream.open.add(this);
  }

  cancel(reason: Error): void {
    this.#own.abort(reason);
  }

  release(): void {
    this.#upstream.open.delete(this);
  }

  /** An answer in one piece. @throws ApiError if there is none */
  async whole(path: string, body: Json): Promise<Json> {
    const answer = await this.#post(path, body);
    const told = await this.#upstream.json(answer, this.signal);
    for (const { reason } of this.#note(told)) if (reason) this.#answering.end(reason);
    this.#count();
    return told;
  }

  /** An answer in chunks, of which the first has come. @throws ApiError if none has */
  async chunks(path: string, body: Json): Promise<Parts<Json>> {
    const answer = await this.#post(path, { ...body, stream: true });
    const chunks = this.#read(answer);
    const first = await chunks.next();
    return {
      cancel: (reason) => this.cancel(reason),
      each: async (take) => {
        try {
          for (let one = first; !one.done; one = await chunks.next()) await take(one.value, 0);
        } catch (error) {
          this.#metrics.finish(this.signal.aborted ? "abort" : "error");
          this.cancel(error as Error);
          throw error;
        } finally {
          this.#count();
        }
        return this.#record.usage ?? { promptTokens: 0, cachedTokens: 0, completionTokens: 0 };
      },
    };
  }

  #post(path: string, body: Json): Promise<IncomingMessage> {
    const { requestId, trace } = this.#record;
    const { signal } = this;
    const headers = { "x-request-id": requestId, ...trace };
    return this.#upstream.post(path, requestFor(this.#kind, body), { headers, signal });
  }

  async *#read(answer: IncomingMessage): AsyncGenerator<Json> {
    // The connection serves other requests after this one, if it is not closed here.
    const bytes = answer.iterator({ destroyOnReturn: false });
    try {
      for await (const data of eventData(bytes, MAX_EVENT)) {
        if (data === "[DONE]") {
          // Not the connection's own clock: it may serve another request already.
          const late = setTimeout(() => answer.destroy(), MAX_REST);
          answer.once("close", () => clearTimeout(late)).resume();
          return;
        }
        const chunk: unknown = JSON.parse(data);
        if (!isObject(chunk)) throw new SyntaxError("a chunk is no object");
        const refused = refusalIn(chunk);
        if (refused) throw refused;
        for (const { answer, reason } of this.#note(chunk)) this.#answering.take(answer, reason);
        yield chunk;
      }
      throw new Error("the stream ended before [DONE]");
    } catch (error) {
      answer.destroy();
      this.signal.throwIfAborted();
      throw error instanceof ApiError
        ? error
        : this.#upstream.broken("the engine's answer broke off", error);
    }
  }

  /** Adds the tokens of all of it to the model's. */
  #count(): void {
    const { usage } = this.#record;
    if (usage === null) return;
    const { promptTokens, cachedTokens, completionTokens } = usage;
    const cache = { prefixQueries: promptTokens, prefixHits: cachedTokens };
    this.#metrics.keep({ promptTokens, generatedTokens: completionTokens, ...cache });
  }

  /** Keeps what logs and traces tell; each answer in it, and why it ended. */
  #note({ usage, choices }: Json): { answer: number; reason: string | null }[] {
    if (isObject(usage)) this.#record.usage = countsOf(usage);
    return (Array.isArray(choices) ? choices : []).filter(isObject).map((choice) => {
      const { index, finish_reason: reason } = choice;
      return { answer: Number(index ?? 0), reason: typeof reason === "string" ? reason : null };
    });
  }
}

function countsOf(usage: Json): Usage {
  const count = (value: unknown) => (typeof value === "number" ? value : 0);
  return {
    promptTokens: count(usage.prompt_tokens),
    cachedTokens: count(usageFrom(usage).prompt_cache_hit_tokens),
    completionTokens: count(usage.completion_tokens),
  };
}
