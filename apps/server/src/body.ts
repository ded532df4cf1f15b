/** Bodies of requests as JSON objects. */
import type { Context } from "hono";
import { ApiError } from "./errors.ts";

/** Schemas are read by recursion; nobody means more than this well. */
const MAX_DEPTH = 64;

/** @throws ApiError for what is no JSON object, or nested too deep */
export async function readJson(c: Context): Promise<{ readonly [field: string]: unknown }> {
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
  return body as { readonly [field: string]: unknown };
}

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
