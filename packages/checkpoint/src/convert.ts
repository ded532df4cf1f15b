import { fromF32 } from "@dsv3/tensor/dtype";
import { type Checkpoint, INDEX_FILE, type Json, openCheckpoint, rowsOf } from "./checkpoint.ts";
import { CheckpointError } from "./error.ts";
import type { Folder, Staging } from "./folder.ts";
import { blockScales, FP8_BLOCK, type MatrixShape, quantizeFp8Blocks, scaleShape } from "./fp8.ts";
import type { TensorInfo } from "./header.ts";
import type { StoredDType } from "./stored-dtype.ts";
import { type TensorSource, type WriteOptions, writeCheckpoint } from "./write.ts";

export interface ConvertOptions extends Pick<WriteOptions, "maxShardBytes" | "overwrite"> {
  /**
   * What floats become. "fp8" is DeepSeek's layout: the linear weights of attention and experts in
   * E4M3 with block scales, other floats in bf16.
   */
  dtype: "f32" | "bf16" | "f16" | "fp8";
  /** Other files that stay behind: the state of an optimiser, say. */
  leaveOut?: readonly string[];
}

const FLOATS: readonly StoredDType[] = ["f64", "f32", "bf16", "f16", "f8e4m3", "f8e5m2"];

/** What DeepSeek-V3 stores in FP8: not the router, the norms, the embeddings and the heads. */
const FP8_WEIGHTS =
  /\.(q_proj|q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|o_proj|gate_proj|up_proj|down_proj)\.weight$/;

/** Kept in f32 whatever the rest is: rounding it moves tokens to other experts. */
const F32_TENSORS = /\.e_score_correction_bias$/;

/** Floats held in memory at a time: 16 MiB as f32. */
const CHUNK_ELEMENTS = 2 ** 22;

/** Bytes of other files copied at a time. */
const CHUNK_BYTES = 2 ** 24;

/**
 * Converts a model folder to another precision, in a new folder: tensors, `config.json` (dtype and
 * quantization_config) and index; all other files are copied as they are. Streams: memory does not
 * grow with the model. Tensors that are as asked already, and those that are no floats, are copied
 * bit for bit.
 * @throws CheckpointError, and then leaves nothing behind
 */
export async function convertCheckpoint(
  from: string | Folder,
  to: string | Staging,
  options: ConvertOptions,
): Promise<void> {
  const checkpoint = await openCheckpoint(from);
  const tensors: TensorSource[] = [];
  for (const info of checkpoint.tensors.values()) {
    if (!isScale(checkpoint, info.name))
      tensors.push(...convertTensor(checkpoint, info, options.dtype));
  }
  await writeCheckpoint(to, tensors, {
    ...options,
    config: checkpoint.config && convertConfig(checkpoint.config, options.dtype),
    generationConfig: checkpoint.generationConfig,
    extraFiles: await otherFiles(checkpoint.folder, options.leaveOut ?? []),
  });
}

/** True for the block scales of a weight that is there: they go where it goes. */
function isScale(checkpoint: Checkpoint, name: string): boolean {
  const suffix = "_scale_inv";
  const weight = name.slice(0, -suffix.length);
  return (
    name.endsWith(suffix) &&
    checkpoint.tensors.has(weight) &&
    checkpoint.scaleOf(weight) !== undefined
  );
}

function convertTensor(
  checkpoint: Checkpoint,
  info: TensorInfo,
  target: ConvertOptions["dtype"],
): TensorSource[] {
  const { name, shape } = info;
  if (!FLOATS.includes(info.dtype)) return [copy(checkpoint, info)];
  const scale = checkpoint.scaleOf(name);
  const [rows, columns] = shape;
  if (target === "fp8" && FP8_WEIGHTS.test(name) && shape.length === 2) {
    const matrix: MatrixShape = [rows as number, columns as number];
    if (info.dtype === "f8e4m3" && scale && `${scale.block}` === `${FP8_BLOCK}`) {
      return [copy(checkpoint, info), copy(checkpoint, checkpoint.info(scale.name))];
    }
    // The scales stand before the weight in the file, so the weight is read once for each.
    return [
      {
        name: `${name}_scale_inv`,
        dtype: "f32",
        shape: scaleShape(matrix),
        data: quantized(checkpoint, info, (values, shape) =>
          fromF32(blockScales(values, shape), "f32"),
        ),
      },
      {
        name,
        dtype: "f8e4m3",
        shape,
        data: quantized(checkpoint, info, (values, shape) => quantizeFp8Blocks(values, shape).data),
      },
    ];
  }
  const dtype = F32_TENSORS.test(name) ? "f32" : target === "fp8" ? "bf16" : target;
  if (info.dtype === dtype) return [copy(checkpoint, info)];
  return [{ name, dtype, shape, data: cast(checkpoint, info, dtype) }];
}

