/** Errors as OpenAI's clients expect them: a status, and a body that says what and where. */
import { QueueFullError, RequestError } from "@dsv3/serve";
import type { Context } from "hono";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import type { Recorded } from "./record.ts";

export class ApiError extends Error {
  readonly status: ContentfulStatusCode;
  readonly type: string;
  readonly code: string | null;
  /** The field of the request at fault. */
  readonly param: string | null;
  /** When to come again, as `Retry-After` has it. */
  readonly retryAfter: string;

  constructor(
    status: ContentfulStatusCode,
    message: string,
    options: {
      type?: string;
      code?: string;
      param?: string;
      retryAfter?: string;
      cause?: unknown;
    } = {},
  ) {
    super(message, options);
    this.name = "ApiError";
    this.status = status;
    this.type = options.type ?? "invalid_request_error";
    this.code = options.code ?? null;
    this.param = options.param ?? null;
    this.retryAfter = options.retryAfter ?? "1";
  }
}

/** A request that is wrong in one field. */
export function badRequest(param: string, problem: string, code?: string): ApiError {
  return new ApiError(400, `${param}: ${problem}`, { param, ...(code && { code }) });
}

/** What ends a request whose client has left; nobody reads it but the log (nginx's status). */
export function clientGone(): ApiError {
  return new ApiError(499 as ContentfulStatusCode, "the client went away", { code: "client_gone" });
}

/** What a client is told about an error. What was not meant for clients is not shown to them. */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof RequestError) {
    const param = error.field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    const tooLong = error.field === "prompt" && /context/.test(error.message);
    const code = tooLong ? "context_length_exceeded" : "invalid_value";
    return new ApiError(400, error.message.replace(error.field, param), { param, code });
  }
  if (error instanceof QueueFullError) {
    const type = "rate_limit_error";
    return new ApiError(429, error.message, { type, code: "rate_limit_exceeded" });
  }
  if (error instanceof DOMException && error.name === "TimeoutError") {
    return new ApiError(503, "the request took longer than this server allows", {
      type: "server_error",
      code: "timeout",
    });
  }
  return new ApiError(500, "the server failed to answer; its log says why", {
    type: "server_error",
    code: "internal_error",
  });
}

/** Whose interface a path is of: errors look different in each. */
export function dialectOf(path: string): "openai" | "anthropic" | "deepseek" {
  if (/^(\/anthropic)?\/v1\/messages(\/|$)/.test(path)) return "anthropic";
  return /^(\/beta)?\/(chat\/)?(completions|models)(\/|$)/.test(path) ? "deepseek" : "openai";
}

/** Anthropic's names of errors, by status. */
const TYPES: Readonly<Record<number, string>> = {
  400: "invalid_request_error",
  401: "authentication_error",
  404: "not_found_error",
  413: "request_too_large",
  415: "invalid_request_error",
  429: "rate_limit_error",
  503: "overloaded_error",
};

export function errorBody(
  c: Context<Recorded>,
  error: ApiError,
): { type?: string; error: object; request_id?: string } {
  const { message, type, param, code, status } = error;
  switch (dialectOf(c.req.path)) {
    case "openai":
      return { error: { message, type, param, code } };
    case "anthropic": {
      const request_id = c.get("record").requestId;
      return { type: "error", error: { type: TYPES[status] ?? "api_error", message }, request_id };
    }
    case "deepseek": {
      const told = code === "model_not_found" ? "Model Not Exist" : message;
      return { error: { message: told, type, param: null, code: "invalid_request_error" } };
    }
  }
}

/** DeepSeek has 400 for models that it does not have, and 422 for values that do not fit. */
function statusOf(c: Context<Recorded>, { status, code }: ApiError): ContentfulStatusCode {
  if (dialectOf(c.req.path) !== "deepseek") return status;
  if (code === "model_not_found") return 400;
  return code === "invalid_value" ? 422 : status;
}

/** The answer to a request that failed before anything of it was answered. */
export function errorResponse(c: Context<Recorded>, error: ApiError): Response {
  if (error.status === 429 || error.status === 503) c.header("retry-after", error.retryAfter);
  return c.json(errorBody(c, error), statusOf(c, error));
}
