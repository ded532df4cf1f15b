/** A server that models are asked at: whether it is well, what it has, and what it answers. */
import type { IncomingMessage } from "node:http";
import { ApiError } from "../errors.ts";
import { Metrics } from "../metrics.ts";
import { isObject, type Json, type Kind } from "./dialect.ts";
import { readText, send } from "./http.ts";
import { refusal } from "./refusal.ts";

export interface UpstreamOptions {
  /** Where its interface is, with or without `/v1`: `http://10.0.0.5:8000`. */
  readonly url: string;
  /** Sent to it alone, as `Authorization: Bearer KEY`. */
  readonly key?: string;
}

/** A model as an upstream lists it. */
export interface RemoteModel {
  readonly name: string;
  readonly maxContext: number | null;
  readonly kind: Kind;
}

/** A request that an upstream works at. */
export interface Working {
  cancel(reason: Error): void;
}

/** So many failures one after another, of checks or requests, and nothing is sent there until a check succeeds. */
const UNHEALTHY_AFTER = 3;

/** Bytes of an answer in one piece, and of what is read of an error. */
const MAX_BODY = 64 * 2 ** 20;
const MAX_ERROR = 64 * 2 ** 10;

export class Upstream {
  /** Its address. */
  readonly name: string;
  readonly #key: string;
  healthy = false;
  /** Those of its last check that succeeded; null if none has. */
  models: ReadonlyMap<string, RemoteModel> | null = null;
  /** What of it is at work. */
  readonly open = new Set<Working>();
  /** What it did, for each of its models. */
  readonly metrics = new Map<string, Metrics>();
  /** Requests that were sent, by the status of the answer, or `failed` if there was no whole one. */
  readonly outcomes = new Map<string, number>();
  /** Requests that it refused, and another was asked for. */
  retries = 0;
  #failures = 0;
  /** Checks one after another that it said nothing to. */
  #silent = 0;

  /** @throws RangeError for what is no http address, or one with a password, which logs would show */
  constructor({ url, key = "" }: UpstreamOptions) {
    const parsed = URL.canParse(url) ? new URL(url) : null;
    if (!parsed || !/^https?:$/.test(parsed.protocol) || parsed.search || parsed.hash) {
      throw new RangeError(`"${url}" is no address of an upstream: write http://10.0.0.5:8000`);
    }
    if (parsed.username || parsed.password) {
      throw new RangeError(
        `the upstream at ${parsed.host} has a password in its address; give it a key`,
      );
    }
    this.name = parsed.href.replace(/\/+$/, "").replace(/\/v1$/, "");
    this.#key = key;
  }

  get running(): number {
    return this.open.size;
  }

  metricsOf(model: string): Metrics {
    const metrics = this.metrics.get(model) ?? new Metrics();
    this.metrics.set(model, metrics);
    return metrics;
  }

  /** Asks whether it is well, and what it has, for so many milliseconds. @returns the reason if it is not */
  async check(milliseconds: number): Promise<Error | null> {
    const signal = AbortSignal.timeout(milliseconds);
    const get = (path: string) => {
      const url = new URL(this.name + path);
      return send({ method: "GET", url, headers: this.#headers, signal });
    };
    try {
      // vLLM lists its models even when its engine is dead; others have no /health.
      const health = await get("/health");
      health.resume();
      if (![200, 404].includes(health.statusCode!)) {
        throw new Error(`/health answers ${health.statusCode}`);
      }
      const listed = await get("/v1/models");
      const text = await readText(listed, MAX_BODY);
      if (listed.statusCode !== 200) throw new Error(`/v1/models answers ${listed.statusCode}`);
      this.models = modelsOf(JSON.parse(text));
      this.#failures = 0;
      this.#silent = 0;
      this.healthy = true;
      return null;
    } catch (error) {
      this.#failed();
      this.#silent = signal.aborted ? this.#silent + 1 : 0;
      if (this.#silent >= UNHEALTHY_AFTER) this.#lose();
      return error as Error;
    }
  }

  /** Ends what is at work: an engine that hangs would be waited for as long as requests may take. */
  #lose(): void {
    const options = { type: "server_error", code: "upstream_failed" };
    for (const one of this.open) {
      one.cancel(new ApiError(502, "the engine does not answer any more", options));
    }
  }

  #failed(): void {
    if (++this.#failures >= UNHEALTHY_AFTER) this.healthy = false;
  }

  /** Sends a request, and resolves with the head of an answer that is right. @throws ApiError otherwise */
  async post(
    path: string,
    body: Json,
    { headers, signal }: { headers: Readonly<Record<string, string>>; signal: AbortSignal },
  ): Promise<IncomingMessage> {
    let answer: IncomingMessage;
    try {
      answer = await send({
        method: "POST",
        url: new URL(this.name + path),
        headers: { ...headers, ...this.#headers, "content-type": "application/json" },
        body: JSON.stringify(body),
        signal,
      });
    } catch (error) {
      signal.throwIfAborted();
      throw this.broken("the engine cannot be reached", error);
    }
    this.#count(String(answer.statusCode));
    if (answer.statusCode === 200) return answer;
    const text = await readText(answer, MAX_ERROR).catch(() => "");
    signal.throwIfAborted();
    // Some servers show the key that they do not know.
    const hidden = this.#key === "" ? text : text.replaceAll(this.#key, "(hidden)");
    throw refusal(answer.statusCode!, hidden, answer.headers["retry-after"]);
  }

  /** The rest of an answer, as JSON. @throws ApiError if it breaks off, or is none */
  async json(answer: IncomingMessage, signal: AbortSignal): Promise<Json> {
    try {
      const body: unknown = JSON.parse(await readText(answer, MAX_BODY));
      if (isObject(body)) return body;
      throw new SyntaxError("it is no object");
    } catch (error) {
      signal.throwIfAborted();
      throw this.broken("the engine's answer cannot be read", error);
    }
  }

  /** Something that it should not have done, as clients are told of it. */
  broken(message: string, cause: unknown): ApiError {
    this.#count("failed");
    this.#failed();
    return new ApiError(502, message, { type: "server_error", code: "upstream_failed", cause });
  }

  get #headers(): Readonly<Record<string, string>> {
    return this.#key === "" ? {} : { authorization: `Bearer ${this.#key}` };
  }

  #count(outcome: string): void {
    this.outcomes.set(outcome, (this.outcomes.get(outcome) ?? 0) + 1);
  }
}

/** @throws Error for what is no list */
function modelsOf(body: unknown): Map<string, RemoteModel> {
  if (!isObject(body) || !Array.isArray(body.data)) throw new Error("/v1/models answers no list");
  const models = body.data.flatMap((model: unknown): RemoteModel[] => {
    if (!isObject(model) || typeof model.id !== "string") return [];
    const { id: name, max_model_len: most, owned_by: owner } = model;
    const kind = owner === "vllm" || owner === "sglang" || owner === "dsv3" ? owner : "other";
    return [{ name, maxContext: typeof most === "number" ? most : null, kind }];
  });
  return new Map(models.map((model) => [model.name, model]));
}
