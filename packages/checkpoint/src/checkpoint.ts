import { type DType, toF32 } from "@dsv3/tensor/dtype";
import { CheckpointError, quote, quoteAll } from "./error.ts";
import { type Folder, isPlainFileName } from "./folder.ts";
import { FP8_BLOCK, type MatrixShape, multiplyBlocks, scaleShape } from "./fp8.ts";
import { type Header, headerEnd, parseHeader, type TensorInfo } from "./header.ts";
import { JsonReader } from "./json-reader.ts";
import type { StoredDType } from "./stored-dtype.ts";

export const SINGLE_FILE = "model.safetensors";
export const INDEX_FILE = "model.safetensors.index.json";

const MAX_JSON_BYTES = 100_000_000;

export type Json = Record<string, unknown>;

/** A model folder, opened: names, shapes and configuration in memory, the tensors on disk. */
export class Checkpoint {
  readonly folder: Folder;
  /** `config.json`; undefined when there is none. */
  readonly config: Json | undefined;
  /** `generation_config.json`; undefined when there is none. */
  readonly generationConfig: Json | undefined;
  /** Every tensor of every file, FP8 scales included. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Files of the folder that end in .safetensors and are no part of this checkpoint. */
  readonly strayFiles: readonly string[];

  constructor(parts: {
    folder: Folder;
    config: Json | undefined;
    generationConfig: Json | undefined;
    tensors: ReadonlyMap<string, TensorInfo>;
    strayFiles: readonly string[];
  }) {
    this.folder = parts.folder;
    this.config = parts.config;
    this.generationConfig = parts.generationConfig;
    this.tensors = parts.tensors;
    this.strayFiles = parts.strayFiles;
  }

  /** @throws CheckpointError when there is no such tensor */
  info(name: string): TensorInfo {
    const info = this.tensors.get(name);
    if (info) return info;
    throw new CheckpointError(
      `is not among the ${this.tensors.size} tensors of ${this.folder.path}`,
      {
        tensor: name,
      },
    );
  }

  /** A tensor's bytes as they are stored, in fresh, aligned memory. */
  async read(name: string): Promise<Uint8Array> {
    const { file, offset, bytes } = this.info(name);
    return this.folder.read(file, offset, offset + bytes);
  }

  /** A whole tensor as f32, like {@link readRows}. */
  async readF32(name: string): Promise<Float32Array> {
    return this.readRows(name, 0, rowsOf(this.info(name)));
  }

  /**
   * Rows [start, end) of a tensor's first dimension as f32, reading no others. FP8 weights are
   * multiplied by their block scales (`<name>_scale_inv`). A scalar has one row.
   * @returns [end - start, …the other dimensions]
   * @throws CheckpointError for dtypes that f32 does not stand for (64-bit integers, f4, …): `read`
   *   gives their bytes
   */
  async readRows(name: string, start: number, end: number): Promise<Float32Array> {
    const info = this.info(name);
    const rows = rowsOf(info);
    if (
      !Number.isInteger(start) ||
      !Number.isInteger(end) ||
      start < 0 ||
      end > rows ||
      start > end
    ) {
      throw new CheckpointError(`rows [${start}, ${end}) are not within its ${rows} rows`, {
        file: info.file,
        tensor: name,
      });
    }
    if (!isDecodable(info.dtype)) {
      throw new CheckpointError(
        `${info.dtype} has no f32 form here; read() gives its ${info.bytes} bytes`,
        { file: info.file, tensor: name },
      );
    }
    const rowBytes = rows === 0 ? 0 : info.bytes / rows;
    const bytes = await this.folder.read(
      info.file,
      info.offset + start * rowBytes,
      info.offset + end * rowBytes,
    );
    const values = decode(bytes, info.dtype);
    const scale = this.scaleOf(name);
    if (scale && values.length > 0) {
      const [blockRows] = scale.block;
      const scaleInv = await this.readRows(
        scale.name,
        Math.floor(start / blockRows),
        Math.ceil(end / blockRows),
      );
      const shape: MatrixShape = [end - start, info.shape[1] as number];
      multiplyBlocks(values, scaleInv, shape, scale.block, start % blockRows);
    }
    return values;
  }

