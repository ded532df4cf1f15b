/** API keys. Hashes are kept and compared, each in full, so that time tells nothing about a key. */
import { createHash, timingSafeEqual } from "node:crypto";
import type { MiddlewareHandler } from "hono";
import { ApiError, errorResponse } from "./errors.ts";

const hash = (key: string) => createHash("sha256").update(key).digest();

/** A key as it is written down: itself, or `sha256:` and the 64 hexadecimal digits of its hash. */
function stored(key: string): Buffer {
  const digits = /^sha256:(.*)$/i.exec(key)?.[1];
  if (digits === undefined) return hash(key);
  if (/^[0-9a-f]{64}$/i.test(digits)) return Buffer.from(digits, "hex");
  throw new RangeError(
    `an API key begins with sha256: and goes on with ${digits.length} characters; the hash has 64 hexadecimal digits`,
  );
}

/**
 * Lets requests pass that bring one of the keys, as `Authorization: Bearer KEY` or `X-Api-Key: KEY`.
 * `open` are the paths that need none.
 */
export function requireKey(keys: readonly string[], open: ReadonlySet<string>): MiddlewareHandler {
  const hashes = keys.map(stored);
  return async (c, next) => {
    if (hashes.length === 0 || open.has(c.req.path)) return next();
    const bearer = /^Bearer +(.+)$/i.exec(c.req.header("authorization") ?? "")?.[1];
    const given = hash(bearer ?? c.req.header("x-api-key") ?? "");
    let known = false;
    for (const h of hashes) if (timingSafeEqual(h, given)) known = true;
    if (known) return next();
    const message = "a valid API key is missing: send Authorization: Bearer KEY";
    const options = { type: "authentication_error", code: "invalid_api_key" };
    return errorResponse(c, new ApiError(401, message, options));
  };
}
