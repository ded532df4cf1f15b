/**
 * The safetensors format: 8 bytes of header length (little-endian), a JSON header, then the
 * tensors' bytes without gaps. https://github.com/huggingface/safetensors#format
 */
import { CheckpointError } from "./error.ts";
import { JsonReader } from "./json-reader.ts";
import { DTYPE_BY_NAME, STORED_DTYPES, type StoredDType, tensorBytes } from "./stored-dtype.ts";

const LENGTH_BYTES = 8;
/** The format's own limit. */
const MAX_HEADER_BYTES = 100_000_000;
/** More dimensions than any library has; keeps a hostile shape from filling memory. */
const MAX_RANK = 64;

/** What is known of a tensor without reading it. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  /** Name of the file within its folder. */
  readonly file: string;
  /** Where its first byte stands in the file. */
  readonly offset: number;
  readonly bytes: number;
}

export interface Header {
  /** In the order of their bytes. */
  readonly tensors: Map<string, TensorInfo>;
  readonly metadata: Map<string, string>;
}

/**
 * Bytes from the start of the file to the end of its header, from the first 8 bytes.
 * @throws CheckpointError when the file cannot hold such a header
 */
export function headerEnd(start: Uint8Array, fileSize: number, file: string): number {
  const fail = (problem: string): never => {
    throw new CheckpointError(problem, { file });
  };
  if (fileSize < LENGTH_BYTES || start.length < LENGTH_BYTES) {
    return fail(`${fileSize} bytes are too few for a safetensors file; is it truncated?`);
  }
  if (new TextDecoder().decode(start.subarray(0, LENGTH_BYTES)) === "version ") {
    return fail("is a Git LFS pointer, not the file itself; run `git lfs pull`");
  }
  const length = new DataView(start.buffer, start.byteOffset).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    return fail(
      `claims a header of ${length} bytes, but the format allows ${MAX_HEADER_BYTES}; ` +
        "is it a safetensors file?",
    );
  }
  const end = LENGTH_BYTES + Number(length);
  if (end > fileSize) {
    return fail(`its header should end at byte ${end}, but the file has ${fileSize}; truncated?`);
  }
  return end;
}

/**
 * Reads the header of a safetensors file, and checks that the tensors fill the file exactly.
 * Stricter than the format's reference reader in the points that the README lists.
 * @param bytes the file's first bytes, to the end of the header at least
 * @param fileSize bytes of the whole file
 * @param file name for the errors and for {@link TensorInfo.file}
 * @throws CheckpointError
 */
export function parseHeader(bytes: Uint8Array, fileSize: number, file: string): Header {
  const end = headerEnd(bytes, fileSize, file);
  const fail = (problem: string, tensor?: string): never => {
    throw new CheckpointError(problem, { file, tensor });
  };
  if (bytes.length < end) fail(`${bytes.length} bytes given, of a header that ends at ${end}`);

  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(
      bytes.subarray(LENGTH_BYTES, end),
    );
  } catch (cause) {
    throw new CheckpointError("the header is not valid UTF-8", { file, cause });
  }
  if (text[0] !== "{") fail('the header must begin with "{"');

  const found = new Map<string, TensorInfo>();
  let metadata: Map<string, string> | undefined;
  let reading: string | undefined;
  const json = new JsonReader(text, (problem) => fail(`bad header: ${problem}`, reading));
  json.object((name) => {
    if (name === "__metadata__") {
      if (metadata) fail("the header has __metadata__ twice");
      metadata = readMetadata(json, (problem) => fail(problem));
    } else {
      if (found.has(name)) fail("is in the header twice", name);
      reading = name;
      found.set(name, readTensorInfo(json, name, file, end));
      reading = undefined;
    }
  });
  json.end();

  const tensors = [...found.values()].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  checkCover(tensors, file, end, fileSize);
  return {
    tensors: new Map(tensors.map((info) => [info.name, info])),
    metadata: metadata ?? new Map(),
  };
}

function readMetadata(json: JsonReader, fail: (problem: string) => never): Map<string, string> {
  const metadata = new Map<string, string>();
  json.object((key) => {
    if (metadata.has(key)) fail(`__metadata__ has ${JSON.stringify(key.slice(0, 200))} twice`);
    if (json.peek() !== '"') fail("__metadata__ may hold strings only");
    metadata.set(key, json.string());
  });
  return metadata;
}

