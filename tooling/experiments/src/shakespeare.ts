/**
 * nanoGPT's public anchor (github.com/karpathy/nanoGPT, README and config/train_shakespeare_char.py):
 * characters of Shakespeare, six layers of width 384, best validation loss 1.4697. Ours is as large,
 * with this repository's parts: latent attention, rotary positions, gated MLPs, RMSNorm. `--quick`
 * is the beginning of its run for processors (four layers of width 128, 1.88 after 2,000 steps).
 *
 *     node src/shakespeare.ts --text tinyshakespeare.txt [--backend cuda]
 */
import { readFile } from "node:fs/promises";
import { type ModelConfig, type ModelParams, preset } from "@dsv3/model";
import { bitsPerByte, type RowSource, type RunSettings } from "@dsv3/train";
import {
  type Experiment,
  evaluations,
  main,
  type Options,
  SIZES,
  sizes,
  trainVariant,
} from "./experiment.ts";

interface Recipe {
  readonly layers: number;
  readonly heads: number;
  readonly width: number;
  readonly block: number;
  readonly batch: number;
  readonly steps: number;
  readonly dropout: number;
  readonly evaluateEvery: number;
  /** Best validation loss that nanoGPT's README gives. */
  readonly published: number;
}

const ANCHOR: Recipe = {
  ...{ layers: 6, heads: 6, width: 384, block: 256, batch: 64, steps: 5000, dropout: 0.2 },
  ...{ evaluateEvery: 125, published: 1.4697 },
};
const PROCESSOR: Recipe = {
  ...{ layers: 4, heads: 4, width: 128, block: 64, batch: 12, steps: 2000, dropout: 0 },
  ...{ evaluateEvery: 250, published: 1.88 },
};
/** Of the average of weights that is measured besides them: over about a hundred steps. */
const EMA_DECAY = 0.99;
/** Steps of `--quick` unless told: the beginning alone. */
const QUICK_STEPS = 200;

/** Dense, and about as large as nanoGPT's: 10.5M parameters at width 384, which has 10.7M. */
function model({ layers, heads, width, block }: Recipe, vocabSize: number): ModelConfig {
  const head = width / heads;
  return {
    ...preset("demo"),
    ...{ vocabSize, hiddenSize: width, numHiddenLayers: layers, firstKDenseReplace: layers },
    ...{ intermediateSize: Math.round((8 / 3) * width), numNextnPredictLayers: 0 },
    ...{ numAttentionHeads: heads, qLoraRank: null, kvLoraRank: Math.round((2 / 3) * width) },
    ...{ qkNopeHeadDim: head / 2, qkRopeHeadDim: head / 2, vHeadDim: head },
    ...{ maxPositionEmbeddings: block, bosTokenId: null, eosTokenIds: [] },
  };
}

function settings(r: Recipe, steps: number, seed: number): RunSettings {
  const warmUp = Math.min(100, steps);
  return {
    ...{ steps, batch: r.batch, length: r.block, accumulate: 1, seed },
    ...{ dropout: r.dropout, attentionDropout: r.dropout },
    learningRate: [
      { shape: "linear", steps: warmUp, to: 1e-3 },
      { shape: "cosine", steps: r.steps - warmUp, to: 1e-4 },
    ],
    optimizer: { beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0.1 },
    ...{ biasSpeed: 0, mtpWeight: 0, balanceWeight: 0, emaDecay: EMA_DECAY },
    ...{ checkpointEvery: 1000, keepCheckpoints: 1 },
  };
}

/** Windows at random places of a text, as nanoGPT draws them; which ones depends on their number alone. */
function windows(ids: Int32Array, seed: number): RowSource {
  let drawn = 0;
  return {
    get position() {
      return drawn;
    },
    seek(position: number) {
      drawn = position;
    },
    next: (rows, length) =>
      cut(rows, length, () => Math.floor(uniform(seed, drawn++) * (ids.length - length)), ids),
  };
}

/** A text's windows one after another. */
function inOrder(ids: Int32Array): RowSource {
  let at = 0;
  return {
    get position() {
      return at;
    },
    seek(position: number) {
      at = position;
    },
    next: (rows, length) =>
      cut(
        rows,
        length,
        () => {
          at += length;
          return at - length;
        },
        ids,
      ),
  };
}

function cut(rows: number, length: number, start: () => number, ids: Int32Array) {
  const inputIds = new Int32Array(rows * length);
  const targets = new Int32Array(rows * length);
  for (let r = 0; r < rows; r++) {
    const from = start();
    inputIds.set(ids.subarray(from, from + length), r * length);
    targets.set(ids.subarray(from + 1, from + 1 + length), r * length);
  }
  return { inputIds, targets };
}

/** The n-th number of a sequence in [0, 1): MurmurHash3's finaliser over a counter. */
function uniform(seed: number, n: number): number {
  let h = Math.imul(seed, 0x9e3779b1) ^ n;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return ((h ^ (h >>> 16)) >>> 0) / 2 ** 32;
}

/** Characters as ids in their order, the last tenth for validation. */
async function characters(path: string | undefined) {
  if (path === undefined) {
    throw new Error("--text is missing: the file tinyshakespeare.txt, 1,115,394 characters");
  }
  const text = await readFile(path, "utf8");
  const vocabulary = [...new Set(text)].sort();
  const idOf = new Map(vocabulary.map((c, i) => [c, i]));
  const ids = Int32Array.from(text, (c) => idOf.get(c) as number);
  const border = Math.floor(0.9 * ids.length);
  return {
    size: vocabulary.length,
    training: ids.subarray(0, border),
    validation: ids.subarray(border),
  };
}

/** Rows of a batch of a measurement; the validation text has 435 windows of 256. */
const MEASURED_ROWS = 29;

export const shakespeare: Experiment = {
  name: "shakespeare",
  async run(options: Options) {
    const { size, training, validation } = await characters(options.text[0]);
    const r = options.quick ? PROCESSOR : ANCHOR;
    const steps = options.steps ?? (options.quick ? QUICK_STEPS : r.steps);
    const windowCount = Math.floor((validation.length - 1) / r.block);
    const batch = Math.min(MEASURED_ROWS, windowCount);
    const outcome = await trainVariant(
      {
        name: options.quick ? "processor" : "anchor",
        config: model(r, size),
        settings: settings(r, steps, options.seed),
      },
      options,
      windows(training, options.seed),
      {
        every: r.evaluateEvery,
        async measure({ params, ema }, config) {
          // Every character is a byte here, so that bits per byte are bits per character.
          const ones = new Uint8Array(size).fill(1);
          const batches = Math.floor(windowCount / batch);
          const loss = async (weights: ModelParams) => {
            const rows = inOrder(validation);
            const span = { batch, length: r.block, batches };
            const { bitsPerByte: bits } = await bitsPerByte(weights, config, rows, ones, span);
            return bits * Math.LN2;
          };
          const averageLoss = await loss(ema as ModelParams);
          return { validationLoss: await loss(params), averageLoss };
        },
      },
    );
    const best = (name: string) => {
      const [step, loss] = evaluations(outcome, name).reduce((a, b) => (b[1] < a[1] ? b : a));
      return `${loss.toFixed(4)} at step ${step}`;
    };
    return [
      [...SIZES, "best validation loss", "of the weights' average", "nanoGPT"],
      [
        ...sizes(outcome),
        ...[best("validationLoss"), best("averageLoss")],
        `${r.published} in ${r.steps} steps`,
      ],
    ];
  },
};

if (import.meta.main) await main(shakespeare);
