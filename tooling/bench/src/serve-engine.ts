/**
 * Our engine under load, in a process of its own: `node serve-engine.ts PART` prints one line of JSON.
 * Weights are random, everything is f32 and greedy.
 */
import { type ChildProcess, fork } from "node:child_process";
import { performance } from "node:perf_hooks";
import { wasmBackend } from "@dsv3/backend-wasm";
import { initParams, type ModelConfig, preset } from "@dsv3/model";
import { Engine, type EngineOptions } from "@dsv3/serve";
import { createApp, hostModel, listen, Models } from "@dsv3/server";
import { key, setBackend } from "@dsv3/tensor";
import { trainBpe } from "@dsv3/tokenizer";
import {
  type Answer,
  better,
  type LoadResult,
  load,
  loadAll,
  promptOf,
  quantile,
  ROUNDS,
  STREAMS,
  timesOf,
} from "./serve-load.ts";

const THREADS = 2;

/** 105 M parameters, of which a token uses 28 M. */
export const MODEL: ModelConfig = {
  ...preset("demo"),
  vocabSize: 8192,
  hiddenSize: 512,
  intermediateSize: 1376,
  numHiddenLayers: 8,
  numAttentionHeads: 8,
  qLoraRank: 256,
  kvLoraRank: 128,
  moeIntermediateSize: 256,
  nRoutedExperts: 32,
  numNextnPredictLayers: 0,
  maxPositionEmbeddings: 8192,
};

/** Milliseconds between two tokens of one answer, after contexts of so many tokens. */
export type Contexts = readonly { readonly tokens: number; readonly between: number }[];

/** Milliseconds to the first token of a prompt of 2,000 tokens. */
export type Prefix = { readonly cold: number; readonly hit: number };

/** The same load through HTTP, from another process. */
export type Overhead = { readonly bare: LoadResult; readonly served: LoadResult };

const PARTS = {
  batched: () => loads({}, STREAMS),
  unordered: () => loads({ batchInvariant: false }, STREAMS),
  unbatched: () => loads({ batchInvariant: false, maxRunning: 1 }, [1, 4]),
  contexts,
  prefix,
  overhead,
};

export type Results = { [K in keyof typeof PARTS]: Awaited<ReturnType<(typeof PARTS)[K]>> };

const make = (options: Partial<EngineOptions>) =>
  new Engine({
    params: initParams(MODEL, key(1)),
    config: MODEL,
    maxContext: 8192,
    cacheTokens: 16_384,
    maxRunning: 64,
    ...options,
  });

function answerOf(engine: Engine): Answer {
  return (prompt, maxTokens) =>
    engine.submit({ prompt, maxTokens, temperature: 0, ignoreEos: true });
}

async function loads(
  options: Partial<EngineOptions>,
  streams: readonly number[],
): Promise<LoadResult[]> {
  const answer = answerOf(make(options));
  return loadAll(() => answer, streams, MODEL.vocabSize);
}

async function contexts(): Promise<Contexts> {
  const answer = answerOf(make({}));
  const best = new Map<number, number>();
  for (let round = 0; round < ROUNDS; round++) {
    for (const tokens of [128, 512, 1024, 2048, 4096]) {
      // After the first round the prompt is in the cache.
      const prompt = promptOf(tokens - 24, 1, MODEL.vocabSize);
      const times = await timesOf(answer(prompt, 48), performance.now());
      const gaps = times.slice(1).map((time, i) => time - times[i]!);
      best.set(tokens, Math.min(best.get(tokens) ?? Number.POSITIVE_INFINITY, quantile(gaps, 0.5)));
    }
  }
  return [...best].map(([tokens, between]) => ({ tokens, between }));
}

async function prefix(): Promise<Prefix> {
  const answer = answerOf(make({}));
  const ask = async (salt: number) => {
    const prompt = promptOf(2000, salt, MODEL.vocabSize);
    return (await timesOf(answer(prompt, 1), performance.now()))[0]!;
  };
  // What compiles is not counted: a prompt and its hit before.
  for (const salt of [1, 1]) await ask(salt);
  let [cold, hit] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
  for (let salt = 2; salt < 2 + ROUNDS; salt++) {
    cold = Math.min(cold, await ask(salt));
    hit = Math.min(hit, await ask(salt));
  }
  return { cold, hit };
}

const OVERHEAD_STREAMS = 16;

/** With and without the server in turn, the best of each: other programs slow down some rounds. */
async function overhead(): Promise<Overhead> {
  const tokenizer = trainBpe(["some words"], { vocabSize: 300 });
  const params = initParams(MODEL, key(1));
  const settings = { maxContext: 8192, cacheTokens: 16_384, maxRunning: 64 };
  const model = hostModel({ params, config: MODEL, tokenizer }, settings);
  const models = new Models([{ name: "bench", maxContext: 8192, load: async () => model }]);
  const server = await listen(createApp({ models }), { port: 0 });
  const client = fork(new URL("serve-client.ts", import.meta.url), [server.url]);
  let [bare, served]: (LoadResult | undefined)[] = [];
  for (let round = 0; round < 5; round++) {
    bare = better(bare, await load(answerOf(model.engine), OVERHEAD_STREAMS, MODEL.vocabSize));
    served = better(served, await ask(client));
  }
  client.kill();
  return { bare: bare!, served: served! };
}

function ask(client: ChildProcess): Promise<LoadResult> {
  return new Promise((resolve, reject) => {
    client.once("message", (result) => resolve(result as LoadResult));
    client.once("exit", () => reject(new Error("the client ended")));
    client.send({ streams: OVERHEAD_STREAMS, vocabSize: MODEL.vocabSize });
  });
}

if (import.meta.main) {
  setBackend(await wasmBackend({ threads: THREADS }));
  console.log(JSON.stringify(await PARTS[process.argv[2] as keyof typeof PARTS]()));
  process.exit(); // whatever threads still wait
}
