/** A tiny model with random weights, and engines over it, for the tests. */
import { wasmBackend } from "@dsv3/backend-wasm";
import { initParams, type ModelConfig, type ModelParams, PRESETS } from "@dsv3/model";
import { disposeTree, key, setBackend } from "@dsv3/tensor";
import { type Tokenizer, trainBpe } from "@dsv3/tokenizer";
import { afterAll, beforeAll } from "vitest";
import { Engine, type EngineOptions } from "../engine.ts";

export const config: ModelConfig = {
  ...PRESETS.tiny,
  vocabSize: 320,
  numHiddenLayers: 2,
  maxPositionEmbeddings: 512,
};

export const tokenizer: Tokenizer = trainBpe(["a text of some words, and then some more words"], {
  vocabSize: 320,
});

/** Sets a backend and weights up for a file's tests, and gives a maker of engines, all disposed at its end. */
export function engines(): {
  params(): ModelParams;
  make(options?: Partial<EngineOptions>): Engine;
} {
  let params: ModelParams;
  const made: Engine[] = [];
  let backend: Awaited<ReturnType<typeof wasmBackend>>;
  beforeAll(async () => {
    backend = await wasmBackend({ threads: 1 });
    setBackend(backend);
    params = initParams(config, key(7));
  });
  afterAll(async () => {
    for (const engine of made) await engine.dispose();
    disposeTree(params);
    backend.dispose();
  });
  return {
    params: () => params,
    make(options = {}) {
      const engine = new Engine({ params, config, tokenizer, checkBlocks: true, ...options });
      made.push(engine);
      return engine;
    },
  };
}

/** A prompt of `length` ids below 256, different for every `salt`. */
export function prompt(length: number, salt = 0): number[] {
  return Array.from(
    { length },
    (_, i) => 2 + ((i * 37 + salt * 101 + ((i * i * salt) % 89)) % 250),
  );
}
