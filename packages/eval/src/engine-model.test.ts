import { wasmBackend } from "@dsv3/backend-wasm";
import { forward, initParams, type ModelConfig, type ModelParams, preset } from "@dsv3/model";
import { disposeTree, key, setBackend, tensor } from "@dsv3/tensor";
import { type Tokenizer, trainBpe } from "@dsv3/tokenizer";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { EngineModel, type EngineModelOptions } from "./engine-model.ts";
import { evaluate } from "./evaluate.ts";
import { encodePair, rollingWindows } from "./language-model.ts";
import { listSource, taskOf } from "./testing/documents.ts";

const config: ModelConfig = { ...preset("tiny"), vocabSize: 320, maxPositionEmbeddings: 192 };
const text = "Question: what is near the sea? Answer: the shore, and then some more of the sea.";

let tokenizer: Tokenizer;
let params: ModelParams;
let dispose: () => void;
const models: EngineModel[] = [];

beforeAll(async () => {
  tokenizer = trainBpe([text], { vocabSize: 320 });
  const backend = await wasmBackend({ threads: 1 });
  setBackend(backend);
  params = initParams(config, key(3));
  dispose = () => {
    disposeTree(params);
    backend.dispose();
  };
});
afterAll(async () => {
  for (const model of models) await model.dispose();
  dispose();
});

function engineModel(options: Partial<EngineModelOptions> = {}): EngineModel {
  const model = new EngineModel({ params, config, tokenizer, ...options });
  models.push(model);
  return model;
}

/** Σ log softmax and greediness of a continuation, in float64 from the logits of the model's forward. */
async function direct(context: readonly number[], continuation: readonly number[]) {
  const whole = [...context, ...continuation];
  const inputs = Int32Array.from(whole.slice(0, -1));
  using ids = tensor(inputs, { shape: [1, inputs.length], dtype: "i32" });
  const { logits } = forward(params, ids, config);
  const values = await logits.data();
  logits.dispose();
  let [logprob, isGreedy] = [0, true];
  for (let at = context.length; at < whole.length; at++) {
    const start = (at - 1) * config.vocabSize;
    const row = Array.from({ length: config.vocabSize }, (_, v) => Number(values[start + v]));
    const highest = Math.max(...row);
    const total = row.reduce((sum, logit) => sum + Math.exp(logit - highest), 0);
    logprob += (row[whole[at] as number] as number) - highest - Math.log(total);
    isGreedy &&= row.indexOf(highest) === whole[at];
  }
  return { logprob, isGreedy };
}

describe("EngineModel", () => {
  it("scores as the model's forward does, also behind a prefix that others have", async () => {
    const model = engineModel({ batch: 4 });
    const head = `${text} `.repeat(5);
    const pairs = [
      ["", text],
      [head, "the shore"],
      [head, "the sea, and then"],
      ["Answer:", " the"],
      ["Q", "?"],
    ].map(([context, continuation]) => encodePair(model, context!, continuation!));
    const scored = await Promise.all(pairs.map((p) => model.score(p.context, p.continuation)));
    for (const [i, { context, continuation }] of pairs.entries()) {
      const expected = await direct(context, continuation);
      expect(scored[i]?.logprob).toBeCloseTo(expected.logprob, 4);
      expect(scored[i]?.isGreedy).toBe(expected.isGreedy);
    }
    expect(model.stats().prefixHits).toBeGreaterThan(0);
  });

  it("reads as many tokens as the model's context has, and predicts one after them", async () => {
    const model = engineModel();
    const tokens = Array.from({ length: 400 }, (_, i) => 2 + ((i * 37) % 300));
    const windows = rollingWindows(tokens, model.prefixToken, model.maxLength);
    expect(
      windows.map(({ context, continuation }) => [context.length, continuation.length]),
    ).toEqual([
      [1, 192],
      [1, 192],
      [177, 16],
    ]);
    for (const { context, continuation } of windows) {
      const { logprob } = await model.score(context, continuation);
      expect(Math.abs(logprob - (await direct(context, continuation)).logprob)).toBeLessThan(1e-3);
    }
  });

  it("knows the likeliest tokens", async () => {
    const model = engineModel();
    const context = model.encode("Question:", true);
    const first = { logprob: -Infinity, token: -1 };
    for (let token = 2; token < 260; token += 1) {
      const { logprob } = await model.score(context, [token]);
      if (logprob > first.logprob) Object.assign(first, { logprob, token });
    }
    const [reply] = await model.generate(context, { until: [], maxTokens: 1 });
    const greedy = (await model.score(context, [first.token])).isGreedy;
    expect(greedy).toBe(reply === tokenizer.decode([first.token]));
  });

  it("stops before a stop text, and gives n answers", async () => {
    const model = engineModel();
    const prompt = model.encode("Question:", true);
    const [whole] = await model.generate(prompt, { until: [], maxTokens: 12 });
    const cut = whole!.slice(2, 4);
    const [short] = await model.generate(prompt, { until: [cut], maxTokens: 12 });
    expect(short).toBe(whole!.slice(0, whole!.indexOf(cut)));
    const settings = { until: [], maxTokens: 4, n: 3, temperature: 1, seed: 1 };
    const answers = await model.generate(prompt, settings);
    expect(answers).toHaveLength(3);
    expect(await model.generate(prompt, settings)).toEqual(answers);
  });

  it("evaluates a task to what direct computation gives", async () => {
    const record = { goal: "near the sea", sol1: "the shore", sol2: "some of the sea", label: 0 };
    const task = taskOf("piqa");
    const samples: number[] = [];
    const model = engineModel();
    await evaluate({
      tasks: [task],
      model,
      source: listSource({ piqa: { validation: [record] } }),
      onSample: ({ answer }) => {
        for (const response of answer.responses) samples.push((response as [number])[0]);
      },
    });
    for (const [i, choice] of [record.sol1, record.sol2].entries()) {
      const pair = encodePair(model, `Question: ${record.goal}\nAnswer:`, ` ${choice}`);
      const expected = await direct(pair.context, pair.continuation);
      expect(samples[i]).toBeCloseTo(expected.logprob, 4);
    }
  });

  it("refuses a length that the model does not have", () => {
    expect(() => engineModel({ maxLength: 193 })).toThrow("up to the model's context of 192");
    expect(() => engineModel({ maxLength: 0 })).toThrow(RangeError);
  });
});
