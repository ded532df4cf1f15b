/** Answers as server-sent events. */
import type { Delta, Usage } from "@dsv3/serve";
import type { Context } from "hono";
import { stream } from "hono/streaming";
import { type ApiError, errorBody, toApiError } from "./errors.ts";
import type { Run } from "./generate.ts";

/** Comments keep proxies and clients from giving up on an answer that waits in the queue. */
const KEEP_ALIVE_MS = 15_000;

/**
 * Streams a run: `first` events, those that `event` makes of each token, those of `last`, then `[DONE]`,
 * but for named events. Whoever stops reading cancels the run; a failure becomes an event.
 */
export function streamRun(
  c: Context,
  run: Run,
  parts: {
    /** Whether events have their `type` as a name, as all but OpenAI's oldest have. */
    named?: boolean;
    first: readonly object[];
    event(delta: Delta, request: number): readonly object[];
    last(usage: Usage): readonly object[];
    /** The event of a failure; the body of the route's errors unless given. */
    failed?(error: ApiError): object;
  },
  onError: (error: unknown) => void,
): Response {
  c.header("content-type", "text/event-stream; charset=utf-8");
  c.header("cache-control", "no-cache");
  c.header("x-accel-buffering", "no"); // nginx would collect events into pages
  return stream(c, async (out) => {
    const named = parts.named ?? false;
    const send = (event: { type?: string }) => {
      const name = named ? `event: ${event.type}\n` : "";
      return out.write(`${name}data: ${JSON.stringify(event)}\n\n`);
    };
    out.onAbort(() => run.cancel(new Error("the client went away")));
    const beat = setInterval(() => void out.write(": keep-alive\n\n"), KEEP_ALIVE_MS);
    try {
      for (const event of parts.first) await send(event);
      const usage = await run.each(async (delta, request) => {
        for (const event of parts.event(delta, request)) await send(event);
      });
      for (const event of parts.last(usage)) await send(event);
      if (!named) await out.write("data: [DONE]\n\n");
    } catch (error) {
      if (out.aborted) return;
      onError(error);
      const told = toApiError(error);
      await send(parts.failed?.(told) ?? errorBody(c, told));
    } finally {
      clearInterval(beat);
    }
  });
}