  /**
   * The block scales of an FP8 weight: their tensor's name and the block size (from
   * `quantization_config.weight_block_size`, else 128 by 128). Undefined for tensors that need none.
   * @throws CheckpointError when they are missing or do not fit the weight
   */
  scaleOf(name: string): { name: string; block: MatrixShape } | undefined {
    const { dtype, shape, file } = this.info(name);
    if (dtype !== "f8e4m3" && dtype !== "f8e5m2") return undefined;
    const fail = (problem: string): never => {
      throw new CheckpointError(problem, { file, tensor: name });
    };
    const scale = this.tensors.get(`${name}_scale_inv`);
    const quantization = this.config?.quantization_config as Json | undefined;
    if (!scale) {
      if (quantization?.quant_method !== "fp8") return undefined; // plain 8-bit values
      return fail(`is ${dtype}, but its scales, ${quote(`${name}_scale_inv`)}, are missing`);
    }
    const block = (quantization?.weight_block_size ?? FP8_BLOCK) as unknown;
    if (!isMatrixShape(block)) {
      return fail(
        "config.json: quantization_config.weight_block_size must be two positive integers, not " +
          JSON.stringify(block),
      );
    }
    const [rows, columns] = shape;
    if (rows === undefined || columns === undefined || shape.length !== 2) {
      return fail(`has block scales, so it must be a matrix, but its shape is [${shape}]`);
    }
    const want = scaleShape([rows, columns], block);
    if (scale.dtype !== "f32" || `${scale.shape}` !== `${want}`) {
      return fail(
        `shape [${shape}] in blocks of [${block}] needs f32 scales of [${want}], but ` +
          `${quote(scale.name)} is ${scale.dtype} [${scale.shape}]`,
      );
    }
    return { name: scale.name, block };
  }
}

/** Rows that {@link Checkpoint.readRows} counts. */
export function rowsOf(info: TensorInfo): number {
  return info.shape[0] ?? 1;
}

function isMatrixShape(value: unknown): value is MatrixShape {
  return (
    Array.isArray(value) && value.length === 2 && value.every((n) => Number.isInteger(n) && n > 0)
  );
}

const DECODABLE: readonly StoredDType[] = [
  "f64",
  "f32",
  "bf16",
  "f16",
  "f8e4m3",
  "f8e5m2",
  "i8",
  "i32",
  "u32",
  "u8",
  "bool",
];

function isDecodable(dtype: StoredDType): dtype is DType | "f64" {
  return DECODABLE.includes(dtype);
}

function decode(bytes: Uint8Array, dtype: DType | "f64"): Float32Array {
  if (dtype !== "f64") return toF32(bytes, dtype);
  return Float32Array.from(
    new Float64Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.length / 8),
  );
}

/**
 * Opens a Hugging Face model folder: `model.safetensors`, or the shards that
 * `model.safetensors.index.json` names; `config.json` and `generation_config.json` where present.
 * Reads headers only. Where both forms of weights are present the single file counts, as in
 * transformers.
 * @param folder a path (Node), or any {@link Folder}
 * @throws CheckpointError
 */
