/** One request of a client, from its body to the last byte of its answer. */
import type { Context } from "hono";
import { stream } from "hono/streaming";
import type { StreamingApi } from "hono/utils/stream";
import type { z } from "zod";
import { readJson } from "./body.ts";
import { badRequest, clientGone, dialectOf, errorBody, toApiError } from "./errors.ts";
import type { Json } from "./gateway/dialect.ts";
import type { Forward } from "./gateway/forward.ts";
import type { Answer, Gateway } from "./gateway/gateway.ts";
import type { Service } from "./generate.ts";
import type { Lease, Models } from "./models.ts";
import type { Recorded, RequestRecord } from "./record.ts";
import { read } from "./schemas.ts";
import { EVENT_HEADERS, KEEP_ALIVE, type Reply, type StreamOptions, sendEvents } from "./stream.ts";

/** A route that asks something of a model. */
export interface ModelRoute {
  readonly request: z.ZodType;
  handle(service: Service, request: never, signal: AbortSignal): Reply | Promise<Reply>;
  /** The same where another machine has the model; it checks what is passed on. */
  readonly forward: Forward;
}

export interface ExchangeOptions {
  readonly models: Models;
  readonly gateway: Gateway | null;
  readonly timeout: number;
  readonly keepAlive: number;
  readonly writeTimeout: number;
  /** The requests at work: aborting one ends it. */
  readonly open: Set<AbortController>;
  /** Gets every error that clients are told of. */
  onError(error: unknown, c: Context<Recorded>): void;
}

/**
 * Answers a request. If that takes long, as the model is loaded or others are before it, the answer
 * begins with what clients skip, and goes on when it is there: comments in a stream of events; on
 * DeepSeek's paths, as it does, empty lines before JSON. An error is then told with status 200, as an
 * event or a body: OpenAI's clients would take that body for an answer, and so get none before its time.
 */
export async function exchange(
  c: Context<Recorded>,
  route: ModelRoute,
  options: ExchangeOptions,
): Promise<Response> {
  const body = await readJson(c);
  const record = c.get("record");
  record.stream = body.stream === true;
  const ends = openRequest(c, options);
  const answering = answer(route, body, record, ends.signal, options);
  const skips = record.stream || dialectOf(c.req.path) === "deepseek";
  if (skips && (await isSlower(answering, options.keepAlive))) {
    return respond(c, record.stream ? EVENT_HEADERS : JSON_HEADERS, async (out) => {
      out.onAbort(ends.leave);
      await sendLate(c, out, answering, options);
      ends.finish();
    });
  }
  try {
    const { reply, release } = await answering;
    if (!("body" in reply)) {
      return respond(c, EVENT_HEADERS, async (out) => {
        await sendEvents(c, out, reply, streamOptions(c, options)).finally(release);
        ends.finish();
      });
    }
    release();
    ends.finish();
    return c.json(reply.body);
  } catch (error) {
    ends.finish();
    throw error;
  }
}

const JSON_HEADERS = { "content-type": "application/json" };

/** An answer in parts; the request's record knows when the last of them is sent. */
function respond(
  c: Context<Recorded>,
  headers: Readonly<Record<string, string>>,
  send: (out: StreamingApi) => Promise<void>,
): Response {
  for (const [name, value] of Object.entries(headers)) c.header(name, value);
  const { promise, resolve } = Promise.withResolvers<void>();
  c.get("record").open = promise;
  return stream(c, (out) => send(out).finally(resolve));
}

function streamOptions(c: Context<Recorded>, options: ExchangeOptions): StreamOptions {
  return { ...options, onError: (error) => options.onError(error, c) };
}

/** Whether a promise takes longer than so many milliseconds, to succeed or fail. */
async function isSlower(promise: Promise<unknown>, milliseconds: number): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<boolean>();
  const clock = setTimeout(resolve, milliseconds, true);
  const there = () => false;
  const slower = await Promise.race([promise.then(there, there), late]);
  clearTimeout(clock);
  return slower;
}

/** Sends what clients skip until there is an answer, and then that, or what went wrong. */
async function sendLate(
  c: Context<Recorded>,
  out: StreamingApi,
  answering: Promise<Answer>,
  options: ExchangeOptions,
): Promise<void> {
  const events = c.get("record").stream;
  const wait = () => void out.write(events ? KEEP_ALIVE : "\n");
  wait();
  const beat = setInterval(wait, options.keepAlive);
  try {
    const { reply, release } = await answering.finally(() => clearInterval(beat));
    const sent =
      "body" in reply
        ? out.write(JSON.stringify(reply.body))
        : sendEvents(c, out, reply, streamOptions(c, options));
    await sent.finally(release);
  } catch (error) {
    options.onError(error, c);
    const told = JSON.stringify(errorBody(c, toApiError(error)));
    await out.write(events ? `event: error\ndata: ${told}\n\n` : told);
  }
}

/** What can end a request before its answer is whole. */
interface Ends {
  readonly signal: AbortSignal;
  /** The client went away. */
  leave(): void;
  /** Nothing will: the answer is whole. Until then, a clock and the server hold on to the request. */
  finish(): void;
}

function openRequest(c: Context<Recorded>, { open, timeout }: ExchangeOptions): Ends {
  const controller = new AbortController();
  const leave = () => controller.abort(clientGone());
  const late = () => controller.abort(new DOMException("it took too long", "TimeoutError"));
  const clock = setTimeout(late, timeout);
  const { signal: client } = c.req.raw;
  client.addEventListener("abort", leave, { once: true });
  open.add(controller);
  return {
    signal: controller.signal,
    leave,
    finish() {
      clearTimeout(clock);
      client.removeEventListener("abort", leave);
      open.delete(controller);
    },
  };
}

/** What a route answers: by a model of this machine, or of another. */
async function answer(
  route: ModelRoute,
  body: Json,
  record: RequestRecord,
  signal: AbortSignal,
  { models, gateway }: ExchangeOptions,
): Promise<Answer> {
  const here = (model?: string) => answerHere(route, body, record, signal, models, model);
  if (gateway === null) return here();
  const names = [...models.list(), ...gateway.list()].map(({ name }) => name);
  const model = typeof body.model === "string" ? body.model : theOnly(new Set(names));
  if (!gateway.has(model)) {
    if (models.has(model)) return here(model);
    throw gateway.missing(model, names);
  }
  const local = models.has(model) ? () => here(model) : null;
  const { forward } = route;
  return gateway.answer({ model, body, record, signal, forward, local });
}

async function answerHere(
  route: ModelRoute,
  body: Json,
  record: RequestRecord,
  signal: AbortSignal,
  models: Models,
  model?: string,
): Promise<Answer> {
  const request = read(route.request, body) as { readonly model?: string | null };
  const name = model ?? request.model ?? theOnly(new Set(models.list().map(({ name }) => name)));
  const lease = await models.acquire(name, signal);
  try {
    record.begin(lease.name, body);
    const reply = await route.handle(serviceOf(lease, record), request as never, signal);
    return { reply, release: lease.release };
  } catch (error) {
    lease.release();
    throw error;
  }
}

/** Where there is one model, some routes do not ask for its name. */
function theOnly(names: ReadonlySet<string>): string {
  const [first, ...more] = names;
  if (first !== undefined && more.length === 0) return first;
  throw badRequest("model", "is missing, and there are several here");
}

function serviceOf({ name, model, metrics }: Lease, record: RequestRecord): Service {
  const { engine, tokenizer, embedder = null } = model;
  return { engine, tokenizer, embedder, model: name, metrics, record };
}