function copy(
  checkpoint: Checkpoint,
  { name, dtype, shape, file, offset, bytes }: TensorInfo,
): TensorSource {
  return { name, dtype, shape, data: copyBytes(checkpoint.folder, file, offset, offset + bytes) };
}

async function* cast(
  checkpoint: Checkpoint,
  info: TensorInfo,
  dtype: "f32" | "bf16" | "f16",
): AsyncGenerator<Uint8Array> {
  for await (const { values } of rowChunks(checkpoint, info, 1)) yield fromF32(values, dtype);
}

async function* quantized(
  checkpoint: Checkpoint,
  info: TensorInfo,
  part: (values: Float32Array, shape: MatrixShape) => Uint8Array,
): AsyncGenerator<Uint8Array> {
  const columns = info.shape[1] as number;
  for await (const { values, start, end } of rowChunks(checkpoint, info, FP8_BLOCK[0])) {
    let bytes: Uint8Array;
    try {
      bytes = part(values, [end - start, columns]);
    } catch (cause) {
      const problem = `${(cause as Error).message} of the rows from ${start}`;
      throw new CheckpointError(problem, { file: info.file, tensor: info.name, cause });
    }
    yield bytes;
  }
}

/** The tensor as f32, in runs of whole rows; all but the last a multiple of `multiple` rows. */
async function* rowChunks(
  checkpoint: Checkpoint,
  info: TensorInfo,
  multiple: number,
): AsyncGenerator<{ values: Float32Array; start: number; end: number }> {
  const rows = rowsOf(info);
  const rowElements = info.shape.slice(1).reduce((product, size) => product * size, 1);
  const groups = Math.max(1, Math.floor(CHUNK_ELEMENTS / (rowElements * multiple || 1)));
  const step = groups * multiple;
  for (let start = 0; start < rows; start += step) {
    const end = Math.min(start + step, rows);
    yield { values: await checkpoint.readRows(info.name, start, end), start, end };
  }
}

async function* copyBytes(
  folder: Folder,
  file: string,
  begin: number,
  end: number,
): AsyncGenerator<Uint8Array> {
  for (let at = begin; at < end; at += CHUNK_BYTES) {
    yield await folder.read(file, at, Math.min(at + CHUNK_BYTES, end));
  }
}

const TORCH_DTYPES = { f32: "float32", bf16: "bfloat16", f16: "float16", fp8: "bfloat16" };

function convertConfig(config: Json, dtype: ConvertOptions["dtype"]): Json {
  const { quantization_config: _, ...rest } = config;
  // transformers 5 writes "dtype", earlier ones "torch_dtype".
  const key = "dtype" in rest ? "dtype" : "torch_dtype";
  const converted: Json = { ...rest, [key]: TORCH_DTYPES[dtype] };
  if (dtype === "fp8") {
    converted.quantization_config = {
      activation_scheme: "dynamic",
      fmt: "e4m3",
      quant_method: "fp8",
      weight_block_size: FP8_BLOCK,
    };
  }
  return converted;
}

async function otherFiles(
  folder: Folder,
  leaveOut: readonly string[],
): Promise<Record<string, AsyncIterable<Uint8Array>>> {
  const ours = ["config.json", "generation_config.json", INDEX_FILE, ...leaveOut];
  const files: [name: string, chunks: AsyncIterable<Uint8Array>][] = [];
  for (const file of await folder.list()) {
    if (ours.includes(file) || file.endsWith(".safetensors")) continue;
    files.push([file, copyBytes(folder, file, 0, (await folder.size(file)) ?? 0)]);
  }
  return Object.fromEntries(files);
}
