import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  CheckpointError,
  openCheckpoint,
  type TensorSource,
  writeCheckpoint,
} from "@dsv3/checkpoint";
import {
  add,
  cast,
  disposeTree,
  key,
  memory,
  setBackend,
  type Tensor,
  treeMap,
  treePaths,
} from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { initParams, type ModelParams } from "./params.ts";
import { denseVariant, PRESETS } from "./presets.ts";
import { loadModel, saveModel } from "./weights.ts";

const config = {
  ...PRESETS.tiny,
  vocabSize: 64,
  hiddenSize: 16,
  intermediateSize: 24,
  moeIntermediateSize: 8,
  numHiddenLayers: 2,
  numNextnPredictLayers: 2,
  numAttentionHeads: 2,
};
let params: ModelParams;
beforeAll(() => {
  setBackend(referenceBackend());
  using seed = key(5);
  params = initParams(config, seed);
});

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-model-"));
});
afterEach(() => rm(dir, { recursive: true }));

// Trees that a test makes are freed when it ends: were they left to the garbage collector, it
// could take them while a later test counts buffers.
const made: unknown[] = [];
function keep<T>(tree: T): T {
  made.push(tree);
  return tree;
}
afterEach(() => {
  for (const tree of made.splice(0)) disposeTree(tree);
});

async function expectSame(actual: ModelParams, expected: ModelParams): Promise<void> {
  const wanted = new Map(treePaths(expected));
  const found = treePaths(actual);
  expect(found.map(([path]) => path)).toEqual([...wanted.keys()]);
  for (const [path, t] of found) {
    const want = wanted.get(path)!;
    expect([path, t.dtype, t.shape]).toEqual([path, want.dtype, want.shape]);
    expect(await t.bytes(), path).toEqual(await want.bytes());
  }
}

test("a saved model loads bit for bit, MTP modules included", async () => {
  await saveModel(join(dir, "m"), config, params, { maxShardBytes: 20_000 });
  const shards = (await readdir(join(dir, "m"))).filter((f) => f.endsWith(".safetensors"));
  expect(shards.length).toBeGreaterThan(2);
  const shares: number[] = [];
  const loaded = await loadModel(join(dir, "m"), { onProgress: (s) => shares.push(s) });
  expect(loaded.config).toEqual(config);
  await expectSame(keep(loaded.params), params);
  expect(shares.at(-1)).toBe(1);
  expect(shares).toEqual(shares.toSorted((a, b) => a - b));
});

test("a dense model without query latents, too", async () => {
  const dense = { ...denseVariant(config), qLoraRank: null };
  const weights = keep(initParams(dense, keep(key(6))));
  await saveModel(join(dir, "m"), dense, weights);
  const loaded = await loadModel(join(dir, "m"));
  expect(loaded.config).toEqual(dense);
  await expectSame(keep(loaded.params), weights);
});

test("bf16 halves the folder; norms, router and biases come back as f32", async () => {
  await saveModel(join(dir, "m"), config, params, { dtype: "bf16" });
  const stored = (await openCheckpoint(join(dir, "m"))).tensors;
  const odd = [...stored.values()].filter((t) => t.dtype !== "bf16").map((t) => t.name);
  expect(odd.every((name) => name.endsWith("e_score_correction_bias"))).toBe(true);
  const { params: loaded } = await loadModel(join(dir, "m"), { dtype: "bf16" });
  for (const [path, t] of treePaths(keep(loaded))) {
    expect(t.dtype, path).toBe(t.rank === 1 || path.endsWith(".gate") ? "f32" : "bf16");
  }
  const half = (tree: ModelParams) =>
    keep(treeMap((t: Tensor) => cast(t, "bf16"), tree)) as ModelParams;
  await expectSame(half(loaded), half(params));
});

test("MTP modules can be left out", async () => {
  await saveModel(join(dir, "m"), config, params);
  const loaded = await loadModel(join(dir, "m"), { mtp: false });
  expect(loaded.config).toEqual({ ...config, numNextnPredictLayers: 0 });
  await expectSame(keep(loaded.params), { ...params, mtp: [] });
});

