/** A server's parts over a tiny model with random weights, for the tests. */
import { wasmBackend } from "@dsv3/backend-wasm";
import { initParams, type ModelConfig, type ModelParams, PRESETS } from "@dsv3/model";
import type { Engine } from "@dsv3/serve";
import { disposeTree, key, setBackend } from "@dsv3/tensor";
import { type Tokenizer, trainBpe } from "@dsv3/tokenizer";
import { afterAll, beforeAll } from "vitest";
import { type App, type AppOptions, createApp } from "../app.ts";
import { type HostOptions, hostModel } from "../host.ts";
import { type LoadedModel, Models } from "../models.ts";

export const tokenizer: Tokenizer = trainBpe(["a text of some words, and then some more words"], {
  vocabSize: 320,
});

export const config: ModelConfig = {
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

/** Sets up backend and weights for a file's tests; the function makes models in memory. */
export function tinyModels(): (settings?: HostOptions) => LoadedModel {
  const models: LoadedModel[] = [];
  let backend: Awaited<ReturnType<typeof wasmBackend>>;
  let params: ModelParams;
  beforeAll(async () => {
    backend = await wasmBackend({ threads: 1 });
    setBackend(backend);
    params = initParams(config, key(3));
  });
  afterAll(async () => {
    for (const model of models) await model.dispose();
    disposeTree(params);
    backend.dispose();
  });
  return (settings = {}) => {
    const model = hostModel({ params, config, tokenizer }, { checkBlocks: true, ...settings });
    models.push(model);
    return model;
  };
}

/** The same, as applications over one model. */
export function tiny(): (options?: Partial<AppOptions>, settings?: HostOptions) => Tiny {
  const load = tinyModels();
  return (options = {}, settings = {}) => {
    const first = load(settings);
    let next: LoadedModel | null = first;
    const take = async () => {
      const model = next ?? load(settings);
      next = null;
      return model;
    };
    const models = new Models([{ name: "tiny", maxContext: 512, load: take }]);
    return { engine: first.engine, app: createApp({ models, ...options }) };
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
