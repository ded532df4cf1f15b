import {
  compile,
  disposeTree,
  key,
  memory,
  setBackend,
  type Tensor,
  treeLeaves,
  treePaths,
} from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { beforeAll, expect, test } from "vitest";
import { compressParams, expandParams } from "./compress.ts";
import { generate } from "./generate.ts";
import { initParams, type ModelParams } from "./params.ts";
import { PRESETS } from "./presets.ts";

const config = {
  ...PRESETS.tiny,
  vocabSize: 64,
  hiddenSize: 160, // a run of 128 and a part of one
  intermediateSize: 24,
  moeIntermediateSize: 8,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  initializerRange: 0.2,
};
let params: ModelParams;
beforeAll(() => {
  setBackend(referenceBackend());
  using seed = key(4);
  params = initParams(config, seed);
});

test("weights come back within half a step of their run's largest; some are kept as they are", async () => {
  const before = memory().liveBuffers;
  const compressed = compressParams(params);
  const expand = compile(expandParams);
  const expanded = expand(compressed) as ModelParams;
  const wanted = new Map(treePaths(params));
  let rounded = 0;
  for (const [path, t] of treePaths(expanded)) {
    const original = wanted.get(path) as Tensor;
    expect([path, t.shape]).toEqual([path, original.shape]);
    const [a, b] = [await t.data(), await original.data()] as [Float32Array, Float32Array];
    if (/norm|Norm|embedTokens|kvBProj|gate$|Bias/.test(path)) {
      expect(a, path).toEqual(b);
      continue;
    }
    rounded++;
    const columns = t.shape.at(-1) as number;
    for (let start = 0; start < a.length; ) {
      const end = Math.min(start + 128, start + columns - (start % columns));
      const run = b.subarray(start, end);
      const half = Math.max(...run.map(Math.abs)) / 127 / 2;
      expect(Math.max(...run.map((x, i) => Math.abs(x - a[start + i]!)))).toBeLessThanOrEqual(
        half * 1.001,
      );
      start = end;
    }
  }
  expect(rounded).toBeGreaterThan(20);
  const bytes = treeLeaves(compressed).reduce(
    (sum, t) => sum + t.size * (t.dtype === "i8" ? 1 : 4),
    0,
  );
  expect(bytes).toBeLessThan(0.5 * treeLeaves(params).reduce((sum, t) => sum + 4 * t.size, 0));

  // Decoding reads the 8 bits themselves, and gives what the expanded weights give.
  const options = { maxNewTokens: 12, stopIds: [] };
  const prompts = [[5, 60, 3], [17]];
  expect(await generate(compressed, config, prompts, options)).toEqual(
    await generate(expanded, config, prompts, options),
  );
  expand.dispose();
  disposeTree([compressed, expanded]);
  expect(memory().liveBuffers).toBe(before);
});
