/** What is told of requests while the server runs: a line in the log, a span in a trace. No words of theirs. */
import type { Tracer } from "@opentelemetry/api";
import type { MiddlewareHandler } from "hono";
import { dialectOf } from "./errors.ts";
import { type Recorded, RequestRecord } from "./record.ts";
import { beginSpan, type RequestSpan } from "./span.ts";

/** Where requests and failures are logged; pino's loggers are such. */
export interface Log {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** Asked for every few seconds, by machines. */
const POLLED = new Set(["/health", "/ready", "/metrics"]);

/**
 * Gives each request an id, its own or a new one, which comes back as `x-request-id`, and a record that
 * is told when its last byte is sent.
 */
export function observe(
  log: Log | undefined,
  tracer: Tracer | undefined,
): MiddlewareHandler<Recorded> {
  return async (c, next) => {
    const given = c.req.header("x-request-id");
    const requestId = given && /^[\w.-]{1,128}$/.test(given) ? given : crypto.randomUUID();
    const record = new RequestRecord(requestId);
    c.header("x-request-id", requestId);
    if (dialectOf(c.req.path) === "anthropic") c.header("request-id", requestId);
    c.set("record", record);
    const span = tracer && beginSpan(tracer, c);
    record.trace = traceOf(c.req.header("traceparent"), c.req.header("tracestate"), span);
    await next();
    const { status } = c.res;
    const { method, path } = c.req;
    const end = () => {
      const fields = { method, path: path.slice(0, 200), status, ...record.fields() };
      log?.[POLLED.has(path) ? "debug" : "info"](fields, "request");
      span?.end(record, status);
    };
    if (record.open) void record.open.then(end);
    else end();
  };
}

/** The trace that other machines go on with (https://www.w3.org/TR/trace-context/): ours, or the client's. */
function traceOf(
  given: string | undefined,
  state: string | undefined,
  span: RequestSpan | undefined,
): Readonly<Record<string, string>> {
  const traceparent = span?.traceparent ?? (given && /^[\da-f-]{55,128}$/.exec(given)?.[0]);
  if (!traceparent) return {};
  return { traceparent, ...(state && state.length <= 512 && { tracestate: state }) };
}