describe("refuses, before anything is on the device,", () => {
  /** Saves the model with its tensors changed, and tries to load it. */
  async function loadChanged(
    change: (tensors: TensorSource[]) => TensorSource[],
    hf: (config: Record<string, unknown>) => Record<string, unknown> | undefined = (c) => c,
  ): Promise<unknown> {
    await saveModel(join(dir, "m"), config, params);
    const saved = await openCheckpoint(join(dir, "m"));
    const tensors = [...saved.tensors.values()].map(({ name, dtype, shape }) => ({
      name,
      dtype,
      shape,
      data: () => saved.read(name),
    }));
    const options = { config: hf({ ...saved.config }) };
    await writeCheckpoint(join(dir, "changed"), change(tensors), options);
    const before = memory().liveBuffers;
    const error = await loadModel(join(dir, "changed")).catch((e: unknown) => e);
    expect(memory().liveBuffers).toBe(before);
    return error;
  }
  const bias = "model.layers.1.mlp.gate.e_score_correction_bias";
  const change = (name: string, to: Partial<TensorSource>) => (tensors: TensorSource[]) =>
    tensors.map((t) => (t.name === name ? { ...t, ...to } : t));

  test("a missing tensor", async () => {
    const name = "model.layers.1.mlp.experts.7.up_proj.weight";
    const error = await loadChanged((all) => all.filter((t) => t.name !== name));
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error).toMatchObject({ tensor: name });
    expect(String(error)).toContain(`tensor "${name}": is missing; config.json asks for it`);
  });

  test("tensors without a place", async () => {
    const one = { dtype: "f32" as const, shape: [1], data: new Uint8Array(4) };
    const error = await loadChanged((all) => [
      ...all,
      { name: "model.layers.0.mlp.gate.weight", ...one },
      { name: "model.rotary.inv_freq", ...one },
    ]);
    expect(String(error)).toContain(
      'tensor "model.layers.0.mlp.gate.weight": has no place in the model that config.json describes (nor have 1 more)',
    );
  });

  test("a layer more than config.json tells of", async () => {
    const same = (tensors: TensorSource[]) => tensors;
    const fewer = await loadChanged(same, (c) => ({ ...c, num_nextn_predict_layers: 0 }));
    expect(String(fewer)).toMatch(/"model\.layers\.[23]\.[^"]+": has no place/);
  });

  test("another shape", async () => {
    const error = await loadChanged(change(bias, { shape: [2, 4] }));
    expect(String(error)).toContain(
      `tensor "${bias}": has shape [2, 4], but config.json makes it [8]`,
    );
  });

  test("integers", async () => {
    const error = await loadChanged(change(bias, { dtype: "i32" }));
    expect(String(error)).toContain(`tensor "${bias}": is i32; weights are one of f64, f32`);
  });

  test("an MTP head of its own", async () => {
    const name = "model.layers.3.shared_head.head.weight";
    const error = await loadChanged(change(name, { data: new Uint8Array(64 * 16 * 4) }));
    expect(String(error)).toContain(`tensor "${name}": differs from lm_head.weight`);
  });

  test("a folder without config.json, or with a bad one", async () => {
    const same = (tensors: TensorSource[]) => tensors;
    expect(String(await loadChanged(same, () => undefined))).toContain("config.json: is not there");
    await rm(join(dir, "changed"), { recursive: true });
    await rm(join(dir, "m"), { recursive: true });
    const error = await loadChanged(same, (c) => ({ ...c, topk_group: 5 }));
    expect(String(error)).toContain("config: topk_group: 5 groups of n_group = 4");
  });
});

test("a truncated file is refused by name", async () => {
  await saveModel(join(dir, "m"), config, params);
  const file = join(dir, "m", "model.safetensors");
  await writeFile(file, (await readFile(file)).subarray(0, -100));
  await expect(loadModel(join(dir, "m"))).rejects.toThrow("model.safetensors");
});

test("saving refuses what does not fit the config, and an existing folder, leaving it alone", async () => {
  const wide = { ...config, vocabSize: 65 };
  await expect(saveModel(join(dir, "m"), wide, params)).rejects.toThrow(
    "embedTokens should be [65, 16] by the config, is [64, 16]",
  );
  await expect(saveModel(join(dir, "m"), config, { ...params, mtp: [] })).rejects.toThrow(
    "mtp.0.enorm should be [16] by the config, is absent",
  );
  expect(await readdir(dir)).toEqual([]);

  await saveModel(join(dir, "m"), config, params);
  const other = { ...params, norm: keep(add(params.norm, 1)) };
  await expect(saveModel(join(dir, "m"), config, other)).rejects.toThrow("exists already");
  await expectSame(keep((await loadModel(join(dir, "m"))).params), params);
  await saveModel(join(dir, "m"), config, other, { overwrite: true });
  await expectSame(keep((await loadModel(join(dir, "m"))).params), other);
});

test("fresh and loaded models take the memory of their weights, and no more", async () => {
  const start = memory().liveBuffers;
  using seed = key(1);
  const fresh = initParams(config, seed);
  expect(memory().liveBuffers).toBe(start + 1 + treePaths(fresh).length);
  disposeTree(fresh);
});

test("a loaded model takes the memory of its weights, and gives it back", async () => {
  await saveModel(join(dir, "m"), config, params);
  const before = memory().liveBuffers;
  const { params: loaded } = await loadModel(join(dir, "m"));
  expect(memory().liveBuffers).toBe(before + treePaths(loaded).length);
  disposeTree(loaded);
  expect(memory().liveBuffers).toBe(before);
});
