/** A file's bytes, decompressed on the way. */
import { createReadStream } from "node:fs";
import { Readable, type Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip, createZstdDecompress } from "node:zlib";
import xz from "xz-decompress"; // CommonJS: Node finds no named export

/**
 * Streams a file; .gz, .xz and .zst are decompressed.
 * @throws Error with the path for a file that is missing, truncated or damaged
 */
export async function* readBytes(path: string): AsyncGenerator<Uint8Array> {
  const file = createReadStream(path, { highWaterMark: 1 << 20 });
  try {
    yield* decompressed(path, file);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new Error(`${path}: ${reason}`, { cause: error });
  } finally {
    file.destroy();
  }
}

function decompressed(path: string, file: Readable): AsyncIterable<Uint8Array> {
  if (/\.gz$/i.test(path)) return through(file, createGunzip());
  if (/\.zst$/i.test(path)) return through(file, createZstdDecompress());
  if (/\.xz$/i.test(path)) return unxz(file);
  return file;
}

async function* through(file: Readable, decoder: Transform): AsyncGenerator<Uint8Array> {
  // pipeline's promise carries the error of either side; reading the decoder alone would hang on some.
  const done = pipeline(file, decoder);
  done.catch(() => {});
  yield* decoder as AsyncIterable<Uint8Array>;
  await done;
}

async function* unxz(file: Readable): AsyncGenerator<Uint8Array> {
  const input = Readable.toWeb(Readable.from(wholeXz(file))) as ReadableStream<Uint8Array>;
  const reader = new xz.XzReadableStream(input).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    // The decoder reuses its buffer.
    yield (value as Uint8Array).slice();
  }
}

/** Every xz stream ends with "YZ" (and maybe zeros); the decoder does not say when that is missing. */
async function* wholeXz(file: Readable): AsyncGenerator<Uint8Array> {
  let end = "";
  for await (const chunk of file as AsyncIterable<Buffer>) {
    end = (end + chunk.subarray(-64).toString("latin1")).replace(/\0+$/, "").slice(-2);
    yield chunk;
  }
  if (end !== "YZ") throw new Error("the xz stream is truncated");
}
