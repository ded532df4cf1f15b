/** One request of a client, from its body to the last byte of its answer. */
import type { Context } from "hono";
import { stream } from "hono/streaming";
import type { z } from "zod";
import { readJson } from "./body.ts";
import { badRequest, clientGone, errorResponse, toApiError } from "./errors.ts";
import type { Service } from "./generate.ts";
import type { Lease, Models } from "./models.ts";
import type { Recorded, RequestRecord } from "./record.ts";
import { read } from "./schemas.ts";
import { EVENT_HEADERS, type Reply, streamRun } from "./stream.ts";

/** A route that asks something of a model. */
export interface ModelRoute {
  readonly request: z.ZodType;
  handle(service: Service, request: never, signal: AbortSignal): Reply | Promise<Reply>;
}

export interface ExchangeOptions {
  readonly models: Models;
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
 * begins with what clients skip, and goes on when it is there: comments in a stream of events, empty
 * lines before JSON, as DeepSeek does. An error is then the body of an answer of status 200.
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
  const answering = answer(c, route, body, ends, options).catch((error) => {
    ends.finish();
    options.onError(error, c);
    return errorResponse(c, toApiError(error));
  });
  const { promise: late, resolve } = Promise.withResolvers<"late">();
  const timer = setTimeout(resolve, options.keepAlive, "late");
  const first = await Promise.race([answering, late]);
  clearTimeout(timer);
  if (first !== "late") return first;
  return beginEarly(c, answering, ends.leave, options);
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

async function answer(
  c: Context<Recorded>,
  route: ModelRoute,
  body: { readonly [field: string]: unknown },
  { signal, finish }: Ends,
  options: ExchangeOptions,
): Promise<Response> {
  const { models, keepAlive, writeTimeout } = options;
  const record = c.get("record");
  const request = read(route.request, body) as { readonly model?: string | null };
  const lease = await models.acquire(request.model ?? theOnly(models), signal);
  let reply: Reply;
  try {
    record.begin(lease.name, body);
    reply = await route.handle(serviceOf(lease, record), request as never, signal);
  } catch (error) {
    lease.release();
    throw error;
  }
  if ("body" in reply) {
    lease.release();
    finish();
    return c.json(reply.body);
  }
  const { promise, resolve } = Promise.withResolvers<void>();
  record.open = promise;
  return streamRun(c, reply, {
    keepAlive,
    writeTimeout,
    onError: (error) => options.onError(error, c),
    onEnd() {
      lease.release();
      finish();
      resolve();
    },
  });
}

/** Where there is one model, some routes do not ask for its name. */
function theOnly(models: Models): string {
  const [first, ...more] = models.list();
  if (more.length === 0) return first!.name;
  throw badRequest("model", "is missing, and there are several here");
}

function serviceOf({ name, model, metrics }: Lease, record: RequestRecord): Service {
  const { engine, tokenizer, embedder = null } = model;
  return { engine, tokenizer, embedder, model: name, metrics, record };
}

function beginEarly(
  c: Context<Recorded>,
  answering: Promise<Response>,
  onGone: () => void,
  { keepAlive }: ExchangeOptions,
): Response {
  const record = c.get("record");
  const headers = record.stream ? EVENT_HEADERS : { "content-type": "application/json" };
  for (const [name, value] of Object.entries(headers)) c.header(name, value);
  const { promise, resolve } = Promise.withResolvers<void>();
  record.open = promise;
  return stream(c, async (out) => {
    out.onAbort(onGone);
    const rest = () => void out.write(record.stream ? ": keep-alive\n\n" : "\n");
    rest();
    const beat = setInterval(rest, keepAlive);
    try {
      const response = await answering.finally(() => clearInterval(beat));
      const events = response.headers.get("content-type")?.startsWith("text/event-stream");
      if (record.stream && !events) await out.write(`data: ${await response.text()}\n\n`);
      else await out.pipe(response.body!);
    } finally {
      resolve();
    }
  });
}
