import { INDEX_FILE, type Json, SINGLE_FILE } from "./checkpoint.ts";
import { CheckpointError, quote } from "./error.ts";
import { isPlainFileName, type Staging } from "./folder.ts";
import { formatHeader } from "./header.ts";
import { STORED_DTYPES, type StoredDType, tensorBytes } from "./stored-dtype.ts";

/** A tensor to be written: what it is at once, its bytes only when their turn comes. */
export interface TensorSource {
  name: string;
  dtype: StoredDType;
  shape: readonly number[];
  /** All bytes; or a function that fetches them; or their chunks, in order. */
  data: Uint8Array | (() => Promise<Uint8Array>) | AsyncIterable<Uint8Array>;
}

export interface WriteOptions {
  /** Becomes `config.json`. */
  config?: Json | undefined;
  /** Becomes `generation_config.json`. */
  generationConfig?: Json | undefined;
  /** Of every safetensors file. Default: `{ format: "pt" }`, without which transformers refuses. */
  metadata?: Readonly<Record<string, string>>;
  /** Tensor bytes of one file; a larger tensor gets a file of its own. Default: 5 GB. */
  maxShardBytes?: number;
  /** More files of the folder, by name: tokenizer.json and the like. */
  extraFiles?: Readonly<Record<string, Uint8Array | AsyncIterable<Uint8Array>>>;
  /** Replace an existing model folder, with all that is in it. Default: it is an error. */
  overwrite?: boolean;
}

interface SizedTensor extends TensorSource {
  bytes: number;
}

/**
 * Writes a Hugging Face model folder: `model.safetensors`, or shards with their index once the
 * tensors pass `maxShardBytes`. Tensors fill the shards in the given order; within one, wider
 * elements go first, so that each tensor is aligned, and then names decide.
 *
 * All or nothing: the folder appears at `dir` when everything is on the disk. On any failure what
 * was written is removed, and an existing folder stays as it was.
 * @param dir a path (Node), or any {@link Staging}
 * @throws CheckpointError
 */
export async function writeCheckpoint(
  dir: string | Staging,
  tensors: Iterable<TensorSource>,
  options: WriteOptions = {},
): Promise<void> {
  const { metadata = { format: "pt" }, maxShardBytes = 5e9, overwrite = false } = options;
  if (!(maxShardBytes > 0)) {
    throw new CheckpointError(`maxShardBytes must be positive, not ${maxShardBytes}`);
  }
  const shards = planShards(checkTensors(tensors), maxShardBytes);
  const files = new Map<string, AsyncIterable<Uint8Array>>();
  for (const [file, shard] of shards) files.set(file, shardChunks(file, shard, metadata));
  if (shards.size > 1) files.set(INDEX_FILE, inOneChunk(formatIndex(shards)));
  const { config, generationConfig } = options;
  if (config) files.set("config.json", inOneChunk(formatJson(config)));
  if (generationConfig)
    files.set("generation_config.json", inOneChunk(formatJson(generationConfig)));
  for (const [file, data] of Object.entries(options.extraFiles ?? {})) {
    if (!isPlainFileName(file) || files.has(file)) {
      throw new CheckpointError("cannot be an extra file: the name is taken or leaves the folder", {
        file,
      });
    }
    files.set(file, data instanceof Uint8Array ? inOneChunk(data) : data);
  }

  const staging =
    typeof dir === "string"
      ? await (await import("./node-folder.ts")).stageFolder(dir, overwrite)
      : dir;
  try {
    for (const [file, chunks] of files) await staging.write(file, chunks);
    await staging.commit();
  } catch (error) {
    await staging.discard();
    throw error;
  }
}

function checkTensors(tensors: Iterable<TensorSource>): SizedTensor[] {
  const names = new Set<string>();
  return Array.from(tensors, (tensor) => {
    const { name, dtype, shape } = tensor;
    const fail = (problem: string): never => {
      throw new CheckpointError(problem, { tensor: name });
    };
    if (names.has(name)) fail("is given twice");
    names.add(name);
    if (name === "__metadata__" || !name.isWellFormed())
      fail("is not a name that the format allows");
    if (!(dtype in STORED_DTYPES)) fail(`unknown dtype ${quote(String(dtype))}`);
    if (!shape.every((size) => Number.isSafeInteger(size) && size >= 0)) {
      fail(`shape [${shape}] must hold whole numbers`);
    }
    const bytes = tensorBytes(dtype, shape);
    return { ...tensor, bytes: typeof bytes === "number" ? bytes : fail(bytes) };
  });
}

/** The order of tensors in a file, also the reference implementation's: all aligned, and canonical. */
function byWidthThenName(a: SizedTensor, b: SizedTensor): number {
  const byWidth = STORED_DTYPES[b.dtype].bits - STORED_DTYPES[a.dtype].bits;
  return byWidth || (a.name < b.name ? -1 : 1);
}

/** File name to its tensors. */
function planShards(tensors: SizedTensor[], maxShardBytes: number): Map<string, SizedTensor[]> {
  const shards: SizedTensor[][] = [[]];
  let room = maxShardBytes;
  for (const tensor of tensors) {
    if (tensor.bytes > room && room < maxShardBytes) {
      shards.push([]);
      room = maxShardBytes;
    }
    shards.at(-1)?.push(tensor);
    room -= tensor.bytes;
  }
  const number = (n: number) => String(n).padStart(5, "0");
  return new Map(
    shards.map((shard, i) => [
      shards.length === 1
        ? SINGLE_FILE
        : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`,
      shard.sort(byWidthThenName),
    ]),
  );
}

async function* shardChunks(
  file: string,
  tensors: SizedTensor[],
  metadata: Readonly<Record<string, string>>,
): AsyncGenerator<Uint8Array> {
  yield formatHeader(tensors, metadata, file);
  for (const { name, dtype, shape, data, bytes } of tensors) {
    let given = 0;
    for await (const chunk of chunksOf(data)) {
      given += chunk.length;
      if (given > bytes) break;
      yield chunk;
    }
    if (given !== bytes) {
      const count = given > bytes ? `more than ${bytes}` : `only ${given}`;
      throw new CheckpointError(
        `its data are ${count} bytes, but shape [${shape}] of ${dtype} takes ${bytes}`,
        { file, tensor: name },
      );
    }
  }
}

function chunksOf(data: TensorSource["data"]): AsyncIterable<Uint8Array> {
  if (data instanceof Uint8Array) return inOneChunk(data);
  return typeof data === "function" ? inOneChunk(data) : data;
}

async function* inOneChunk(
  data: Uint8Array | (() => Promise<Uint8Array>),
): AsyncGenerator<Uint8Array> {
  yield typeof data === "function" ? await data() : data;
}

function formatIndex(shards: Map<string, SizedTensor[]>): Uint8Array {
  const weightMap: [name: string, file: string][] = [];
  let totalSize = 0;
  for (const [file, tensors] of shards) {
    for (const { name, bytes } of tensors) {
      weightMap.push([name, file]);
      totalSize += bytes;
    }
  }
  weightMap.sort(([a], [b]) => (a < b ? -1 : 1));
  // Text, not one object for JSON.stringify: a tensor may be called "__proto__" or "1".
  const lines = weightMap.map((pair) => `    ${pair.map((s) => JSON.stringify(s)).join(": ")}`);
  return new TextEncoder().encode(
    `{\n  "metadata": {\n    "total_size": ${totalSize}\n  },\n` +
      `  "weight_map": {\n${lines.join(",\n")}\n  }\n}\n`,
  );
}

function formatJson(value: Json): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
}
