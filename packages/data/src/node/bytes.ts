/** A file's bytes, decompressed on the way. */
import { createReadStream } from "node:fs";
import { Readable, type Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip, createZstdDecompress } from "node:zlib";
import xz from "xz-decompress"; // CommonJS: Node finds no named export

/** Texts compress 3 to 20 times, logs 100 times; gzip ends at 1,032, xz and zstd at many thousands. */
const MOST_EXPANSION = 1000;
/** What may come of any file. */
const ALWAYS_ALLOWED = 2 ** 26;

/**
 * Streams a file, decompressed.
 * @param onRead told of the stored bytes that were read
 * @throws Error for a file that is missing, truncated, damaged, or a decompression bomb
 */
export async function* readBytes(
  path: string,
  compression?: "gz" | "xz" | "zst",
  onRead: (bytes: number) => void = () => {},
): AsyncGenerator<Uint8Array> {
  const file = createReadStream(path, { highWaterMark: 1 << 20 });
  let stored = 0;
  let decoded = 0;
  async function* counted(): AsyncGenerator<Uint8Array> {
    for await (const chunk of file as AsyncIterable<Buffer>) {
      stored += chunk.length;
      onRead(chunk.length);
      yield chunk;
    }
  }
  try {
    for await (const chunk of decompressed(counted(), compression)) {
      decoded += chunk.length;
      if (decoded > ALWAYS_ALLOWED && decoded > MOST_EXPANSION * stored) {
        throw new Error(
          `grows more than ${MOST_EXPANSION} times when decompressed, as no text does; if it is meant, decompress it first`,
        );
      }
      yield chunk;
    }
  } finally {
    file.destroy();
  }
}

function decompressed(
  file: AsyncGenerator<Uint8Array>,
  compression: "gz" | "xz" | "zst" | undefined,
): AsyncIterable<Uint8Array> {
  if (compression === "gz") return through(file, createGunzip({ chunkSize: 1 << 17 }));
  if (compression === "zst") return through(file, createZstdDecompress({ chunkSize: 1 << 17 }));
  return compression === "xz" ? unxz(file) : file;
}

async function* through(
  file: AsyncIterable<Uint8Array>,
  decoder: Transform,
): AsyncGenerator<Uint8Array> {
  // pipeline's promise carries the error of either side; reading the decoder alone would hang on some.
  const done = pipeline(file, decoder);
  done.catch(() => {});
  yield* decoder as AsyncIterable<Uint8Array>;
  await done;
}

async function* unxz(file: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const input = Readable.toWeb(Readable.from(wholeXz(file))) as ReadableStream<Uint8Array>;
  const reader = new xz.XzReadableStream(input).getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(explainXz);
    if (done) return;
    // The decoder reuses its buffer.
    yield (value as Uint8Array).slice();
  }
}

/** What the decoder's numbers mean: `enum xz_ret` of XZ Embedded. */
const XZ_ERRORS: Readonly<Record<string, string>> = {
  3: "the xz stream needs more memory than there is",
  4: "the xz stream has a dictionary larger than 64 MiB (xz -9 and lower are read)",
  5: "not an xz stream",
  6: "the xz stream has options that are not supported",
  7: "the xz stream is damaged",
  8: "the xz stream is damaged",
};

function explainXz(error: unknown): never {
  const message = error instanceof Error ? error.message : String(error);
  const code = /error code (\d+)/.exec(message)?.[1] ?? "";
  throw new Error(XZ_ERRORS[code] ?? message, { cause: error });
}

/** Every xz stream ends with "YZ" (and maybe zeros); the decoder does not say when that is missing. */
async function* wholeXz(file: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let end = "";
  for await (const chunk of file) {
    const tail = Buffer.from(chunk.subarray(-64)).toString("latin1");
    end = (end + tail).replace(/\0+$/, "").slice(-2);
    yield chunk;
  }
  if (end !== "YZ") throw new Error("the xz stream is truncated");
}
