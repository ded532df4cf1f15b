/** The routes, as an application of web-standard requests and responses: no port, no process. */
import type { Tracer } from "@opentelemetry/api";
import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { requireKey } from "./auth.ts";
import { ApiError, errorResponse, toApiError } from "./errors.ts";
import { exchange } from "./exchange.ts";
import type { Gateway } from "./gateway/gateway.ts";
import type { Models } from "./models.ts";
import { type Log, observe } from "./observe.ts";
import { allowOrigins } from "./origins.ts";
import { plainRoutes } from "./plain-routes.ts";
import type { Recorded } from "./record.ts";
import { MODEL_ROUTES } from "./routes.ts";

export interface AppOptions {
  readonly models: Models;
  /** Engines on other machines, beside those models or instead of them. */
  readonly gateway?: Gateway;
  /**
   * With keys, every route but /health and /ready wants one. A key may be given by its hash:
   * `sha256:` and 64 hexadecimal digits.
   */
  readonly apiKeys?: readonly string[];
  /** Origins whose pages may ask and read, as browsers have it; none unless given, `*` for any. */
  readonly origins?: readonly string[];
  /** Milliseconds from a request to its last token, waiting included; 10 minutes unless given. */
  readonly timeout?: number;
  /** Milliseconds of silence after which a client that waits is sent something; 15 s unless given. */
  readonly keepAlive?: number;
  /** Milliseconds that a client may take to read a part of a stream; 2 minutes unless given. */
  readonly writeTimeout?: number;
  /** Bytes of a request's body; 4 MiB unless given. */
  readonly maxBody?: number;
  /** Gets a line for each request, and what clients are not told: the errors behind status 500. */
  readonly log?: Log;
  /** Gets a span for each request. */
  readonly tracer?: Tracer;
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

/** @throws RangeError if there is no model, nor a gateway to others; for keys and origins that are none */
export function createApp(options: AppOptions): App {
  const { models, gateway = null, apiKeys = [], maxBody = 4 * 2 ** 20, log } = options;
  if (gateway === null && models.list().length === 0) {
    throw new RangeError("models: there must be one at least, or a gateway");
  }
  const open = new Set<AbortController>();
  let draining = false;
  const app = new Hono<Recorded>();

  app.use(observe(log, options.tracer));
  const gets = plainRoutes(models, gateway, { ready: () => !draining, keys: apiKeys.length > 0 });
  const keyless = new Set(gets.filter((get) => get.open).map(({ path }) => path));
  app.use(allowOrigins(options.origins ?? []));
  app.use(requireKey(apiKeys, keyless));
  app.use(
    bodyLimit({
      maxSize: maxBody,
      onError: (c) =>
        errorResponse(c, new ApiError(413, `the body is larger than ${maxBody} bytes`)),
    }),
  );

  for (const { path, handle } of gets) {
    // A name may have slashes, as those of Hugging Face do.
    app.get(path.replace("{name}", ":name{.+}"), handle);
  }

  const onError: Parameters<typeof exchange>[2]["onError"] = (error, c) => {
    const told = toApiError(error);
    c.get("record").error = told.code ?? told.type;
    // What was meant for clients is told to them alone, unless something else caused it.
    const hidden =
      error instanceof ApiError ? error.cause : told.status === 500 ? error : undefined;
    if (hidden) log?.error({ requestId: c.get("record").requestId, err: hidden }, told.message);
  };
  const settings = {
    models,
    gateway,
    timeout: options.timeout ?? 600_000,
    keepAlive: options.keepAlive ?? 15_000,
    writeTimeout: options.writeTimeout ?? 120_000,
    open,
    onError,
  };
  for (const route of MODEL_ROUTES) {
    for (const path of route.paths) {
      app.post(path, (c) => {
        if (draining) throw new ApiError(503, "the server is stopping", { type: "server_error" });
        return exchange(c, route, settings);
      });
    }
  }

  app.notFound((c) => {
    const message = `there is no ${c.req.method} ${c.req.path}`;
    return errorResponse(c, new ApiError(404, message, { code: "not_found" }));
  });
  app.onError((error, c) => {
    onError(error, c);
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
      for (const request of open) request.abort(stopped);
    },
  };
}
