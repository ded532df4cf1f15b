/** Answers as server-sent events. */
import type { Usage } from "@dsv3/serve";
import type { Context } from "hono";
import type { StreamingApi } from "hono/utils/stream";
import { type ApiError, clientGone, errorBody, toApiError } from "./errors.ts";
import type { Parts } from "./generate.ts";

/** What a route answers: a body, or events of a run that goes on. */
export type Reply = { readonly body: object } | Events;

/** `first` events, those that `event` makes of each part of the run, those of `last`, then `[DONE]`, but for named events. */
export interface Events<Part = unknown> {
  readonly run: Parts<Part>;
  /** Whether events have their `type` as a name, as all but OpenAI's oldest have. */
  readonly named?: boolean;
  readonly first: readonly object[];
  event(part: Part, request: number): readonly object[];
  last(usage: Usage): readonly object[];
  /** The event of a failure; the body of the route's errors unless given. */
  failed?(error: ApiError): object;
}

export interface StreamOptions {
  /** Milliseconds between comments, which keep proxies and clients from giving up. */
  readonly keepAlive: number;
  /** Milliseconds that a client may take to read what is sent, before it is dropped. */
  readonly writeTimeout: number;
  readonly onError: (error: unknown) => void;
}

/** A comment, which clients skip. */
export const KEEP_ALIVE = ": keep-alive\n\n";

export const EVENT_HEADERS: Readonly<Record<string, string>> = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache",
  // nginx would collect events into pages.
  "x-accel-buffering": "no",
};

/** Sends a run's events. Whoever stops reading cancels it; a failure becomes an event. */
export async function sendEvents(
  c: Context,
  out: StreamingApi,
  { run, named = false, ...events }: Events,
  { keepAlive, writeTimeout, onError }: StreamOptions,
): Promise<void> {
  const drop = () => {
    out.abort();
    // What a client does not read would keep its connection open.
    (c.env as { outgoing?: { destroy(): void } } | undefined)?.outgoing?.destroy();
  };
  const write = async (text: string) => {
    const late = setTimeout(drop, writeTimeout);
    await out.write(text);
    clearTimeout(late);
  };
  const send = (event: { type?: string }) => {
    const name = named ? `event: ${event.type}\n` : "";
    return write(`${name}data: ${JSON.stringify(event)}\n\n`);
  };
  out.onAbort(() => run.cancel(clientGone()));
  const beat = setInterval(() => void out.write(KEEP_ALIVE), keepAlive);
  try {
    for (const event of events.first) await send(event);
    const usage = await run.each(async (part, request) => {
      for (const event of events.event(part, request)) await send(event);
    });
    for (const event of events.last(usage)) await send(event);
    if (!named) await write("data: [DONE]\n\n");
  } catch (error) {
    onError(error);
    if (out.aborted) return;
    const told = toApiError(error);
    await send(events.failed?.(told) ?? errorBody(c, told));
  } finally {
    clearInterval(beat);
  }
}
