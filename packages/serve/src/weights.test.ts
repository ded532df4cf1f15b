import { forward, initParams, type ModelParams } from "@dsv3/model";
import { disposeTree, key, tensor } from "@dsv3/tensor";
import { expect, test } from "vitest";
import type { GenerationRequest } from "./request.ts";
import { config, engines, prompt } from "./testing/tiny.ts";

const { params, make } = engines();
const request: GenerationRequest = { prompt: prompt(140), maxTokens: 20, seed: 4, ignoreEos: true };

test("new weights answer as an engine made with them, and find nothing of the old ones", async () => {
  const newer = initParams(config, key(8));
  const fresh = make({ params: newer, speculate: true });
  const expected = (await fresh.generate(request)).choices;

  const first = initParams(config, key(9));
  const engine = make({ params: first, speculate: true });
  expect((await engine.generate(request)).choices).not.toEqual(expected);
  disposeTree(first); // as a training step does that makes the new ones in their place
  await engine.setParams(newer);
  const { choices, usage } = await engine.generate(request);
  expect(choices).toEqual(expected);
  expect(usage.cachedTokens).toBe(0);
  await engine.setParams(params());
  await engine.setParams(newer);
  expect((await engine.generate(request)).choices).toEqual(expected);
  await Promise.all([engine.dispose(), fresh.dispose()]);
  disposeTree(newer);
}, 30_000);

test("weights stay while answers run or wait, and come once they are cancelled", async () => {
  const engine = make({ maxRunning: 1 });
  const controller = new AbortController();
  const answers = [1, 2].map((seed) =>
    engine.generate({ ...request, seed, maxTokens: 300, signal: controller.signal }),
  );
  const settled = Promise.allSettled(answers);
  await expect(engine.setParams(params())).rejects.toThrow("2 answers run or wait");
  controller.abort();
  await engine.setParams(params());
  expect(engine.stats()).toMatchObject({ running: 0, waiting: 0, usedBlocks: 0 });
  await settled;
  await engine.dispose();
  await expect(engine.setParams(params())).rejects.toThrow("the engine has failed");
});

test("weights of another shape are refused by name, and the old ones stay", async () => {
  const engine = make();
  const before = (await engine.generate(request)).choices;
  const norm = tensor(new Float32Array(3));
  const refused: [ModelParams, string][] = [
    [{ ...params(), norm }, "norm f32 [3] where the engine's have norm f32 [64]"],
    [{ ...params(), layers: params().layers.slice(0, 1) }, "layers.1.inputLayernorm f32 [64]"],
    [{ ...params(), mtp: [] }, "where the engine's have mtp.0"],
  ];
  for (const [wrong, message] of refused) {
    await expect(engine.setParams(wrong)).rejects.toThrow(message);
  }
  expect((await engine.generate(request)).choices).toEqual(before);
  norm.dispose();
});

test("a drawn token's log-probability is the model's own, at whatever temperature it was drawn", async () => {
  const engine = make();
  const sampling = { temperature: 0.3, topK: 5, topP: 0.9, frequencyPenalty: 1 };
  const [choice] = (await engine.generate({ ...request, ...sampling })).choices;
  const whole = [...(request.prompt as number[]), ...choice!.tokens];
  using ids = tensor(Int32Array.from(whole), { shape: [1, whole.length], dtype: "i32" });
  const values = (await forward(params(), ids, config).logits.data()) as Float32Array;
  for (const [i, { token, logprob }] of choice!.drawn.entries()) {
    const at = (request.prompt.length + i - 1) * config.vocabSize;
    const row = Array.from(values.subarray(at, at + config.vocabSize));
    const total = Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0));
    expect(logprob).toBeCloseTo(row[token]! - total, 4);
  }
});
