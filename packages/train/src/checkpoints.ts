/**
 * Checkpoints of a run: `checkpoints/step-N/` is a Hugging Face model folder with the optimiser's
 * moments and the state of everything else beside the weights. Each appears whole or not at all.
 */
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { loadModel, type ModelConfig, saveModel, toHuggingFaceConfig } from "@dsv3/model";
import {
  disposeTree,
  dtypeBytes,
  fromBytes,
  type Tensor,
  tensor,
  treeLeaves,
  treeMap,
  treePaths,
} from "@dsv3/tensor";
import type { Moments } from "./adamw.ts";
import type { TrainState } from "./step.ts";

/** What of a run is neither weights nor moments; plain JSON. */
export interface Progress {
  /** Optimiser steps done. */
  readonly step: number;
  /** Where the data stands. */
  readonly position: unknown;
  readonly tokens: number;
  /** Seconds of training so far. */
  readonly seconds: number;
}

interface StateFile {
  readonly progress: Progress;
  readonly momentDtype: "f32" | "bf16";
  /** Whether the moving average of the weights follows the moments in optimizer.bin. */
  readonly ema?: boolean;
  /** Of all that the run goes on from: configuration, this file, weights, moments and average. */
  readonly sha256: string;
}

const STATE = "training-state.json";
const MOMENTS = "optimizer.bin";
/** Files of a checkpoint that only training goes on from; the others are a model folder. */
export const TRAINING_FILES: readonly string[] = [STATE, MOMENTS];
const NAME = /^step-(\d+)$/;
/** What @dsv3/checkpoint calls a folder until it is whole, or until its replacement is in place. */
const UNFINISHED = /^\.step-\d+\.[a-z]+-/;

/** Steps that have a checkpoint, newest first. */
export async function listCheckpoints(run: string): Promise<number[]> {
  const names = await readdir(join(run, "checkpoints")).catch(() => [] as string[]);
  const steps = names.flatMap((n) => NAME.exec(n)?.[1] ?? []).map(Number);
  return steps.sort((a, b) => b - a);
}

export function checkpointFolder(run: string, step: number): string {
  return join(run, "checkpoints", `step-${step}`);
}

/**
 * Saves a state and removes all but the newest `keep` checkpoints, and what a run that was killed
 * while it saved has left.
 */
export async function saveTraining(
  run: string,
  config: ModelConfig,
  state: TrainState,
  progress: Progress,
  keep: number,
  extraFiles: Readonly<Record<string, Uint8Array>> = {},
): Promise<void> {
  await removeUnfinished(run);
  const moments = treeLeaves(state.moments);
  const parts: Uint8Array[] = [];
  for (const t of [...moments, ...treeLeaves(state.ema)]) parts.push(await t.bytes());
  const bytes = Buffer.concat(parts);
  const described: Omit<StateFile, "sha256"> = {
    progress,
    momentDtype: (moments[0] as Tensor).dtype as StateFile["momentDtype"],
    ...(state.ema ? { ema: true } : {}),
  };
  const sha256 = await hashOf(config, described, state.params, bytes);
  const file: StateFile = { ...described, sha256 };
  await saveModel(checkpointFolder(run, progress.step), config, state.params, {
    extraFiles: {
      ...extraFiles,
      [MOMENTS]: bytes,
      [STATE]: Buffer.from(`${JSON.stringify(file, null, 2)}\n`),
    },
    overwrite: true,
  });
  for (const old of (await listCheckpoints(run)).slice(keep)) {
    await rm(checkpointFolder(run, old), { recursive: true, force: true });
  }
}

/** A run has one writer at a time, so whatever is not finished never will be. */
async function removeUnfinished(run: string): Promise<void> {
  const folder = join(run, "checkpoints");
  await mkdir(folder, { recursive: true });
  for (const name of await readdir(folder)) {
    if (UNFINISHED.test(name)) await rm(join(folder, name), { recursive: true, force: true });
  }
}

/**
 * The newest checkpoint that is whole. Damaged ones are passed over and reported.
 * @returns undefined when there is none
 */
export async function loadTraining(
  run: string,
  onDamaged: (step: number, reason: string) => void,
): Promise<{ config: ModelConfig; state: TrainState; progress: Progress } | undefined> {
  for (const step of await listCheckpoints(run)) {
    try {
      return await loadOne(checkpointFolder(run, step));
    } catch (error) {
      onDamaged(step, error instanceof Error ? error.message : String(error));
    }
  }
  return undefined;
}

async function loadOne(folder: string) {
  const { sha256, ...file } = await readState(join(folder, STATE));
  const bytes = await readFile(join(folder, MOMENTS));
  const { config, params } = await loadModel(folder);
  if ((await hashOf(config, file, params, bytes)) !== sha256) {
    disposeTree(params);
    throw new Error(`${folder} is damaged: its hash is not the one in ${STATE}`);
  }
  let offset = 0;
  const read = (like: Tensor, dtype: StateFile["momentDtype"] = file.momentDtype): Tensor => {
    const size = like.size * dtypeBytes(dtype);
    const part = new Uint8Array(bytes.subarray(offset, offset + size));
    offset += size;
    return fromBytes(part, like.shape, dtype);
  };
  const moments = {
    first: treeMap((p) => read(p), params),
    second: treeMap((p) => read(p), params),
  } as Moments<typeof params>;
  const ema = file.ema ? (treeMap((p) => read(p, "f32"), params) as typeof params) : undefined;
  if (offset !== bytes.length) {
    throw new Error(
      `${join(folder, MOMENTS)} has ${bytes.length} bytes; ${treePaths([moments, ema]).length} tensors need ${offset}`,
    );
  }
  const state: TrainState = {
    ...{ params, moments, step: tensor(file.progress.step) },
    ...(ema ? { ema } : {}),
  };
  return { config, state, progress: file.progress };
}

async function readState(file: string): Promise<StateFile> {
  const text = await readFile(file, "utf8");
  try {
    return JSON.parse(text) as StateFile;
  } catch (cause) {
    throw new Error(`${file} is damaged: it is no JSON`, { cause });
  }
}

/** Of what {@link StateFile} says, in the form that reading gives back exactly. */
async function hashOf(
  config: ModelConfig,
  file: Omit<StateFile, "sha256">,
  params: TrainState["params"],
  moments: Uint8Array,
): Promise<string> {
  const hash = createHash("sha256");
  hash.update(JSON.stringify([toHuggingFaceConfig(config), file]));
  for (const t of treeLeaves(params)) hash.update(await t.bytes());
  return hash.update(moments).digest("hex");
}
