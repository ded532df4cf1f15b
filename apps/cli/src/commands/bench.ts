import { totalmem } from "node:os";
import {
  compressParams,
  countParameters,
  flopsPerToken,
  generateStream,
  initParams,
  loadModel,
  type ModelConfig,
  type ModelParams,
  PRESETS,
  preset,
} from "@dsv3/model";
import {
  cast,
  compile,
  disposeTree,
  key,
  matmul,
  ones,
  setBackend,
  sliceAxis,
  type Tensor,
  treeLeaves,
  treeMap,
} from "@dsv3/tensor";
import { type RowSource, secondsPerStep } from "@dsv3/train";
import { type BackendChoice, backendFlag, openBackend } from "../backend.ts";
import { type Command, defineCommand } from "../command.ts";
import { recipe } from "../demo/recipe.ts";
import { UsageError } from "../errors.ts";
import type { Io } from "../io.ts";
import { formatBytes, formatCount } from "../ui/format.ts";
import { printJson } from "../ui/json.ts";
import { renderTable } from "../ui/table.ts";

export const bench: Command = defineCommand({
  summary: "Measures how fast this machine multiplies, reads memory, trains and decodes.",
  flags: {
    preset: {
      type: "choice",
      choices: Object.keys(PRESETS),
      help: "the shape of the model, with random weights (default: demo)",
    },
    model: { type: "string", value: "DIR", help: "a Hugging Face folder in place of a preset" },
    seconds: {
      type: "number",
      value: "N",
      help: "for each of the shorter measurements, of which the best is kept",
      default: 1,
      min: 0.01,
    },
    backend: backendFlag,
    json: { type: "boolean", help: "print exact figures as JSON" },
  },
  examples: ["bench", "bench --preset tiny --backend wasm --json", "bench --model runs/demo/model"],
  async run({ preset: name, model, seconds, backend: choice, json }, io) {
    if (name !== undefined && model !== undefined) {
      throw new UsageError("--preset and --model are both given; give one of them");
    }
    const figures = await measure(model, name ?? "demo", seconds, choice, io);
    if (figures === undefined) return; // stopped by Ctrl-C
    if (json) printJson(io.stdout, figures);
    else io.stdout.write(formatFigures(figures));
  },
});

/** What `--json` prints; rates per second. */
interface Figures {
  backend: string;
  model: string;
  parameters: { total: number; activePerToken: number };
  /** Of a square product in f32. */
  product: { size: number; flops: number };
  /** Bytes of a matrix in f32 that products with one row read: the ceiling of decoding. */
  memory: { bytes: number };
  /** By how the weights are kept; `share`: bytes of active weights over the rate of memory. */
  decoding: { weights: string; tokens: number; share: number }[];
  /** Tokens, and FLOPs that the model needs for them; `share`: of the rate of products. Null: too large. */
  training: { tokens: number; flops: number; share: number } | null;
}

/** Bytes of a parameter by how it is kept; i8 has an f32 scale for every 128. */
const BYTES = { f32: 4, bf16: 2, i8: 1 + 4 / 128 } as const;
/** Of a parameter in training: itself, its gradient and two moments. */
const TRAINING_BYTES = 16;
const NEW_TOKENS = 32;
const TRAINING = { batch: 8, length: 128 };

async function measure(
  model: string | undefined,
  name: string,
  seconds: number,
  choice: BackendChoice,
  io: Io,
): Promise<Figures | undefined> {
  const backend = await openBackend(choice);
  const say = (what: string) => {
    if (io.stderr.isTTY) io.stderr.write(what === "" ? "\r\u001b[K" : `\r${what} …\u001b[K`);
  };
  try {
    setBackend(backend);
    const room = backend.name === "wasm" ? Math.min(totalmem(), 2 ** 32) : Infinity;
    const { params, config } = model
      ? await loadModel(model)
      : randomModel(name, preset(name), room);
    const { total, activeWithoutEmbedding: active, mtp } = countParameters(config);

    say("products");
    const size = backend.name === "wasm" ? 1024 : 4096;
    const product = { size, flops: (2 * size ** 3) / (await bestProduct(size, size, seconds)) };
    if (io.signal.aborted) return undefined;
    say("memory");
    const wide = backend.name === "wasm" ? 8192 : 16384;
    const memory = { bytes: (4 * wide * wide) / (await bestProduct(1, wide, seconds)) };

    const decoding: Figures["decoding"] = [];
    for (const weights of ["f32", "bf16", "i8"] as const) {
      if (io.signal.aborted) return undefined;
      say(`decoding, ${weights}`);
      const tokens = await decodingRate(params, config, weights);
      decoding.push({ weights, tokens, share: (tokens * active * BYTES[weights]) / memory.bytes });
    }
    disposeTree(params);
    if (io.signal.aborted) return undefined;
    say("training");
    const fits = TRAINING_BYTES * (total + mtp) <= room;
    const training = fits ? await trainingRate(config, product.flops) : null;
    say("");
    const parameters = { total, activePerToken: active };
    return {
      backend: backend.name,
      model: model ?? name,
      parameters,
      product,
      memory,
      decoding,
      training,
    };
  } finally {
    backend.dispose();
  }
}

