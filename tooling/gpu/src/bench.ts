/**
 * A whole model on this machine: training and greedy decoding at the sizes for which figures of
 * transformers and PyTorch on an H100 are in packages/backend-cuda/NOTES.md. Prints where the time of
 * each goes, and a table last:
 *
 *     node src/bench.ts [train] [decode] [--precision bf16|fp8] [--backend wasm --small]
 */
import { parseArgs } from "node:util";
import { cudaBackend } from "@dsv3/backend-cuda";
import { wasmBackend } from "@dsv3/backend-wasm";
import {
  forwardCached,
  initParams,
  latentCaches,
  type ModelConfig,
  type ModelParams,
  type Precision,
  preset,
} from "@dsv3/model";
import {
  add,
  argmax,
  cast,
  compile,
  disposeTree,
  getBackend,
  key,
  setBackend,
  type Tensor,
  tensor,
  treeMap,
} from "@dsv3/tensor";
import { ADAMW, initTrainState, trainStep } from "@dsv3/train";
import { observed, printSteps } from "./observed.ts";

/** 958 M parameters, 64 experts of which a token visits 6. */
const MODEL: ModelConfig = {
  ...preset("demo"),
  vocabSize: 32768,
  hiddenSize: 1024,
  intermediateSize: 2816,
  moeIntermediateSize: 384,
  numHiddenLayers: 12,
  numAttentionHeads: 16,
  nSharedExperts: 1,
  nRoutedExperts: 64,
  routedScalingFactor: 2.5,
  kvLoraRank: 256,
  qLoraRank: 512,
  qkRopeHeadDim: 32,
  vHeadDim: 64,
  qkNopeHeadDim: 64,
  nGroup: 8,
  topkGroup: 4,
  numExpertsPerTok: 6,
  firstKDenseReplace: 1,
  maxPositionEmbeddings: 4096,
  numNextnPredictLayers: 0,
};
const PROMPT = 128;
const STEPS = 10;
/** Of decoding; the best counts. */
const ROUNDS = 4;

type Row = readonly [what: string, figure: string];

async function train(
  config: ModelConfig,
  batch: number,
  length: number,
  computeDtype: Precision,
): Promise<Row[]> {
  const began = performance.now();
  using seed = key(1);
  let state = initTrainState(initParams(config, seed), { momentDtype: "bf16" });
  const ids = Int32Array.from({ length: batch * length }, (_, i) => (i * 7919) % config.vocabSize);
  const rows = () => tensor(ids, { shape: [batch, length], dtype: "i32" });
  const data = { inputIds: rows(), targets: rows() };
  const loss = { mtpWeight: 0, balanceWeight: 0, computeDtype };
  const step = trainStep(config, { loss, optimizer: ADAMW, clip: 1 });
  const once = async () => {
    const result = step(state, [data], { learningRate: 1e-4, biasSpeed: 0.001 });
    state = result.state;
    const value = await result.metrics.loss.item();
    disposeTree(result.metrics);
    return value;
  };
  const first = await once();
  const firstStep = (performance.now() - began) / 1000;
  await once();
  await once();
  const start = performance.now();
  for (let i = 1; i < STEPS; i++) await once();
  const last = await once();
  const ms = (performance.now() - start) / STEPS;
  await printSteps("trainStep", once);
  disposeTree([state, data]);
  const peak = (getBackend().memory().peakBytes / 2 ** 30).toFixed(1);
  return [
    [
      `training in ${computeDtype}, ${batch} × ${length} tokens`,
      `${((batch * length * 1000) / ms).toFixed(0)} tokens/s`,
    ],
    ["  a step", `${ms.toFixed(1)} ms, loss ${first.toFixed(3)} → ${last.toFixed(3)}`],
    ["  from nothing to the first loss", `${firstStep.toFixed(1)} s`],
    ["  memory at its peak", `${peak} GiB`],
  ];
}

async function decode(config: ModelConfig, batch: number, tokens: number): Promise<Row[]> {
  using seed = key(1);
  const params = treeMap(
    (t: Tensor) => {
      if (t.rank < 2) return t;
      using whole = t;
      return cast(whole, "bf16");
    },
    initParams(config, seed),
  );
  const run = compile(
    (p: ModelParams, ids: Tensor, caches: Tensor[], lengths: Tensor) => {
      const result = forwardCached(p, ids, caches, lengths, config, { computeDtype: "bf16" });
      return {
        ids: argmax(result.logits, -1),
        caches: result.caches,
        lengths: add(lengths, 1),
      };
    },
    { name: "decode", donate: [2, 3] },
  );
  let caches = latentCaches(config, batch, Math.ceil((PROMPT + tokens) / 64) * 64, "bf16");
  let lengths = tensor(new Int32Array(batch).fill(PROMPT), { dtype: "i32" });
  const prompt = Int32Array.from(
    { length: batch * PROMPT },
    (_, i) => (i * 7919) % config.vocabSize,
  );
  let ids: Tensor = tensor(prompt, { shape: [batch, PROMPT], dtype: "i32" });
  const next = () => {
    const result = run(params, ids, caches, lengths);
    ids.dispose();
    ({ ids, caches, lengths } = result);
  };
  const began = performance.now();
  next();
  await ids.data();
  for (let i = 0; i < 4; i++) next();
  await ids.data();
  const ready = (performance.now() - began) / 1000;
  // The first round also brings the clocks up.
  let [ms, enqueued] = [Infinity, Infinity];
  for (let round = 0; round < ROUNDS; round++) {
    lengths.dispose();
    lengths = tensor(new Int32Array(batch).fill(PROMPT + 5), { dtype: "i32" });
    const start = performance.now();
    for (let i = 5; i < tokens; i++) next();
    enqueued = Math.min(enqueued, performance.now() - start);
    await ids.data();
    ms = Math.min(ms, (performance.now() - start) / (tokens - 5));
  }
  await printSteps("decode", async () => next());
  disposeTree([params, ids, caches, lengths]);
  run.dispose();
  return [
    [`decoding, batch ${batch}`, `${((batch * 1000) / ms).toFixed(0)} tokens/s`],
    ["  a step", `${ms.toFixed(3)} ms, of which the host ${(enqueued / (tokens - 5)).toFixed(3)}`],
    ["  compilation, prompt and five tokens", `${ready.toFixed(1)} s`],
  ];
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    backend: { type: "string", default: "cuda" },
    precision: { type: "string", default: "bf16" },
    small: { type: "boolean" },
  },
});
setBackend(observed(await (values.backend === "wasm" ? wasmBackend() : cudaBackend())));
const config: ModelConfig = values.small
  ? { ...MODEL, hiddenSize: 128, numHiddenLayers: 2, vocabSize: 512, maxPositionEmbeddings: 512 }
  : MODEL;
const parts = positionals.length > 0 ? positionals : ["train", "decode"];
const table: Row[] = [];
if (parts.includes("train")) {
  const [batch, length] = values.small ? [2, 64] : [8, 2048];
  table.push(...(await train(config, batch, length, values.precision as Precision)));
}
if (parts.includes("decode")) {
  for (const batch of [1, 32]) table.push(...(await decode(config, batch, 256)));
}
for (const [what, figure] of table) console.log(`${what.padEnd(40)} ${figure}`);
getBackend().dispose();
process.exit(0);
