/** A file over HTTP to a place on disk: checked, whole or not there, and resumed where it broke off. */
import { createHash } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { open, rename, rm, stat } from "node:fs/promises";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout } from "node:timers/promises";

export interface Fetching {
  /** Milliseconds before the second attempt; twice as long before each further one. */
  readonly retryMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** Attempts that bring nothing new, after which one gives up. */
const ATTEMPTS = 5;
/** A server that asks for more patience than this gets none. */
const MOST_WAIT_MS = 60_000;

/** What is tried again: too many requests, and errors of the server. */
const isPassing = (status: number) => status === 408 || status === 429 || status >= 500;

/** `fetch`, again while the server is busy or the connection fails; the last answer, whatever it is. */
export async function patientFetch(
  url: string | URL | Request,
  init: RequestInit,
  { retryMs, signal }: Fetching,
): Promise<Response> {
  for (let attempt = 1; ; attempt++) {
    let wait = retryMs * 2 ** (attempt - 1);
    try {
      const response = await fetch(url, { ...init, signal: signal ?? null });
      if (!isPassing(response.status) || attempt === ATTEMPTS) return response;
      const asked = 1000 * Number(response.headers.get("retry-after") ?? 0);
      if (asked > MOST_WAIT_MS) return response;
      wait = Math.max(wait, asked || 0);
      await response.body?.cancel();
    } catch (error) {
      signal?.throwIfAborted();
      if (attempt === ATTEMPTS) throw error;
    }
    await setTimeout(wait, undefined, signal ? { signal } : {});
  }
}

export interface Download {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly size: number;
  /** Git's SHA-1 of a blob, or the SHA-256 of the bytes; the length tells which. */
  readonly oid: string;
}

/** An answer that is not the file. */
export class DownloadError extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.name = "DownloadError";
    this.status = status;
  }
}

/**
 * Downloads into `path`, by way of `path.incomplete`, which a later call goes on with.
 * @param onBytes told how many bytes are there
 * @throws DownloadError for an answer that is an error; Error for a connection that keeps failing, and
 *   for content of another length or hash, which is deleted
 */
export async function download(
  path: string,
  { url, headers, size, oid }: Download,
  fetching: Fetching,
  onBytes: (bytes: number) => void = () => {},
): Promise<void> {
  const partial = `${path}.incomplete`;
  let trusted = false; // Whether what is there came from this call alone.
  let failures = 0;
  for (;;) {
    const before = await sizeOf(partial);
    if (before === 0) trusted = true;
    let failure: unknown;
    if (before < size || before === 0) {
      const asked = new Headers({ ...headers, "accept-encoding": "identity" });
      if (before > 0) asked.set("range", `bytes=${before}-`);
      const response = await patientFetch(url, { headers: asked }, fetching);
      if (response.status === 416) await rm(partial, { force: true });
      else if (!response.ok) {
        throw new DownloadError(
          response.status,
          `status ${response.status} ${response.statusText}`,
        );
      } else {
        const pour = append(partial, { before, size }, response, fetching, onBytes);
        failure = await pour.catch((error) => error);
        fetching.signal?.throwIfAborted();
      }
    }
    const after = await sizeOf(partial);
    if (after === size && (await oidOf(partial, size, oid)) === oid) {
      await sync(partial);
      await rename(partial, path);
      return;
    }
    if (after >= size) {
      // Longer, or not what it should be: what an earlier call left may be to blame, once.
      await rm(partial, { force: true });
      if (trusted) {
        throw new Error(
          after > size
            ? `the server sent more than the ${size} bytes that the file has`
            : "what the server sent has not the hash that the file has",
        );
      }
      trusted = true;
    } else if (after <= before && ++failures >= ATTEMPTS) {
      throw new Error(`the connection breaks off at byte ${after} of ${size}`, { cause: failure });
    }
  }
}

async function append(
  partial: string,
  { before, size }: { readonly before: number; readonly size: number },
  response: Response,
  { signal }: Fetching,
  onBytes: (bytes: number) => void,
): Promise<void> {
  // A server that knows no ranges sends everything again.
  const start = response.status === 206 ? before : 0;
  let bytes = start;
  const counted = async function* (body: AsyncIterable<Uint8Array>) {
    for await (const chunk of body) {
      bytes += chunk.length;
      onBytes(bytes);
      yield chunk;
      if (bytes > size) return; // it would fill the disk
    }
  };
  const body = Readable.fromWeb(response.body as Parameters<typeof Readable.fromWeb>[0]);
  const file = createWriteStream(partial, { flags: start > 0 ? "a" : "w" });
  await pipeline(body, counted, file, signal ? { signal } : {});
}

const sizeOf = (path: string): Promise<number> =>
  stat(path).then(
    ({ size }) => size,
    () => 0,
  );

async function oidOf(path: string, size: number, like: string): Promise<string> {
  const isSha256 = like.length === 64;
  const hash = createHash(isSha256 ? "sha256" : "sha1");
  if (!isSha256) hash.update(`blob ${size}\0`);
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

async function sync(path: string): Promise<void> {
  const file = await open(path, "r+");
  await file.sync();
  await file.close();
}
