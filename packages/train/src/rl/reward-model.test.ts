import { wasmBackend } from "@dsv3/backend-wasm";
import { type Backend, disposeTree, memory, setBackend } from "@dsv3/tensor";
import { afterAll, beforeAll, expect, test } from "vitest";
import { RewardModel } from "./reward-model.ts";
import { config, initial, tokenizer } from "./testing/game.ts";

let backend: Backend;
beforeAll(async () => {
  backend = await wasmBackend({ threads: 1 });
  setBackend(backend);
});
afterAll(() => backend.dispose());

const words = ["yes", "sure", "fine", "good", "well", "true"];
const pair = (word: string, i: number) => ({
  prompt: `question ${i}`,
  chosen: `${word}!`,
  rejected: `${word}?`,
});
const options = { steps: 200, learningRate: 0.3, weightDecay: 0 };

test("a head learns which replies are preferred, also to questions that it has not seen", async () => {
  const params = await initial();
  const before = memory().liveBytes;
  {
    using fresh = new RewardModel(params, config, tokenizer);
    expect(await fresh.score("a", "b")).toBe(0);
    using model = await RewardModel.train(params, config, tokenizer, words.map(pair), options);
    const reward = model.asReward();
    const judged = await Promise.all(
      ["calm", "sea", "ship", "wave", "sail", "wind", "rope", "deck", "mast"].map(
        async (word, i) => {
          const of = (text: string) =>
            reward({ prompt: `other ${i}` }, { text, tokens: 1, finished: true });
          const [good, bad] = await Promise.all([of(`${word}!`), of(`${word}?`)]);
          return good > bad;
        },
      ),
    );
    expect(judged).toEqual(judged.map(() => true));
    // The same alone as among others, and from saved weights.
    using saved = new RewardModel(params, config, tokenizer, model.weight);
    const [one] = await Promise.all([saved.score("a", "b"), saved.score("c", "d")]);
    expect(await model.score("a", "b")).toBeCloseTo(one, 5);
  }
  expect(memory().liveBytes).toBe(before);
  disposeTree(params);
}, 60_000);

test("refuses no pairs, and a head of another size", async () => {
  const params = await initial();
  await expect(RewardModel.train(params, config, tokenizer, [], options)).rejects.toThrow(
    "no pairs",
  );
  expect(() => new RewardModel(params, config, tokenizer, new Float32Array(3))).toThrow(
    "3 weights, but the model's hidden state 8",
  );
  disposeTree(params);
});
