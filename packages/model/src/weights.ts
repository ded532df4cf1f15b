/** A model's weights from and to a Hugging Face folder. */
import {
  type Checkpoint,
  CheckpointError,
  type Folder,
  openCheckpoint,
  type Staging,
  type TensorInfo,
  type TensorSource,
  type WriteOptions,
  writeCheckpoint,
} from "@dsv3/checkpoint";
import { disposeTree, fromBytes, type Tensor, treePaths } from "@dsv3/tensor";
import { dtypeBytes, fromF32, toF32 } from "@dsv3/tensor/dtype";
import type { ModelConfig } from "./config.ts";
import { parseHuggingFaceConfig, toHuggingFaceConfig } from "./hugging-face.ts";
import { type NamedParam, namedParams } from "./names.ts";
import { type ModelParams, paramShapes } from "./params.ts";

export interface LoadOptions {
  /**
   * What matrices are kept as in memory, f32 unless told. Norms, router and correction biases are
   * f32 in any case; FP8 weights are multiplied by their block scales.
   */
  readonly dtype?: "f32" | "bf16";
  /** false leaves out the MTP modules. */
  readonly mtp?: boolean;
  /** Called after each parameter with the share that has been read, 0 to 1. */
  readonly onProgress?: (share: number) => void;
}

export interface LoadedModel {
  /** As in config.json, but without MTP modules if the folder holds none or they were left out. */
  readonly config: ModelConfig;
  readonly params: ModelParams;
}

/**
 * Reads a model folder onto the current backend, one tensor at a time.
 * @param dir a path (Node), or any Folder of @dsv3/checkpoint
 * @throws ConfigError for config.json; CheckpointError naming tensors that are missing, unknown, or
 *   of another shape or dtype than the configuration makes them, before anything is read
 */
export async function loadModel(
  dir: string | Folder,
  options: LoadOptions = {},
): Promise<LoadedModel> {
  const checkpoint = await openCheckpoint(dir);
  const config = checkedConfig(checkpoint, options);
  const wanted = namedParams(config);
  await checkCopies(checkpoint, wanted);

  const loaded = new Map<string, Tensor>();
  try {
    for (const param of wanted) {
      loaded.set(param.path, await readParam(checkpoint, param, options.dtype ?? "f32"));
      options.onProgress?.(loaded.size / wanted.length);
    }
  } catch (error) {
    disposeTree([...loaded.values()]);
    throw error;
  }
  return { config, params: fillShapes(paramShapes(config), loaded, "") as ModelParams };
}

/**
 * The configuration of a model folder, whose tensors are exactly those that it makes; nothing of them
 * is read. Without MTP modules if the folder holds none (transformers writes num_nextn_predict_layers
 * even then) or `mtp` is false.
 * @throws ConfigError, CheckpointError as {@link loadModel}
 */
export function checkedConfig(
  checkpoint: Checkpoint,
  { mtp = true }: Pick<LoadOptions, "mtp"> = {},
): ModelConfig {
  if (checkpoint.config === undefined) {
    throw new CheckpointError("is not there; a model folder needs one", { file: "config.json" });
  }
  const declared = parseHuggingFaceConfig(checkpoint.config);
  const modules = mtpPrefixes(checkpoint, declared);
  const config = mtp && modules.length > 0 ? declared : { ...declared, numNextnPredictLayers: 0 };
  checkTensors(checkpoint, namedParams(config), mtp ? [] : modules);
  return config;
}

/** How the names of each MTP module that is there begin: layers after the main ones that project two states. */
function mtpPrefixes({ tensors }: Checkpoint, c: ModelConfig): string[] {
  return Array.from(
    { length: c.numNextnPredictLayers },
    (_, d) => `model.layers.${c.numHiddenLayers + d}.`,
  ).filter((prefix) => tensors.has(`${prefix}eh_proj.weight`));
}

/** Every wanted tensor is there as it should be, and no other but those whose names begin with `leftOut`. */
function checkTensors(
  checkpoint: Checkpoint,
  wanted: NamedParam[],
  leftOut: readonly string[],
): void {
  const known = new Set<string>();
  const missing: string[] = [];
  for (const { names, copies, shape } of wanted) {
    const each = names.length > 1 ? shape.slice(1) : shape;
    for (const name of names) {
      if (!checkpoint.tensors.has(name)) missing.push(name);
      else checkTensor(checkpoint.info(name), each);
    }
    for (const copy of copies) {
      if (checkpoint.tensors.has(copy)) checkTensor(checkpoint.info(copy), each);
    }
    for (const name of [...names, ...copies]) known.add(name).add(`${name}_scale_inv`);
  }
  if (missing.length > 0) {
    const more = missing.length > 1 ? ` (and ${missing.length - 1} more)` : "";
    throw new CheckpointError(`is missing${more}; config.json asks for it`, { tensor: missing[0] });
  }
  const extra = [...checkpoint.tensors.values()].filter(
    ({ name }) => !known.has(name) && !leftOut.some((prefix) => name.startsWith(prefix)),
  );
  if (extra[0] !== undefined) {
    const more = extra.length > 1 ? ` (nor have ${extra.length - 1} more)` : "";
    throw new CheckpointError(`has no place in the model that config.json describes${more}`, {
      file: extra[0].file,
      tensor: extra[0].name,
    });
  }
}

