/** Models in the memory of this machine. */
import { readdir, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { openCheckpoint } from "@dsv3/checkpoint";
import {
  cacheBytesPerToken,
  checkedConfig,
  countParameters,
  type LoadedModel as LoadedWeights,
  loadModel,
} from "@dsv3/model";
import { Engine, type EngineOptions } from "@dsv3/serve";
import { disposeTree } from "@dsv3/tensor";
import type { Tokenizer } from "@dsv3/tokenizer";
import { loadTokenizer } from "@dsv3/tokenizer/node";
import { Embedder, type Pooling } from "./embedder.ts";
import type { LoadedModel, ModelSource } from "./models.ts";

export interface HostOptions extends Omit<EngineOptions, "params" | "config" | "tokenizer"> {
  /** How `/v1/embeddings` makes a text of many tokens one vector: `mean` unless given. */
  readonly pooling?: Pooling;
}

/** An engine over weights, and what embeds. The weights stay the caller's. */
export function hostModel(
  { params, config, tokenizer }: LoadedWeights & { readonly tokenizer: Tokenizer },
  { pooling = "mean", ...options }: HostOptions = {},
): LoadedModel {
  const engine = new Engine({ ...options, params, config, tokenizer });
  const { maxContext } = engine;
  const { maxQueued = 256 } = options;
  const embedder = new Embedder({ params, config, pooling, maxContext, maxQueued });
  return {
    engine,
    tokenizer,
    embedder,
    async dispose() {
      await engine.dispose();
      await embedder.dispose();
    },
  };
}

/**
 * A Hugging Face folder as a model that can be loaded, onto the backend that is set by then. What
 * config.json says is read now, and the names of its tensors are checked; nothing else.
 * @param name the folder's own unless given
 * @throws ConfigError, CheckpointError for a folder that holds no such model
 */
export async function folderModel(
  dir: string,
  name: string = basename(resolve(dir)),
  options: HostOptions = {},
): Promise<ModelSource> {
  const mtp = options.speculate ?? false;
  const config = checkedConfig(await openCheckpoint(dir), { mtp });
  const { maxContext = config.maxPositionEmbeddings } = options;
  const { cacheTokens = 4 * maxContext, computeDtype = "f32", cacheDtype = computeDtype } = options;
  const { total, mtp: modules } = countParameters(config);
  // Modules that guess have a cache each, as layers have.
  const numHiddenLayers = config.numHiddenLayers + (mtp ? config.numNextnPredictLayers : 0);
  const cached = cacheBytesPerToken({ ...config, numHiddenLayers }, cacheDtype);
  return {
    name,
    maxContext,
    bytes: 4 * (total + modules) + cacheTokens * cached,
    async load() {
      const tokenizer = await loadTokenizer(dir);
      const weights = await loadModel(dir, { mtp });
      const free = () => disposeTree(weights.params);
      try {
        const model = hostModel({ ...weights, tokenizer }, options);
        return { ...model, dispose: () => model.dispose().finally(free) };
      } catch (error) {
        free();
        throw error;
      }
    },
  };
}

/** The model folders that a path means: itself, or those in it. @throws Error if there are none */
export async function modelFolders(path: string): Promise<string[]> {
  if (await isModel(path)) return [path];
  const names = await readdir(path).catch((cause) => {
    throw new Error(`${path} is no folder that can be read`, { cause });
  });
  const inner = names.toSorted().map((name) => join(path, name));
  const folders: string[] = [];
  for (const folder of inner) if (await isModel(folder)) folders.push(folder);
  if (folders.length > 0) return folders;
  throw new Error(`${path} is no model, and holds none: there is no config.json in it`);
}

async function isModel(folder: string): Promise<boolean> {
  return stat(join(folder, "config.json")).then(
    (found) => found.isFile(),
    () => false,
  );
}
