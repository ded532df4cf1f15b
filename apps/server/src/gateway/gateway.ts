/**
 * Engines on other machines behind the same routes: which of them a request goes to, and who is asked
 * next when one refuses. Requests are passed on as they are, and not taken apart into tokens: engines
 * have their own templates and parsers, and fields that we know nothing of.
 */
import { ApiError, toApiError } from "../errors.ts";
import type { Exposition, Series } from "../metrics.ts";
import { modelNotFound } from "../models.ts";
import type { Log } from "../observe.ts";
import type { RequestRecord } from "../record.ts";
import type { Reply } from "../stream.ts";
import { inOrder, prefixKey } from "./affinity.ts";
import type { Json } from "./dialect.ts";
import { Remote } from "./remote.ts";
import { type RemoteModel, Upstream, type UpstreamOptions } from "./upstream.ts";

export interface GatewayOptions {
  readonly upstreams: readonly UpstreamOptions[];
  /** Milliseconds between two checks of an upstream, and that it has to answer one; 5 s unless given. */
  readonly interval?: number;
  /** Told when an upstream is well, when it is not, and of each request that another has to answer. */
  readonly log?: Log;
}

/** What answers a request, and is at work until `release` is called, once. */
export interface Answer {
  readonly reply: Reply;
  release(): void;
}

/** A request that an upstream may answer. */
export interface Ask {
  readonly model: string;
  readonly body: Json;
  readonly record: RequestRecord;
  readonly signal: AbortSignal;
  forward(remote: Remote, body: Json): Promise<Reply>;
  /** This machine's own answer, if it has the model too. */
  readonly local: (() => Promise<Answer>) | null;
}

/** Statuses of those who cannot answer, where another may; 404: who had the model has it no more. */
const ELSEWHERE = new Set([404, 429, 500, 502, 503, 504]);

export class Gateway {
  readonly #upstreams: readonly Upstream[];
  readonly #log: Log | undefined;
  /** Those whose failing was logged. */
  readonly #told = new Set<Upstream>();
  readonly #interval: number;
  readonly #clock: NodeJS.Timeout;
  /** This machine, as one that requests may go to. */
  readonly #here = { name: "local", running: 0 };

  /** Asks all upstreams what they have; those that do not answer are asked again. @throws RangeError */
  static async open(options: GatewayOptions): Promise<Gateway> {
    const gateway = new Gateway(options);
    await gateway.check();
    return gateway;
  }