function readTensorInfo(
  json: JsonReader,
  name: string,
  file: string,
  dataStart: number,
): TensorInfo {
  const fail = (problem: string): never => {
    throw new CheckpointError(problem, { file, tensor: name });
  };
  const integers = (limit: number, what: string): number[] => {
    const values: number[] = [];
    json.array(() => {
      if (values.length === limit) fail(`${what} has more than ${limit} entries`);
      values.push(json.integer());
    });
    return values;
  };
  let dtype: StoredDType | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  json.object((field) => {
    if (field === "dtype") {
      if (dtype) fail("has dtype twice");
      const given = json.string();
      dtype =
        DTYPE_BY_NAME.get(given) ?? fail(`unknown dtype ${JSON.stringify(given.slice(0, 50))}`);
    } else if (field === "shape") {
      if (shape) fail("has shape twice");
      shape = integers(MAX_RANK, "shape");
    } else if (field === "data_offsets") {
      if (offsets) fail("has data_offsets twice");
      offsets = integers(2, "data_offsets");
    } else {
      json.skip();
    }
  });
  if (!dtype || !shape || !offsets) return fail("needs dtype, shape and data_offsets");
  const [begin, end] = offsets;
  if (begin === undefined || end === undefined)
    return fail("data_offsets needs a begin and an end");
  if (begin > end) return fail(`data_offsets begin at ${begin}, after their end ${end}`);
  const bytes = tensorBytes(dtype, shape);
  if (typeof bytes === "string") return fail(bytes);
  if (bytes !== end - begin) {
    return fail(
      `data_offsets [${begin}, ${end}] span ${end - begin} bytes, ` +
        `but shape [${shape}] of ${dtype} takes ${bytes}`,
    );
  }
  return { name, dtype, shape, file, offset: dataStart + begin, bytes };
}

/** The tensors, in the order of their bytes, must touch each other and both ends of the data. */
function checkCover(
  tensors: TensorInfo[],
  file: string,
  dataStart: number,
  fileSize: number,
): void {
  let at = dataStart;
  for (const { name, offset, bytes } of tensors) {
    if (offset !== at) {
      const gap = offset > at ? `leaves a hole of ${offset - at}` : `overlaps ${at - offset}`;
      throw new CheckpointError(`its data ${gap} bytes before it`, { file, tensor: name });
    }
    at += bytes;
    if (at > fileSize) {
      throw new CheckpointError(
        `its data end ${at - fileSize} bytes past the end of the file; truncated?`,
        { file, tensor: name },
      );
    }
  }
  if (at !== fileSize) {
    throw new CheckpointError(`${fileSize - at} bytes follow the last tensor`, { file });
  }
}

/**
 * The start of a file that holds `tensors`, in this order, up to the first tensor's bytes. Padded
 * with spaces so that these begin at a multiple of 8, as the format asks.
 * @throws CheckpointError when the header would pass the format's limit
 */
export function formatHeader(
  tensors: readonly { name: string; dtype: StoredDType; shape: readonly number[]; bytes: number }[],
  metadata: Readonly<Record<string, string>>,
  file: string,
): Uint8Array {
  // Text, not one object for JSON.stringify: a tensor may be called "__proto__" or "1".
  const members = [`"__metadata__":${JSON.stringify(metadata)}`];
  let at = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    const info = {
      dtype: STORED_DTYPES[dtype].name,
      shape,
      data_offsets: [at, at + bytes],
    };
    members.push(`${JSON.stringify(name)}:${JSON.stringify(info)}`);
    at += bytes;
  }
  const json = new TextEncoder().encode(`{${members.join(",")}}`);
  const length = Math.ceil(json.length / 8) * 8;
  if (length > MAX_HEADER_BYTES) {
    throw new CheckpointError(
      `${tensors.length} tensors need a header of ${length} bytes, but the format allows ` +
        `${MAX_HEADER_BYTES}; lower maxShardBytes`,
      { file },
    );
  }
  const start = new Uint8Array(LENGTH_BYTES + length).fill(0x20);
  new DataView(start.buffer).setBigUint64(0, BigInt(length), true);
  start.set(json, LENGTH_BYTES);
  return start;
}
