/** The routes, as an application of web-standard requests and responses: no port, no process. */
import type { Engine } from "@dsv3/serve";
import type { Tokenizer } from "@dsv3/tokenizer";
import { type Context, Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { requireKey } from "./auth.ts";
import { chat } from "./chat.ts";
import { completions } from "./completions.ts";
import { ApiError, errorResponse, toApiError } from "./errors.ts";
import type { Service } from "./generate.ts";
import { countTokens, messages } from "./messages.ts";
import { Metrics } from "./metrics.ts";
import { responses } from "./responses.ts";
import { detokenize, tokenize } from "./tokenize.ts";

export interface AppOptions {
  readonly engine: Engine;
  readonly tokenizer: Tokenizer;
  /** The name that clients call the model by. */
  readonly model: string;
  /** With keys, every route but /health and /ready wants one. */
  readonly apiKeys?: readonly string[];
  /** Milliseconds from a request to its last token, waiting included; 10 minutes unless given. */
  readonly timeout?: number;
  /** Bytes of a request's body; 4 MiB unless given. */
  readonly maxBody?: number;
  /** Gets what clients are not told: the errors behind answers of status 500. */
  readonly onError?: (error: unknown) => void;
}

export interface App {
  readonly fetch: (request: Request, env?: unknown) => Response | Promise<Response>;
  /** Every route, so that tests can ask each for its key. */
  readonly routes: readonly { readonly method: string; readonly path: string }[];
  /** From now on, new work is refused with status 503; `/ready` says so. */
  drain(): void;
  /** Ends the requests at work with an error. */
  abort(): void;
}

const OPEN = new Set(["/health", "/ready"]);

export function createApp(options: AppOptions): App {
  const { engine, tokenizer, model, timeout = 600_000, maxBody = 4 * 2 ** 20 } = options;
  const service: Service = { engine, tokenizer, model, metrics: new Metrics() };
  const onError = (error: unknown) => {
    if (toApiError(error).status === 500) options.onError?.(error);
  };
  const closing = new AbortController();
  let draining = false;
  const created = Math.floor(Date.now() / 1000);
  const app = new Hono();

  app.use(async (c, next) => {
    const given = c.req.header("x-request-id");
    c.header("x-request-id", given && /^[\w.-]{1,128}$/.test(given) ? given : crypto.randomUUID());
    await next();
  });
  app.use(requireKey(options.apiKeys ?? [], OPEN));
  app.use(
    bodyLimit({
      maxSize: maxBody,
      onError: (c) =>
        errorResponse(c, new ApiError(413, `the body is larger than ${maxBody} bytes`)),
    }),
  );

  app.get("/health", (c) => c.json({ status: "ok" }));
  app.get("/ready", (c) => c.json({ status: draining ? "stopping" : "ok" }, draining ? 503 : 200));
  app.get("/metrics", (c) => c.text(service.metrics.text(engine)));

  const entry = {
    id: model,
    object: "model",
    created,
    owned_by: "dsv3",
    max_model_len: engine.maxContext,
  };
  app.get("/v1/models", (c) => c.json({ object: "list", data: [entry] }));
  // A name may have slashes, as those of Hugging Face do.
  app.get("/v1/models/:name{.+}", (c) => {
    checkModel(c.req.param("name"), model);
    return c.json(entry);
  });

  const post = (path: string, handle: typeof chat) => {
    app.post(path, async (c) => {
      if (draining) throw new ApiError(503, "the server is stopping", { type: "server_error" });
      const body = await readJson(c);
      checkModel((body as { model?: unknown }).model, model);
      const ends = [c.req.raw.signal, closing.signal, AbortSignal.timeout(timeout)];
      return handle(c, service, body, AbortSignal.any(ends), onError);
    });
  };
  post("/v1/chat/completions", chat);
  post("/v1/completions", completions);
  post("/v1/responses", responses);
  post("/v1/messages", messages);
  post("/v1/messages/count_tokens", async (c, service, body) => c.json(countTokens(service, body)));
  app.post("/tokenize", async (c) => c.json(tokenize(service, await readJson(c))));
  app.post("/detokenize", async (c) => c.json(detokenize(service, await readJson(c))));

  app.notFound((c) => {
    const message = `there is no ${c.req.method} ${c.req.path}`;
    return errorResponse(c, new ApiError(404, message, { code: "not_found" }));
  });
  app.onError((error, c) => {
    onError(error);
    return errorResponse(c, toApiError(error));
  });
  return {
    fetch: app.fetch,
    routes: app.routes.filter(({ method }) => method !== "ALL"),
    drain() {
      draining = true;
    },
    abort() {
      const stopped = new ApiError(503, "the server stopped", { type: "server_error" });
      closing.abort(stopped);
    },
  };
}

async function readJson(c: Context): Promise<unknown> {
  if (!/^application\/json\b/i.test(c.req.header("content-type") ?? "")) {
    throw new ApiError(415, "the body must be JSON, with content-type: application/json");
  }
  let body: unknown;
  try {
    body = JSON.parse(await c.req.text());
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new ApiError(400, `the body is no JSON: ${error.message}`, { code: "invalid_json" });
  }
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new ApiError(400, "the body must be a JSON object");
  }
  if (isDeeper(body, MAX_DEPTH)) {
    throw new ApiError(400, `the body is nested more than ${MAX_DEPTH} deep`);
  }
  return body;
}

/** Schemas are read by recursion; nobody means more than this well. */
const MAX_DEPTH = 64;

function isDeeper(value: object, depth: number): boolean {
  let level: object[] = [value];
  for (let d = 1; level.length > 0; d++) {
    if (d > depth) return true;
    level = level.flatMap((one) =>
      Object.values(one).filter((inner) => typeof inner === "object" && inner !== null),
    );
  }
  return false;
}

function checkModel(asked: unknown, model: string): void {
  if (asked === model) return;
  const message =
    asked === undefined
      ? "model: is missing"
      : `model: ${JSON.stringify(asked).slice(0, 200)} is not served here; there is "${model}"`;
  const missing = asked === undefined || typeof asked !== "string";
  throw new ApiError(missing ? 400 : 404, message, { param: "model", code: "model_not_found" });
}
