/** Keys of `dsv3 serve`: those that clients must have, and those that its upstreams want. */
import { readFile } from "node:fs/promises";
import type { UpstreamOptions } from "@dsv3/server";
import { UsageError } from "../errors.ts";
import type { Io } from "../io.ts";

/** Keys of clients: the lines of a file, or those of DSV3_API_KEY. @throws {UsageError} for a file without any */
export async function readKeys(file: string | undefined, io: Io): Promise<string[]> {
  const keys = linesOf(file === undefined ? io.env.DSV3_API_KEY : await readFile(file, "utf8"));
  if (file !== undefined && keys.length === 0) {
    throw new UsageError(`--keys: ${file} holds no key; without keys, leave the flag out`);
  }
  return keys;
}

/**
 * Upstreams with their keys: lines `URL KEY` of a file, or DSV3_UPSTREAM_KEY for those that have none there.
 * @throws {UsageError} for a line that is none, or is of no upstream
 */
export async function readUpstreams(
  urls: readonly string[],
  file: string | undefined,
  io: Io,
): Promise<UpstreamOptions[]> {
  const lines = linesOf(file === undefined ? undefined : await readFile(file, "utf8"));
  const keys = new Map<string, string>();
  for (const [i, line] of lines.entries()) {
    const [url, key, ...rest] = line.split(/\s+/);
    // The line may be a key alone: it is not shown.
    if (key === undefined || rest.length > 0) {
      throw new UsageError(`--upstream-keys: key ${i + 1} of ${file} is not "URL KEY"`);
    }
    const given = urls.find((one) => sameServer(one, url!));
    if (given === undefined) {
      const which = `--upstream-keys: key ${i + 1} of ${file}`;
      throw new UsageError(`${which} is for an address that no --upstream gives`);
    }
    keys.set(given, key);
  }
  return urls.map((url) => {
    const key = keys.get(url) ?? io.env.DSV3_UPSTREAM_KEY;
    return key ? { url, key } : { url };
  });
}

/** With or without `/v1`, as upstreams may be given. */
function sameServer(one: string, other: string): boolean {
  const bare = (url: string) => url.replace(/\/+$/, "").replace(/\/v1$/, "");
  return bare(one) === bare(other);
}

function linesOf(text = ""): string[] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
}
