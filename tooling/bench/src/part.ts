/**
 * One of our own figures, in a process of its own: `node part.ts NAME`. Prints one line of JSON: the
 * rows of the table.
 */
import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { performance } from "node:perf_hooks";
import { fileURLToPath } from "node:url";
import { wasmBackend } from "@dsv3/backend-wasm";
import {
  type CompressedParams,
  compressParams,
  countParameters,
  flopsPerToken,
  generateStream,
  initParams,
  type ModelConfig,
  type ModelParams,
  preset,
} from "@dsv3/model";
import {
  add,
  cast,
  compile,
  type DType,
  disposeTree,
  dtypeBytes,
  key,
  matmul,
  setBackend,
  type Tensor,
  tensor,
  treeMap,
} from "@dsv3/tensor";
import { ADAMW, initTrainState, type TrainState, trainStep } from "@dsv3/train";
import { inputs } from "./cases.ts";
import { formatTable } from "./table.ts";

/** A figure, and what it should be. */
export interface Row {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** The least (or, with `atMost`, the greatest) that we accept. */
  readonly expected?: number;
  readonly atMost?: boolean;
}

const THREADS = 2;

const PARTS: Record<string, () => Promise<Row[]>> = {
  overhead,
  "demo-step": demoStep,
  decode,
  memory: residentMemory,
};

export const PART_NAMES: readonly string[] = Object.keys(PARTS);

/** Figures with what is expected of them, and whether it is met. */
export function formatRows(rows: readonly Row[]): string {
  return formatTable(
    rows.map(({ name, value, unit, expected, atMost }) => {
      const met = expected === undefined || (atMost ? value <= expected : value >= expected);
      return [
        name,
        `${Number(value.toPrecision(3))} ${unit}`,
        expected === undefined ? "" : `${atMost ? "at most" : "at least"} ${expected} ${unit}`,
        expected === undefined ? "" : met ? "met" : "MISSED",
      ];
    }),
  );
}

/** Runs a part and gives its rows. */
export function runPart(name: string): Row[] {
  const output = execFileSync(process.execPath, [fileURLToPath(import.meta.url), name], {
    stdio: ["ignore", "pipe", "inherit"],
    encoding: "utf8",
  });
  return JSON.parse(output.trim().split("\n").at(-1)!) as Row[];
}

/** Median milliseconds of a call. */
async function median(run: () => void, seconds: number): Promise<number> {
  const times: number[] = [];
  for (const keep of [false, true]) {
    const end = performance.now() + seconds * 500;
    for (let runs = 0; runs < 3 || performance.now() < end; runs++) {
      const start = performance.now();
      run();
      if (keep) times.push(performance.now() - start);
      if (runs % 16 === 0) await new Promise((resolve) => setTimeout(resolve));
    }
  }
  return times.sort((a, b) => a - b)[times.length >> 1]!;
}

async function overhead(): Promise<Row[]> {
  const x = tensor(inputs(64, 1));
  const fn = compile((a: Tensor) => add(a, 1));
  const milliseconds = await median(() => fn(x).dispose(), 1);
  return [
    {
      name: "a program of one small kernel, whole call",
      value: milliseconds * 1000,
      unit: "µs",
      expected: 20,
      atMost: true,
    },
  ];
}

/** Rate of f32 products of 1024³, in GFLOP/s. */
async function matmulRate(): Promise<number> {
  const n = 1024;
  const [a, b] = [1, 2].map((seed) => tensor(inputs(n * n, seed), { shape: [n, n] })) as [
    Tensor,
    Tensor,
  ];
  const fn = compile(matmul);
  const milliseconds = await median(() => fn(a, b).dispose(), 2);
  fn.dispose();
  disposeTree([a, b]);
  return (2 * n ** 3) / milliseconds / 1e6;
}

const BATCH = 8;
const TIME = 128;

function trainer(config: ModelConfig, batch: number, time: number) {
  const init = compile((k: Tensor) => initTrainState(initParams(config, k)), { name: "init" });
  using seed = key(1);
  let state = init(seed) as TrainState;
  init.dispose();
  const ids = (shift: number) =>
    tensor(
      Int32Array.from({ length: batch * time }, (_, i) => (i * 7 + shift) % config.vocabSize),
      { shape: [batch, time], dtype: "i32" },
    );
  const rows = { inputIds: ids(0), targets: ids(7) };
  const loss = { mtpWeight: 0.3, balanceWeight: 1e-4 };
  const step = trainStep(config, { loss, optimizer: ADAMW, clip: 1 });
  return () => {
    const result = step(state, [rows], { learningRate: 1e-3, biasSpeed: 1e-3 });
    state = result.state;
    result.metrics.loss.dataSync();
    disposeTree(result.metrics);
  };
}