/** @throws UsageError when its weights are more than there is memory for */
function randomModel(
  name: string,
  config: ModelConfig,
  room: number,
): { params: ModelParams; config: ModelConfig } {
  const bytes = BYTES.f32 * countParameters(config).stored;
  if (bytes > room) {
    throw new UsageError(
      `${name} takes ${formatBytes(bytes)} in f32, and there are ${formatBytes(room)} to measure it in; ` +
        "give a smaller --preset or --model",
    );
  }
  using seed = key(0);
  return { params: initParams(config, seed), config };
}

/** Seconds of the fastest product [rows, n] · [n, n]ᵀ in f32. */
async function bestProduct(rows: number, n: number, seconds: number): Promise<number> {
  using a = ones([rows, n]);
  using b = ones([n, n]);
  const run = compile((a: Tensor, b: Tensor) => {
    const product = matmul(a, b, { transposeB: true });
    return { product, corner: sliceAxis(sliceAxis(product, 0, 0, 1), 1, 0, 1) };
  });
  let best = Infinity;
  const until = performance.now() + 1000 * seconds;
  for (let i = 0; i < 3 || performance.now() < until; i++) {
    const start = performance.now();
    const result = run(a, b);
    // One number comes when all are there; reading all of them would be measured too.
    await result.corner.item();
    best = Math.min(best, (performance.now() - start) / 1000);
    disposeTree(result);
  }
  run.dispose();
  return best;
}

/** Tokens per second of one sequence, by the median of the later tokens. */
async function decodingRate(
  params: ModelParams,
  config: ModelConfig,
  weights: keyof typeof BYTES,
): Promise<number> {
  const narrow = (t: Tensor) => (t.rank > 1 ? cast(t, "bf16") : t);
  const kept =
    weights === "f32"
      ? params
      : weights === "i8"
        ? compressParams(params)
        : treeMap(narrow, params);
  const options = { maxNewTokens: NEW_TOKENS, temperature: 0, stopIds: [], seed: 0 };
  const times: number[] = [];
  let last = performance.now();
  for await (const _ of generateStream(kept, config, [[0]], options)) {
    times.push(performance.now() - last);
    await new Promise((resolve) => setImmediate(resolve)); // lets a Ctrl-C in
    last = performance.now();
  }
  const given = new Set(treeLeaves(params));
  disposeTree(treeLeaves(kept).filter((t) => !given.has(t)));
  const later = times.slice(NEW_TOKENS / 2).sort((x, y) => x - y);
  return 1000 / (later[later.length >> 1] as number);
}

async function trainingRate(config: ModelConfig, peak: number): Promise<Figures["training"]> {
  const settings = { ...recipe(1), ...TRAINING };
  const seconds = await secondsPerStep(config, settings, randomRows(config.vocabSize));
  const tokens = (TRAINING.batch * TRAINING.length) / seconds;
  const mtp = config.numNextnPredictLayers > 0;
  const flops =
    tokens * flopsPerToken(config, { context: TRAINING.length / 2, training: true, mtp });
  return { tokens, flops, share: flops / peak };
}

/** Rows of ids without meaning: what is learnt plays no part in how long it takes. */
function randomRows(vocabSize: number): RowSource {
  const ids = (count: number) =>
    Int32Array.from({ length: count }, () => Math.floor(Math.random() * vocabSize));
  return {
    next: (rows, length) => ({ inputIds: ids(rows * length), targets: ids(rows * length) }),
    position: null,
    seek() {},
  };
}

function formatFigures({ backend, model, parameters, ...f }: Figures): string {
  const giga = (rate: number) => (rate / 1e9).toFixed(1);
  const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
  const { size } = f.product;
  const rows = [
    [`product ${size} × ${size} × ${size}, f32`, `${giga(f.product.flops)} GFLOP/s`, ""],
    ["one row × matrix, f32", `${giga(f.memory.bytes)} GB/s read`, ""],
    ...f.decoding.map(({ weights, tokens, share }) => [
      `decoding, weights in ${weights}`,
      `${formatCount(tokens)} tokens/s`,
      `${percent(share)} of memory's rate`,
    ]),
    f.training
      ? [
          `training, ${TRAINING.batch} × ${TRAINING.length} tokens a step`,
          `${formatCount(f.training.tokens)} tokens/s`,
          `${percent(f.training.share)} of the product's rate`,
        ]
      : ["training", "not measured", "too large for the memory of this backend"],
  ];
  const title =
    `${model} on ${backend}: ${formatCount(parameters.total)} parameters, ` +
    `${formatCount(parameters.activePerToken)} active for a token\n\n`;
  const columns = [{ title: "what" }, { title: "rate", align: "right" as const }, { title: "" }];
  return title + renderTable(columns, rows);
}