  private constructor({ upstreams, interval = 5000, log }: GatewayOptions) {
    this.#upstreams = upstreams.map((upstream) => new Upstream(upstream));
    const twice = this.#upstreams.find(({ name }, i, all) => {
      return all.findIndex((other) => other.name === name) < i;
    });
    if (twice) throw new RangeError(`the upstream ${twice.name} is given twice`);
    this.#log = log;
    this.#interval = interval;
    this.#clock = setInterval(() => void this.check(), interval);
    this.#clock.unref();
  }

  /** Asks all upstreams whether they are well. */
  async check(): Promise<void> {
    await Promise.all(
      this.#upstreams.map(async (upstream) => {
        const before = upstream.healthy;
        const err = await upstream.check(this.#interval);
        const fields = { upstream: upstream.name };
        if (err) {
          const level = this.#told.has(upstream) ? "debug" : "error";
          this.#log?.[level]({ ...fields, problem: err.message }, "upstream does not answer");
          this.#told.add(upstream);
        } else this.#told.delete(upstream);
        if (upstream.healthy !== before) {
          this.#log?.info(fields, upstream.healthy ? "upstream is well" : "upstream is left out");
        }
      }),
    );
  }

  /** Models of all upstreams, each once, and whether any that has it is well. */
  list(): (RemoteModel & { readonly loaded: boolean })[] {
    const models = new Map<string, RemoteModel & { readonly loaded: boolean }>();
    for (const { models: its, healthy } of this.#upstreams) {
      for (const model of its?.values() ?? []) {
        if (!models.get(model.name)?.loaded) models.set(model.name, { ...model, loaded: healthy });
      }
    }
    return [...models.values()];
  }

  has(model: string): boolean {
    return this.#upstreams.some(({ models }) => models?.has(model));
  }

  /** Why nobody here answers for a model, beside those that somebody has. */
  missing(model: string, known: readonly string[]): ApiError {
    const unheard = this.#upstreams.some(({ models }) => models === null);
    if (!unheard) return modelNotFound(model, known);
    return unavailable("an engine that may have the model has not answered yet");
  }

  /** How many upstreams are well, of how many. */
  get health(): { readonly healthy: number; readonly total: number } {
    const healthy = this.#upstreams.filter((upstream) => upstream.healthy).length;
    return { healthy, total: this.#upstreams.length };
  }

  /**
   * An answer of the upstream whose cache the request fits best, or of the next one if that refuses
   * before anything of its answer is there. @throws ApiError of the one that refused last, or 429
   */
  async answer(ask: Ask): Promise<Answer> {
    const { model, body, record, signal } = ask;
    const there = this.#upstreams.filter(({ healthy, models }) => healthy && models?.has(model));
    const candidates = [...there, ...(ask.local ? [this.#here] : [])];
    let refused = unavailable("no engine that has the model is well now");
    const order = inOrder(candidates, prefixKey(body));
    for (const [i, candidate] of order.entries()) {
      record.upstream = candidate.name;
      try {
        if (!(candidate instanceof Upstream)) return await this.#answerHere(ask.local!);
        return await this.#answerThere(candidate, ask);
      } catch (error) {
        const told = toApiError(error);
        if (signal.aborted || !ELSEWHERE.has(told.status)) throw error;
        const { requestId } = record;
        const fields = { requestId, upstream: candidate.name, status: told.status };
        this.#log?.info({ ...fields, ...problemOf(error) }, "upstream refused");
        if (candidate instanceof Upstream && i + 1 < order.length) candidate.retries++;
        // Who is busy will have time again; that is worth more to a client than who is broken.
        if (i === 0 || refused.status !== 429 || told.status === 429) refused = told;
      }
    }
    throw refused;
  }

  async #answerThere(
    upstream: Upstream,
    { model, body, record, signal, forward }: Ask,
  ): Promise<Answer> {
    const its = upstream.models?.get(model);
    if (!its) throw modelNotFound(model, []);
    record.begin(model, body);
    const remote = new Remote(upstream, its, record, signal);
    const release = () => remote.release();
    try {
      return { reply: await forward(remote, body), release };
    } catch (error) {
      release();
      throw error;
    }
  }

  async #answerHere(local: () => Promise<Answer>): Promise<Answer> {
    this.#here.running++;
    let own: Answer | null = null;
    const release = () => {
      own?.release();
      this.#here.running--;
    };
    try {
      own = await local();
      return { reply: own.reply, release };
    } catch (error) {
      release();
      throw error;
    }
  }

  /** What its upstreams and their models are counted by, as this side sees them. */
  series(): Series[] {
    return this.#upstreams.flatMap(({ name, running, metrics }) => {
      const server = `server=${JSON.stringify(name)}`;
      const models = Array.from(metrics, ([model, metrics]): Series => {
        const label = `${server},model_name=${JSON.stringify(model)}`;
        return { label, metrics, stats: null, loaded: null };
      });
      return [{ label: server, metrics: null, stats: { running }, loaded: null }, ...models];
    });
  }

  /** Writes what only gateways count, by the names of vLLM's router where it has one. */
  expose(out: Exposition): void {
    const of = (value: (upstream: Upstream) => number) =>
      this.#upstreams.map((one): [string, number] => [
        `server=${JSON.stringify(one.name)}`,
        value(one),
      ]);
    const healthy = of((one) => Number(one.healthy));
    out.family("vllm:healthy_pods_total", "gauge", "1 if requests are sent there.", healthy);
    const outcomes = this.#upstreams.flatMap(({ name, outcomes }) =>
      Array.from(outcomes, ([outcome, count]): [string, number] => {
        return [`server=${JSON.stringify(name)},outcome="${outcome}"`, count];
      }),
    );
    const sent = "Requests sent there, by the status of their answers, or failed.";
    out.family("dsv3:upstream_requests_total", "counter", sent, outcomes);
    const retries = "Requests that another was asked for after it.";
    out.family(
      "dsv3:upstream_retries_total",
      "counter",
      retries,
      of((one) => one.retries),
    );
  }

  /** Ends the checks. */
  close(): void {
    clearInterval(this.#clock);
  }
}

function unavailable(message: string): ApiError {
  return new ApiError(503, message, { type: "server_error", code: "upstream_unavailable" });
}

/** What logs tell of a failure: its cause in a line, if it is not ours. */
function problemOf(error: unknown): { problem: string } | { err: unknown } {
  if (!(error instanceof ApiError)) return { err: error };
  const { cause } = error;
  return { problem: cause instanceof Error ? cause.message : error.message };
}