async function demoStep(): Promise<Row[]> {
  const config = preset("demo");
  const step = trainer(config, BATCH, TIME);
  const start = performance.now();
  step();
  const first = performance.now() - start;
  const milliseconds = await median(step, 8);
  const rate = await matmulRate();
  const flops = flopsPerToken(config, { context: TIME / 2, training: true, mtp: true });
  const reached = (flops * BATCH * TIME) / milliseconds / 1e6;
  return [
    {
      name: "tracing and compiling the demo's step",
      value: (first - milliseconds) / 1000,
      unit: "s",
      expected: 3,
      atMost: true,
    },
    {
      name: "demo training, 8×128 tokens a step",
      value: (1000 * BATCH * TIME) / milliseconds,
      unit: "tokens/s",
    },
    { name: "… model FLOPs", value: reached, unit: "GFLOP/s" },
    {
      name: "… of our matmul rate at 1024³",
      value: (100 * reached) / rate,
      unit: "%",
      expected: 55,
    },
  ];
}

async function residentMemory(): Promise<Row[]> {
  const config = { ...preset("tiny"), numHiddenLayers: 2 };
  const step = trainer(config, 2, 16);
  const steps = 2000;
  let settled = 0;
  for (let i = 0; i < steps; i++) {
    step();
    if (i % 50 === 0) await new Promise((resolve) => setTimeout(resolve));
    if (i === steps / 10) settled = process.memoryUsage.rss();
  }
  const growth = (100 * (process.memoryUsage.rss() - settled)) / settled;
  return [
    {
      name: "growth of resident memory, step 200 to 2,000",
      value: growth,
      unit: "%",
      expected: 2,
      atMost: true,
    },
  ];
}

/** 200 million parameters, dense, so that every one is read for every token. */
const DECODED: ModelConfig = {
  ...preset("demo"),
  vocabSize: 8192,
  hiddenSize: 1024,
  intermediateSize: 4096,
  numHiddenLayers: 12,
  firstKDenseReplace: 12,
  numNextnPredictLayers: 0,
  numAttentionHeads: 8,
  qLoraRank: null,
  kvLoraRank: 256,
  qkNopeHeadDim: 64,
  qkRopeHeadDim: 32,
  vHeadDim: 64,
};

const PROMPT = [1, 2, 3];
const NEW_TOKENS = 40;
/** Of each form, in turns: other programs slow down some. */
const DECODE_ROUNDS = 3;

async function decode(): Promise<Row[]> {
  const init = compile((k: Tensor) => initParams(DECODED, k));
  using seed = key(3);
  const params = init(seed) as ModelParams;
  init.dispose();
  const { activeWithoutEmbedding: read } = countParameters(DECODED);
  const narrow = (t: Tensor) => (t.rank > 1 ? cast(t, "bf16") : t);
  const weights = { f32: params, bf16: treeMap(narrow, params), i8: compressParams(params) };
  const forms = Object.entries(weights).map(([dtype, weights]) => ({
    dtype,
    weights,
    bytes: read * dtypeBytes(dtype as DType),
    seconds: Number.POSITIVE_INFINITY,
    ceiling: 0,
  }));
  for (let round = 0; round < DECODE_ROUNDS; round++) {
    for (const form of forms) {
      form.seconds = Math.min(form.seconds, await secondsPerToken(form.weights));
      form.ceiling = Math.max(form.ceiling, streamRate(form.bytes));
    }
  }
  return forms.flatMap(({ dtype, bytes, seconds, ceiling }) => {
    const bandwidth = bytes / seconds / 1e9;
    return [
      {
        name: `decoding ${(read / 1e6).toFixed(0)}M parameters in ${dtype}`,
        value: 1 / seconds,
        unit: "tokens/s",
      },
      { name: "… weights read", value: bandwidth, unit: "GB/s" },
      {
        name: `… of ${ceiling.toFixed(1)} GB/s at which the threads read as many bytes`,
        value: (100 * bandwidth) / ceiling,
        unit: "%",
        expected: 60,
      },
    ];
  });
}

/** Median over the later tokens. */
async function secondsPerToken(weights: ModelParams | CompressedParams): Promise<number> {
  const times: number[] = [];
  let last = performance.now();
  const options = { maxNewTokens: NEW_TOKENS, stopIds: [] };
  for await (const _ of generateStream(weights, DECODED, [PROMPT], options)) {
    times.push(performance.now() - last);
    last = performance.now();
  }
  const later = times.slice(NEW_TOKENS / 4).sort((a, b) => a - b);
  return later[later.length >> 1]! / 1000;
}

/** GB/s of reads of so many bytes, measured in another process, while this one waits. */
function streamRate(bytes: number): number {
  const manifest = createRequire(import.meta.url).resolve("@dsv3/backend-wasm/package.json");
  const script = join(dirname(manifest), "bench/stream.ts");
  const output = execFileSync(process.execPath, [script, `${THREADS}`, `${bytes / 1e6}`], {
    encoding: "utf8",
  });
  return (JSON.parse(output) as { gigabytesPerSecond: number }).gigabytesPerSecond;
}

if (import.meta.main) {
  setBackend(await wasmBackend({ threads: THREADS, wideVectors: true }));
  console.log(JSON.stringify(await PARTS[process.argv[2]!]!()));
  process.exit(); // whatever threads still wait
}
