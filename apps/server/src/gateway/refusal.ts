/** What an engine refused, as clients are told of it. */
import type { ContentfulStatusCode } from "hono/utils/http-status";
import { ApiError } from "../errors.ts";
import { isObject, type Json } from "./dialect.ts";

/** Statuses that are about this server, not about what its client asked: a wrong key, an account. */
const OURS = new Set([401, 402, 403, 407]);

/**
 * A refusal by its status and body: OpenAI's, vLLM's older one, FastAPI's, or none. What was wrong in the
 * request is told in the engine's words; what is wrong with the engine is for the log alone.
 */
export function refusal(status: number, text: string, retryAfter?: string): ApiError {
  const body = parsed(text);
  const error = isObject(body.error) ? body.error : body;
  const words = [error.message, body.error, body.detail].find((one) => typeof one === "string");
  const told = (words ?? `the engine answered with status ${status}`) as string;
  const cause = new Error(`status ${status}: ${told.slice(0, 500)}`);
  const textOf = (value: unknown) => (typeof value === "string" ? value : undefined);
  const code = textOf(error.code);
  const param = textOf(error.param);
  // A redirect leads where nobody asked us to go.
  if (status < 400 || status > 599 || OURS.has(status)) {
    const message = "the engine refuses this server's requests";
    return new ApiError(502, message, { type: "server_error", code: "upstream_failed", cause });
  }
  const more = retryAfter === undefined ? {} : { retryAfter };
  if (status >= 500) {
    const message = status === 503 ? "the engine takes no requests now" : "the engine failed";
    const failed = { type: "server_error", code: code ?? "upstream_failed", cause, ...more };
    return new ApiError(status as ContentfulStatusCode, message, failed);
  }
  return new ApiError(status as ContentfulStatusCode, told.slice(0, 2000), {
    ...more,
    ...(status === 429 && { type: "rate_limit_error" }),
    ...(code !== undefined && { code }),
    ...(param !== undefined && { param }),
  });
}

/** What OpenAI's types of errors are as statuses. */
const STATUSES: Readonly<Record<string, number>> = {
  invalid_request_error: 400,
  rate_limit_error: 429,
};

/** The refusal in a chunk of a stream, which had begun with status 200; null if it is an answer. */
export function refusalIn(chunk: Json): ApiError | null {
  const error = isObject(chunk.error) ? chunk.error : chunk.object === "error" ? chunk : null;
  if (error === null) return null;
  const { code, type } = error;
  const status = typeof code === "number" && code >= 400 && code < 600 ? code : STATUSES[`${type}`];
  return refusal(status ?? 502, JSON.stringify(chunk));
}

/** Proxies answer with pages; they are nothing for clients. */
function parsed(text: string): Json {
  try {
    const body: unknown = JSON.parse(text);
    return isObject(body) ? body : {};
  } catch {
    return {};
  }
}