export async function openCheckpoint(folder: string | Folder): Promise<Checkpoint> {
  const from =
    typeof folder === "string"
      ? await (await import("./node-folder.ts")).nodeFolder(folder)
      : folder;
  const names = await from.list();
  let shards: string[];
  let index: Map<string, string> | undefined;
  if (names.includes(SINGLE_FILE)) {
    shards = [SINGLE_FILE];
  } else if (names.includes(INDEX_FILE)) {
    index = parseIndex((await readText(from, INDEX_FILE)) ?? "");
    shards = [...new Set(index.values())].sort();
  } else {
    throw new CheckpointError(`holds neither ${SINGLE_FILE} nor ${INDEX_FILE}`, {
      file: from.path,
    });
  }

  const absent = shards.filter((shard) => !names.includes(shard));
  if (absent.length > 0) {
    throw new CheckpointError(
      `names ${absent.length} of ${shards.length} files that are not in ${from.path}: ` +
        `${quoteAll(absent)}; is the download complete?`,
      { file: INDEX_FILE },
    );
  }
  const tensors = new Map<string, TensorInfo>();
  for (const shard of shards) {
    const header = await readHeader(from, shard);
    if (index) checkShard(header, shard, index);
    for (const [name, info] of header.tensors) tensors.set(name, info);
  }
  if (index) {
    const missing = [...index.keys()].filter((name) => !tensors.has(name));
    if (missing.length > 0) {
      throw new CheckpointError(`lists tensors that its files do not hold: ${quoteAll(missing)}`, {
        file: INDEX_FILE,
        tensor: missing[0],
      });
    }
  }
  return new Checkpoint({
    folder: from,
    config: await readJson(from, "config.json"),
    generationConfig: await readJson(from, "generation_config.json"),
    tensors,
    strayFiles: names.filter((name) => name.endsWith(".safetensors") && !shards.includes(name)),
  });
}

/**
 * Reads the header of one safetensors file, and nothing else of it.
 * @throws CheckpointError
 */
export async function readHeader(folder: Folder, file: string): Promise<Header> {
  const size = await folder.size(file);
  if (size === undefined) throw new CheckpointError(`is not in ${folder.path}`, { file });
  const start = await folder.read(file, 0, Math.min(8, size));
  return parseHeader(await folder.read(file, 0, headerEnd(start, size, file)), size, file);
}

function checkShard(header: Header, shard: string, index: Map<string, string>): void {
  const extra = [...header.tensors.keys()].filter((name) => index.get(name) !== shard);
  const [name] = extra;
  if (name === undefined) return;
  const where = index.get(name);
  throw new CheckpointError(
    where === undefined
      ? `holds tensors that ${INDEX_FILE} does not list: ${quoteAll(extra)}`
      : `is here, but ${INDEX_FILE} says that it is in ${quote(where)}`,
    { file: shard, tensor: name },
  );
}

/** Tensor name to file name. */
function parseIndex(text: string): Map<string, string> {
  const fail = (problem: string, tensor?: string): never => {
    throw new CheckpointError(problem, { file: INDEX_FILE, tensor });
  };
  let weightMap: Map<string, string> | undefined;
  const json = new JsonReader(text, (problem) => fail(`bad JSON: ${problem}`));
  json.object((key) => {
    if (key !== "weight_map") return json.skip();
    if (weightMap) fail("has weight_map twice");
    const map = new Map<string, string>();
    json.object((tensor) => {
      if (map.has(tensor)) fail("is in weight_map twice", tensor);
      const file = json.string();
      if (!isPlainFileName(file) || !file.endsWith(".safetensors")) {
        fail(`${quote(file)} is not the name of a .safetensors file in this folder`, tensor);
      }
      map.set(tensor, file);
    });
    weightMap = map;
  });
  json.end();
  return weightMap ?? fail("has no weight_map");
}

async function readText(folder: Folder, file: string): Promise<string | undefined> {
  const size = await folder.size(file);
  if (size === undefined) return undefined;
  if (size > MAX_JSON_BYTES) {
    throw new CheckpointError(`${size} bytes are too many for a JSON file`, { file });
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await folder.read(file, 0, size));
  } catch (cause) {
    if (cause instanceof CheckpointError) throw cause;
    throw new CheckpointError("is not valid UTF-8", { file, cause });
  }
}

async function readJson(folder: Folder, file: string): Promise<Json | undefined> {
  const text = await readText(folder, file);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new CheckpointError(`bad JSON: ${(cause as Error).message}`, { file, cause });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new CheckpointError("must hold a JSON object", { file });
  }
  return value as Json;
}
