/** Cross-origin requests: which pages of other origins may ask, by the Fetch standard. */
import type { MiddlewareHandler } from "hono";

/** Seconds that a browser may remember an answer to its question whether it may ask. */
const MAX_AGE = "600";

/**
 * Lets pages of these origins ask and read (`https://chat.example`, or `*` for any). A browser's
 * question beforehand is answered here, without a key and without saying more; what is none goes on.
 * @throws RangeError for what is no origin
 */
export function allowOrigins(origins: readonly string[]): MiddlewareHandler {
  const wrong = origins.find((origin) => origin !== "*" && !isOrigin(origin));
  if (wrong !== undefined) {
    throw new RangeError(
      `"${wrong}" is no origin: write https://chat.example, without a path, or *`,
    );
  }
  const allowed = new Set(origins);
  return async (c, next) => {
    if (allowed.size > 0) c.header("vary", "Origin");
    const origin = c.req.header("origin");
    if (origin === undefined || !(allowed.has(origin) || allowed.has("*"))) return next();
    c.header("access-control-allow-origin", origin);
    if (c.req.method !== "OPTIONS" || !c.req.header("access-control-request-method")) {
      c.header("access-control-expose-headers", "x-request-id, request-id, retry-after");
      return next();
    }
    const headers = c.req.header("access-control-request-headers");
    if (headers !== undefined) c.header("access-control-allow-headers", headers);
    c.header("access-control-allow-methods", "GET, POST");
    c.header("access-control-max-age", MAX_AGE);
    return c.body(null, 204);
  };
}

function isOrigin(text: string): boolean {
  return URL.canParse(text) && new URL(text).origin === text;
}
