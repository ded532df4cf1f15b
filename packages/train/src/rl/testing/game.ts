/** For tests: a policy so small that a step takes milliseconds, and a game that it can learn. */
import type { WeightedReward } from "@dsv3/data";
import { initParams, type ModelConfig, type ModelParams } from "@dsv3/model";
import { key } from "@dsv3/tensor";
import { type Tokenizer, trainBpe } from "@dsv3/tokenizer";
import { smallConfig } from "../../testing.ts";
import type { GrpoSettings } from "../grpo-settings.ts";
import type { PromptSource } from "../rollouts.ts";

/** Bytes and control tokens. */
export const tokenizer: Tokenizer = trainBpe(["ab"], { vocabSize: 280 });

export const config: ModelConfig = {
  ...smallConfig,
  ...{ vocabSize: tokenizer.vocabSize, numNextnPredictLayers: 0 },
  eosTokenIds: [tokenizer.special.eos as number],
};

export async function initial(): Promise<ModelParams> {
  using seed = key(4);
  return initParams(config, seed);
}

export const settings: GrpoSettings = {
  ...{ steps: 4, questions: 2, group: 4, maxTokens: 5, temperature: 1 },
  ...{ form: "deepseek-v3", clipLow: 0.2, clipHigh: 0.2, beta: 0.01 },
  ...{ epochs: 1, updates: 1, batch: 8, draws: 1, dropCut: false },
  ...{ learningRate: [{ shape: "constant", steps: 0, to: 0.01 }], weightDecay: 0, clip: 1 },
  ...{ seed: 3, checkpointEvery: 1, keepCheckpoints: 2 },
};

/** Questions "a", "b", "c" … in turn. */
export function letters(): PromptSource {
  let at = 0;
  return {
    get position() {
      return at;
    },
    seek(position: number) {
      at = position;
    },
    next() {
      const prompt = String.fromCharCode(97 + (at++ % 26));
      return { ids: tokenizer.encode(prompt, { addSpecial: true }), question: { prompt } };
    },
  };
}

/** More for low bytes, so that untrained outputs differ. */
export const lowBytes: WeightedReward = {
  name: "low",
  weight: 1,
  score: (_, { text }) => {
    const bytes = new TextEncoder().encode(text);
    return bytes.length === 0 ? 0 : bytes.filter((b) => b < 96).length / bytes.length;
  },
};
