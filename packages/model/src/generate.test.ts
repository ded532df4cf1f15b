import { key, memory, setBackend } from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { beforeAll, expect, test } from "vitest";
import { generate, generateStream } from "./generate.ts";
import { initParams, type ModelParams } from "./params.ts";
import { PRESETS } from "./presets.ts";

const config = {
  ...PRESETS.tiny,
  vocabSize: 64,
  hiddenSize: 16,
  intermediateSize: 24,
  moeIntermediateSize: 8,
  numHiddenLayers: 2,
  numNextnPredictLayers: 0,
  numAttentionHeads: 2,
  initializerRange: 0.5,
};
let params: ModelParams;
beforeAll(() => {
  setBackend(referenceBackend());
  using seed = key(11);
  params = initParams(config, seed);
});

const prompts = [[5, 60, 3], [17], [9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]];

test("a prompt continues alike alone and in company", async () => {
  const together = await generate(params, config, prompts, { maxNewTokens: 6, stopIds: [] });
  for (const [i, prompt] of prompts.entries()) {
    const [alone] = await generate(params, config, [prompt], { maxNewTokens: 6, stopIds: [] });
    expect(together[i]).toEqual(alone);
    expect(alone).toHaveLength(6);
  }
});

test("a sequence ends with a stop id, which it keeps; the others go on undisturbed", async () => {
  const free = await generate(params, config, prompts, { maxNewTokens: 6, stopIds: [] });
  const stop = free[1]![2]!;
  const stopped = await generate(params, config, prompts, { maxNewTokens: 6, stopIds: [stop] });
  for (const [i, sequence] of free.entries()) {
    const end = sequence.indexOf(stop);
    expect(stopped[i]).toEqual(end < 0 ? sequence : sequence.slice(0, end + 1));
  }
});

test("a seed gives the same tokens, another seed others", async () => {
  const sample = (seed: number) =>
    generate(params, config, prompts, { maxNewTokens: 8, temperature: 1, topP: 0.9, seed });
  const first = await sample(1);
  expect(await sample(1)).toEqual(first);
  expect(await sample(2)).not.toEqual(first);
});

test("leaves no memory behind, broken off or not", async () => {
  const before = memory().liveBuffers;
  await generate(params, config, prompts, { maxNewTokens: 3 });
  expect(memory().liveBuffers).toBe(before);
  for await (const tokens of generateStream(params, config, prompts, { maxNewTokens: 3 })) {
    expect(tokens).toHaveLength(3);
    break;
  }
  expect(memory().liveBuffers).toBe(before);
});

test.each([
  [[[5, 64]], {}, "prompt 0: token 1 is 64, outside the vocabulary of 64"],
  [[[5], [-1]], {}, "prompt 1: token 0 is -1, outside the vocabulary of 64"],
  [[[1.5]], {}, "prompt 0: token 0 is 1.5"],
  [[[5], []], {}, "prompt 1 is empty; begin with 0"],
  [[[5]], { maxNewTokens: 128 }, "prompt 0 of 1 tokens and 128 new ones exceed the context of 128"],
  [[[5]], { maxNewTokens: -1 }, "maxNewTokens must be a whole number, is -1"],
  [[[5]], { temperature: Number.NaN }, "temperature must be 0 or more, is NaN"],
  [[[5]], { topP: 0 }, "topP must be above 0, at most 1, is 0"],
])("refuses %j with %j", async (prompts, options, message) => {
  const run = generate(params, config, prompts, { maxNewTokens: 1, ...options });
  await expect(run).rejects.toThrow(message);
});

test("nothing asked, nothing done", async () => {
  expect(await generate(params, config, [], { maxNewTokens: 5 })).toEqual([]);
  expect(await generate(params, config, [[1]], { maxNewTokens: 0 })).toEqual([[]]);
});
