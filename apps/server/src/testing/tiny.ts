/** A server's parts over a tiny model with random weights, for the tests. */
import { wasmBackend } from "@dsv3/backend-wasm";
import { initParams, type ModelConfig, PRESETS } from "@dsv3/model";
import { Engine, type EngineOptions } from "@dsv3/serve";
import { disposeTree, key, setBackend } from "@dsv3/tensor";
import { type Tokenizer, trainBpe } from "@dsv3/tokenizer";
import { afterAll, beforeAll } from "vitest";
import { type App, type AppOptions, createApp } from "../app.ts";

export const tokenizer: Tokenizer = trainBpe(["a text of some words, and then some more words"], {
  vocabSize: 320,
});

const config: ModelConfig = {
  ...PRESETS.tiny,
  vocabSize: tokenizer.vocabSize,
  numHiddenLayers: 2,
  maxPositionEmbeddings: 512,
  bosTokenId: tokenizer.specialId("bos"),
  eosTokenIds: [tokenizer.specialId("eos")],
};

export interface Tiny {
  readonly engine: Engine;
  readonly app: App;
}

/** Sets up backend and weights for a file's tests; the function makes applications over them. */
export function tiny(): (options?: Partial<AppOptions>, engine?: Partial<EngineOptions>) => Tiny {
  const engines: Engine[] = [];
  let backend: Awaited<ReturnType<typeof wasmBackend>>;
  let params: EngineOptions["params"];
  beforeAll(async () => {
    backend = await wasmBackend({ threads: 1 });
    setBackend(backend);
    params = initParams(config, key(3));
  });
  afterAll(async () => {
    for (const engine of engines) await engine.dispose();
    disposeTree(params);
    backend.dispose();
  });
  return (options = {}, settings = {}) => {
    const engine = new Engine({ params, config, tokenizer, checkBlocks: true, ...settings });
    engines.push(engine);
    return { engine, app: createApp({ engine, tokenizer, model: "tiny", ...options }) };
  };
}

/** A POST of JSON to an application without a port. */
export async function post(
  app: App,
  path: string,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<Response> {
  return app.fetch(
    new Request(`http://server${path}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
    }),
  );
}
