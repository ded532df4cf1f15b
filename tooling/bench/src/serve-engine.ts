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
import type { Order } from "./serve-client.ts";
import {
  ANSWER_TOKENS,
  type Answer,
  burst,
  type LoadResult,
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
export interface Overhead {
  readonly streams: number;
  /** Tokens per second that HTTP loses, in percent: the median of all pairs, and the middle half of them. */
  readonly lost: number;
  readonly between: readonly [number, number];
}

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

const OVERHEAD = { streams: 16, vocabSize: MODEL.vocabSize, tokens: ANSWER_TOKENS };
/** As many as it takes for a median that other programs do not move. */
const PAIRS = 15;

/** With and without the server in turn: what each pair lost, as other programs slow down some of them. */
async function overhead(): Promise<Overhead> {
  // Ids without a text, which random weights would say too, are an exception that costs time.
  const words = Array.from({ length: 12_000 }, (_, i) => ((i * 2654435761) >>> 0).toString(36));
  const tokenizer = trainBpe([words.join(" ")], { vocabSize: MODEL.vocabSize });
  const params = initParams(MODEL, key(1));
  const settings = { maxContext: 8192, cacheTokens: 16_384, maxRunning: 64 };
  const model = hostModel({ params, config: MODEL, tokenizer }, settings);
  const models = new Models([{ name: "bench", maxContext: 8192, load: async () => model }]);
  const server = await listen(createApp({ models }), { port: 0 });
  const client = fork(new URL("serve-client.ts", import.meta.url), [server.url]);
  const { streams, vocabSize, tokens } = OVERHEAD;
  const ways = {
    bare: () => burst(answerOf(model.engine), streams, vocabSize, tokens),
    served: () => ask(client),
  };
  const lost: number[] = [];
  for (let pair = -2; pair < PAIRS; pair++) {
    // Each way is the first of every other pair, so that neither gains from what the other leaves.
    const order = pair % 2 === 0 ? (["bare", "served"] as const) : (["served", "bare"] as const);
    const rate = { bare: 0, served: 0 };
    for (const way of order) rate[way] = (await ways[way]()).tokensPerSecond;
    // The first pairs compile and warm up.
    if (pair >= 0) lost.push(100 * (1 - rate.served / rate.bare));
  }
  client.kill();
  const at = (q: number) => quantile(lost, q);
  return { streams, lost: at(0.5), between: [at(0.25), at(0.75)] };
}

function ask(client: ChildProcess): Promise<LoadResult> {
  return new Promise((resolve, reject) => {
    const ended = () => reject(new Error("the client ended"));
    client.once("exit", ended);
    client.once("message", (result) => {
      client.off("exit", ended);
      resolve(result as LoadResult);
    });
    client.send(OVERHEAD satisfies Order);
  });
}

if (import.meta.main) {
  setBackend(await wasmBackend({ threads: THREADS, wideVectors: true }));
  console.log(JSON.stringify(await PARTS[process.argv[2] as keyof typeof PARTS]()));
  process.exit(); // whatever threads still wait
}
