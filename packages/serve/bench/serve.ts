/**
 * Throughput and latency of the engine with random weights, printed as tables:
 * `node bench/serve.ts [demo|100m]`. What is compared runs in the same process, one after another.
 */
import { wasmBackend } from "@dsv3/backend-wasm";
import { countParameters, initParams, type ModelConfig, PRESETS } from "@dsv3/model";
import { key, setBackend } from "@dsv3/tensor";
import { Engine, type EngineOptions } from "../src/index.ts";

const MODELS: Record<string, ModelConfig> = {
  demo: { ...PRESETS.demo, maxPositionEmbeddings: 8192 },
  "100m": {
    ...PRESETS.demo,
    vocabSize: 8192,
    hiddenSize: 512,
    intermediateSize: 1376,
    numHiddenLayers: 8,
    numAttentionHeads: 8,
    qLoraRank: 256,
    kvLoraRank: 128,
    moeIntermediateSize: 256,
    nRoutedExperts: 32,
    maxPositionEmbeddings: 8192,
  },
};

const name = process.argv[2] ?? "demo";
const config = MODELS[name];
if (!config) throw new Error(`no model "${name}"; there are ${Object.keys(MODELS).join(", ")}`);
setBackend(await wasmBackend());
const params = initParams(config, key(1));
const { total, active } = countParameters(config);
console.log(
  `${name}: ${(total / 1e6).toFixed(0)} M parameters, ${(active / 1e6).toFixed(0)} M active`,
);

let salt = 0;
const prompt = (length: number) => {
  salt++;
  return Array.from(
    { length },
    (_, i) => (i * 31 + salt * 977 + ((i * salt) % 13)) % config.vocabSize,
  );
};
const make = (options: Partial<EngineOptions>) =>
  new Engine({ params, config, maxContext: 8192, maxRunning: 64, ...options });
const median = (x: number[]) => x.toSorted((a, b) => a - b)[Math.floor(x.length / 2)] ?? Number.NaN;

/** One stream: milliseconds to its first token, and between later ones. */
async function stream(engine: Engine, prompt: number[], maxTokens: number) {
  const began = performance.now();
  const times: number[] = [];
  const request = { prompt, maxTokens, temperature: 0, ignoreEos: true };
  for await (const _ of engine.submit(request)) times.push(performance.now());
  return { first: times[0]! - began, gaps: times.slice(1).map((t, i) => t - times[i]!) };
}

for (const batchInvariant of [true, false]) {
  const engine = make({ batchInvariant });
  console.log(`\nbatchInvariant: ${batchInvariant}; prompts of 128, answers of 64 tokens, greedy`);
  console.log("streams  tokens/s  first token ms  between tokens ms");
  for (const streams of [1, 4, 16, 64]) {
    const all = () =>
      Promise.all(Array.from({ length: streams }, () => stream(engine, prompt(128), 64)));
    await all(); // compiles
    const began = performance.now();
    const results = await all();
    const seconds = (performance.now() - began) / 1e3;
    const first = median(results.map((r) => r.first));
    const gap = median(results.flatMap((r) => r.gaps));
    const row = [(64 * streams) / seconds, first, gap].map((x) => x.toFixed(1));
    console.log([String(streams).padStart(7), ...row.map((x) => x.padStart(10))].join(" "));
  }
  await engine.dispose();
}

const engine = make({});
console.log("\ncontext  between tokens ms (one stream)");
for (const length of [128, 1024, 4096]) {
  await stream(engine, prompt(length), 8);
  const { gaps } = await stream(engine, prompt(length), 48);
  console.log(`${String(length).padStart(7)}  ${median(gaps).toFixed(2)}`);
}
const long = prompt(2000);
const cold = (await stream(engine, long, 1)).first;
const warm = (await stream(engine, long, 1)).first;
console.log(
  `\n2,000-token prompt: first token after ${cold.toFixed(0)} ms, with a prefix hit ${warm.toFixed(0)} ms`,
);
process.exit();