const FLOATS: readonly string[] = ["f64", "f32", "bf16", "f16", "f8e4m3", "f8e5m2"];

function checkTensor({ name, file, shape, dtype }: TensorInfo, expected: readonly number[]): void {
  if (shape.join() !== expected.join()) {
    const problem = `has shape [${shape.join(", ")}], but config.json makes it [${expected.join(", ")}]`;
    throw new CheckpointError(problem, { file, tensor: name });
  }
  if (!FLOATS.includes(dtype)) {
    throw new CheckpointError(`is ${dtype}; weights are one of ${FLOATS.join(", ")}`, {
      file,
      tensor: name,
    });
  }
}

/** MTP layers share embedding and head; what they store of them must be the same. */
async function checkCopies(checkpoint: Checkpoint, wanted: NamedParam[]): Promise<void> {
  for (const { names, copies } of wanted) {
    for (const copy of copies.filter((name) => checkpoint.tensors.has(name))) {
      const original = await checkpoint.readF32(names[0]!);
      const copied = await checkpoint.readF32(copy);
      if (original.some((x, i) => x !== copied[i])) {
        throw new CheckpointError(
          `differs from ${names[0]}, with which MTP modules share their weights`,
          { file: checkpoint.info(copy).file, tensor: copy },
        );
      }
    }
  }
}

/** One tensor of the record; experts are read one by one into their stack. */
async function readParam(
  checkpoint: Checkpoint,
  { path, shape, names }: NamedParam,
  matrixDtype: "f32" | "bf16",
): Promise<Tensor> {
  const dtype = shape.length === 1 || path.endsWith(".gate") ? "f32" : matrixDtype;
  const size = shape.reduce((product, n) => product * n, dtypeBytes(dtype));
  const bytes = new Uint8Array(size);
  for (const [i, name] of names.entries()) {
    const values = await checkpoint.readF32(name);
    bytes.set(fromF32(values, dtype), (size / names.length) * i);
  }
  return fromBytes(bytes, shape, dtype);
}

/** The record of shapes with the tensors in their places. */
function fillShapes(shapes: unknown, tensors: Map<string, Tensor>, path: string): unknown {
  const tensor = tensors.get(path);
  if (tensor !== undefined || shapes === null) return tensor ?? null;
  const inner = (key: string | number) => (path === "" ? String(key) : `${path}.${key}`);
  if (Array.isArray(shapes)) return shapes.map((s, i) => fillShapes(s, tensors, inner(i)));
  return Object.fromEntries(
    Object.entries(shapes as object).map(([key, s]) => [key, fillShapes(s, tensors, inner(key))]),
  );
}

export interface SaveOptions
  extends Pick<WriteOptions, "extraFiles" | "maxShardBytes" | "overwrite"> {
  /** What weights are stored as; each as it is in memory unless told. Correction biases stay f32. */
  readonly dtype?: "f32" | "bf16";
}

/**
 * Writes a model folder that transformers, vLLM and {@link loadModel} read: config.json,
 * generation_config.json and the weights, experts apart. All or nothing; tensors leave the device
 * one at a time.
 * @throws CheckpointError when the folder exists (without `overwrite`) or cannot be written
 */
export async function saveModel(
  dir: string | Staging,
  config: ModelConfig,
  params: ModelParams,
  { dtype, ...options }: SaveOptions = {},
): Promise<void> {
  const tensors = new Map(treePaths(params));
  const sources: TensorSource[] = [];
  for (const { path, shape, names, copies } of namedParams(config)) {
    const tensor = tensors.get(path);
    if (tensor?.shape.join() !== shape.join()) {
      const found = tensor ? `[${tensor.shape.join(", ")}]` : "absent";
      throw new Error(
        `saveModel: ${path} should be [${shape.join(", ")}] by the config, is ${found}`,
      );
    }
    const stored = path.endsWith("eScoreCorrectionBias") ? "f32" : (dtype ?? tensor.dtype);
    const each = names.length > 1 ? shape.slice(1) : shape;
    // Read when the first part is written, and dropped after the last.
    let whole: Promise<Uint8Array> | undefined;
    for (const [i, name] of [...names, ...copies].entries()) {
      const part = i % names.length;
      const data = async () => {
        whole ??= bytesAs(tensor, stored);
        const bytes = await whole;
        if (i === names.length + copies.length - 1) whole = undefined;
        const size = bytes.length / names.length;
        return bytes.subarray(part * size, (part + 1) * size);
      };
      sources.push({ name, dtype: stored, shape: each, data });
    }
  }
  const narrow = dtype === "bf16" || (dtype === undefined && params.embedTokens.dtype === "bf16");
  await writeCheckpoint(dir, sources, {
    ...options,
    config: toHuggingFaceConfig(config, narrow ? "bfloat16" : "float32"),
    generationConfig: {
      bos_token_id: config.bosTokenId,
      eos_token_id: config.eosTokenIds.length === 1 ? config.eosTokenIds[0] : config.eosTokenIds,
    },
  });
}

async function bytesAs(tensor: Tensor, dtype: Tensor["dtype"]): Promise<Uint8Array> {
  const bytes = await tensor.bytes();
  return tensor.dtype === dtype ? bytes : fromF32(toF32(bytes, tensor.dtype), dtype);
}
