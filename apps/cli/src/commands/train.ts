import { join } from "node:path";
import { type Corpus, encodeCorpus, PackedRows } from "@dsv3/data";
import { pinNames } from "@dsv3/data/node";
import {
  checkConfig,
  type ModelConfig,
  parseHuggingFaceConfig,
  preset,
  saveModel,
  sizedConfig,
} from "@dsv3/model";
import { disposeTree, setBackend } from "@dsv3/tensor";
import { type Tokenizer, trainBpe } from "@dsv3/tokenizer";
import { loadTokenizer } from "@dsv3/tokenizer/node";
import { bitsPerByte, checkpointFolder, type Evaluate, type RunRecord, readRun } from "@dsv3/train";
import { backendFlag, openBackend } from "../backend.ts";
import { type Command, defineCommand } from "../command.ts";
import { UsageError } from "../errors.ts";
import { type Args, type Flag, kebab } from "../flags.ts";
import { freeFolder } from "../free-folder.ts";
import type { Io } from "../io.ts";
import { trainWithProgress } from "../run-view.ts";
import { tokenizerFiles } from "../tokenizer-files.ts";
import { formatCount } from "../ui/format.ts";
import { printJson } from "../ui/json.ts";
import { dataOfTexts, preparedData, readTexts, type TrainData } from "./train-data.ts";
import { readJson, settingsOf } from "./train-settings.ts";

const flags = {
  data: {
    type: "string",
    value: "PATH,PATH",
    help: "texts: files, folders, patterns or hf:owner/name; or a folder that data prepare made",
  },
  out: { type: "string", value: "DIR", help: "the run's folder, which must not exist yet" },
  resume: { type: "string", value: "DIR", help: "goes on with the run in this folder" },
  size: {
    type: "integer",
    value: "N",
    help: "one dial: DeepSeek-V3 scaled to width 128 N, with tokens, batch and rate to match",
    min: 1,
    max: 56,
  },
  preset: { type: "string", value: "NAME", help: "a model's shape (default: demo)" },
  config: { type: "string", value: "FILE", help: "a config.json in place of a preset" },
  tokenizer: {
    type: "string",
    value: "DIR",
    help: "a folder with tokenizer.json; unless given, one is learnt from the data",
  },
  vocabSize: {
    type: "integer",
    value: "N",
    help: "of a learnt tokenizer (default: 4096, more for a --size)",
    min: 300,
  },
  fimRate: {
    type: "number",
    value: "SHARE",
    help: "of documents rewritten for filling in the middle",
    default: 0,
    min: 0,
    max: 1,
  },
  phase: {
    type: "string",
    value: "FILE,FILE",
    help: "phases of the run, as JSON; the first takes what it leaves out from the flags",
  },
  tokens: {
    type: "integer",
    value: "N",
    help: "the report's phases over so many tokens, in place of --steps",
    min: 1,
  },
  extend: {
    type: "string",
    value: "N,N",
    help: "longer contexts to learn after --tokens or --size, by YaRN as in the report",
  },
  extendSteps: {
    type: "integer",
    value: "N",
    help: "updates for each of them",
    default: 1000,
    min: 1,
  },
  steps: { type: "integer", value: "N", help: "updates of the weights (default: 1000)", min: 1 },
  batch: { type: "integer", value: "N", help: "sequences at a time (default: 8)", min: 1 },
  length: { type: "integer", value: "N", help: "tokens of a sequence (default: 128)", min: 2 },
  accumulate: { type: "integer", value: "N", help: "batches for an update", default: 1, min: 1 },
  rampFrom: { type: "integer", value: "N", help: "batches for the first updates", min: 1 },
  rampSteps: {
    type: "integer",
    value: "N",
    help: "steps from --ramp-from to --accumulate",
    min: 0,
  },
  learningRate: { type: "number", value: "RATE", help: "at its peak (default: 0.002)", min: 0 },
  warmUp: { type: "integer", value: "N", help: "steps to the peak (default: 25)", min: 0 },
  biasSpeed: {
    type: "number",
    value: "G",
    help: "of the biases that balance the experts",
    default: 1e-3,
    min: 0,
  },
  mtpWeight: {
    type: "number",
    value: "L",
    help: "of the loss of tokens further ahead",
    default: 0.3,
    min: 0,
  },
  balanceWeight: {
    type: "number",
    value: "A",
    help: "of the balance loss of a sequence",
    default: 1e-4,
    min: 0,
  },
  moments: { type: "choice", choices: ["f32", "bf16"], help: "of AdamW", default: "f32" },
  precision: {
    type: "choice",
    choices: ["f32", "bf16", "fp8"],
    help: "of activations; fp8: bf16, and products of layers in FP8 as the report trains",
    default: "f32",
  },
  remat: { type: "boolean", help: "compute layers again instead of keeping their activations" },
  dropout: {
    type: "number",
    value: "SHARE",
    help: "of values left out at random",
    default: 0,
    min: 0,
    max: 0.99,
  },
  ema: {
    type: "number",
    value: "DECAY",
    help: "keeps an exponential moving average of the weights, saved as a model in DIR/ema",
    min: 0,
    max: 0.999999,
  },
  seed: { type: "integer", value: "N", help: "of weights and order", default: 0, min: 0 },
  checkpointEvery: { type: "integer", value: "N", help: "steps", default: 200, min: 1 },
  keep: { type: "integer", value: "N", help: "checkpoints", default: 2, min: 1 },
  heldOut: {
    type: "string",
    value: "PATH,PATH",
    help: "texts to measure bits per byte on, of the weights and of their average",
  },
  evaluateEvery: {
    type: "integer",
    value: "N",
    help: "steps between measurements",
    default: 200,
    min: 1,
  },
  backend: backendFlag,
  json: { type: "boolean", help: "print what came of it as JSON" },
} as const satisfies Record<string, Flag>;

/** What may be said anew when a run goes on. */
const BESIDE_RESUME = new Set(["resume", "backend", "json"]);

type TrainArgs = Args<typeof flags, Record<never, never>>;

/** Where a run of this command has its tokens from: `source` of its run.json. */
interface Source {
  readonly data: readonly string[];
  readonly fimRate: number;
  /** Of prepared data: its digest, so that a run goes on with the same. */
  readonly shards?: string;
  readonly heldOut?: readonly string[];
  readonly evaluateEvery?: number;
}

export const train: Command = defineCommand({
  summary: "Trains a model on texts, from nothing, into a folder that can be resumed.",
  flags,
  examples: [
    "train --data books/ --out runs/books",
    "train --data 'corpus/*.jsonl.gz' --config my-config.json --tokenizer my-tokenizer --out runs/mine --steps 20000",
    "train --data books/ --out runs/long --phase pretrain.json,extend.json --ema 0.999 --held-out more-books/",
    "train --data corpus/ --out runs/size-4 --size 4 --accumulate 5 --backend cuda --precision bf16",
    "train --data books/ --out runs/report --tokens 50000000 --accumulate 5 --length 256 --extend 512,1024",
    "train --data shards/mix --out runs/mix",
    "train --resume runs/books",
  ],
  async run(args, io) {
    const backend = await openBackend(args.backend);
    try {
      setBackend(backend);
      const { dir, record, tokenizer, data } = args.resume
        ? await existingRun(args.resume, args)
        : await newRun(args);
      const source = record.source as Source;
      const { settings, config } = record;
      io.stderr.write(
        `${formatCount(data.documents)} documents, ${formatCount(data.tokens)} tokens\n`,
      );
      const evaluate = await evaluation(source, tokenizer);
      const extraFiles = tokenizerFiles(tokenizer);
      const result = await trainWithProgress(io, "training", dir, config, settings, data.rows, {
        resume: args.resume !== undefined,
        source,
        extraFiles,
        ...(evaluate ? { evaluate } : {}),
      });
      if (result.ema && result.finished) {
        await saveModel(join(dir, "ema"), result.config, result.ema, {
          ...{ extraFiles, overwrite: true },
        });
      }
      disposeTree([result.params, result.ema]);
      data.close();
      report(io, dir, result, args.json);
    } finally {
      backend.dispose();
    }
  },
});

interface Run {
  readonly dir: string;
  readonly record: RunRecord;
  readonly tokenizer: Tokenizer;
  readonly data: TrainData;
}

async function newRun(args: TrainArgs): Promise<Run> {
  if (args.data === undefined) throw new UsageError("--data is missing: what to learn from");
  if (args.out === undefined) throw new UsageError("--out is missing: where the run goes");
  const models = [args.size, args.preset, args.config].filter((model) => model !== undefined);
  if (models.length > 1) {
    throw new UsageError("--size, --preset and --config all say what the model is; give one");
  }
  const settings = await settingsOf(args);
  const dir = await freeFolder(args.out, args.out);
  const data = await pinNames(args.data.split(","));
  const shape = args.size === undefined ? preset(args.preset ?? "demo") : sizedConfig(args.size);
  const given =
    args.config === undefined ? undefined : parseHuggingFaceConfig(await readJson(args.config));
  const prepared = await preparedData(data);
  if (prepared && (args.tokenizer !== undefined || args.fimRate > 0)) {
    throw new UsageError(
      "prepared data has its tokenizer and its share of filling in the middle; leave out --tokenizer and --fim-rate",
    );
  }
  const texts = prepared ? [] : await readTexts(data);
  const tokenizer =
    prepared?.tokenizer ??
    (args.tokenizer
      ? await loadTokenizer(args.tokenizer)
      : trainBpe(texts, {
          vocabSize: args.vocabSize ?? (args.size === undefined ? 4096 : shape.vocabSize),
        }));
  const config = fitted(given, shape, tokenizer);
  const { heldOut, evaluateEvery } = args;
  const source: Source = {
    ...{ data, fimRate: args.fimRate },
    ...(prepared ? { shards: prepared.sha256 } : {}),
    ...(heldOut ? { heldOut: await pinNames(heldOut.split(",")), evaluateEvery } : {}),
  };
  const { fimRate } = args;
  const { seed } = settings;
  return {
    ...{ dir, record: { settings, config, source }, tokenizer },
    data: prepared?.open(seed) ?? dataOfTexts(texts, tokenizer, { fimRate, seed }),
  };
}

async function existingRun(dir: string, args: TrainArgs): Promise<Run> {
  for (const [name, flag] of Object.entries<Flag>(flags)) {
    const usual = "default" in flag ? flag.default : flag.type === "boolean" ? false : undefined;
    if (!BESIDE_RESUME.has(name) && args[name as keyof TrainArgs] !== usual) {
      throw new UsageError(
        `--resume takes everything from the run's folder; leave out the rest (--${kebab(name)})`,
      );
    }
  }
  const record = await readRun(dir);
  const { data, shards, fimRate = 0 } = (record.source ?? {}) as Partial<Source>;
  if (!Array.isArray(data)) {
    throw new Error(
      `${dir}/run.json does not say where its data is; it was not started by dsv3 train`,
    );
  }
  const { seed } = record.settings;
  const tokenizer = await loadTokenizer(dir).catch((cause) => {
    throw new Error(`cannot read the run's tokenizer, of which its checkpoints hold copies`, {
      cause,
    });
  });
  const prepared = await preparedData(data);
  if (prepared?.sha256 !== shards) {
    throw new Error(`${data.join(", ")} is not the data that ${dir} was started with`);
  }
  return {
    ...{ dir, record, tokenizer },
    data: prepared?.open(seed) ?? dataOfTexts(await readTexts(data), tokenizer, { fimRate, seed }),
  };
}

/** Bits per byte of the weights, and of their average, on texts that are not trained on. */
async function evaluation(
  { heldOut, evaluateEvery = 1 }: Source,
  tokenizer: Tokenizer,
): Promise<Evaluate | undefined> {
  if (heldOut === undefined) return undefined;
  const corpus: Corpus = encodeCorpus(await readTexts(heldOut), tokenizer);
  return {
    every: evaluateEvery,
    async measure({ params, ema }, config) {
      const length = Math.min(HELD_OUT.length, config.maxPositionEmbeddings);
      const rows = Math.max(1, Math.floor(corpus.tokens.length / length));
      const batch = Math.min(HELD_OUT.batch, rows);
      const batches = Math.min(HELD_OUT.batches, Math.floor(rows / batch));
      const measured = async (weights: typeof params) => {
        const size = { batches, batch, length };
        const data = new PackedRows(corpus, 0);
        return (await bitsPerByte(weights, config, data, tokenizer.byteLengths, size)).bitsPerByte;
      };
      const own = { bitsPerByte: await measured(params) };
      return ema ? { ...own, emaBitsPerByte: await measured(ema) } : own;
    },
  };
}

/** Tokens that are measured, at most. */
const HELD_OUT = { batches: 40, batch: 8, length: 128 } as const;

/** A preset or size takes the tokenizer's vocabulary; a configuration must have room for it. */
function fitted(
  given: ModelConfig | undefined,
  shape: ModelConfig,
  tokenizer: Tokenizer,
): ModelConfig {
  const { vocabSize, special } = tokenizer;
  if (given && given.vocabSize < vocabSize) {
    throw new Error(
      `the tokenizer has ${vocabSize} tokens and the configuration a vocab_size of ${given.vocabSize}; it needs as many at least`,
    );
  }
  if (given) return given;
  return checkConfig({
    ...shape,
    vocabSize,
    bosTokenId: special.bos ?? null,
    eosTokenIds: special.eos === undefined ? [] : [special.eos],
  });
}

function report(
  io: Io,
  dir: string,
  result: Awaited<ReturnType<typeof trainWithProgress>>,
  json: boolean,
): void {
  const { progress, finished, tokensPerSecond, evaluation } = result;
  const { step, tokens } = progress;
  const model = checkpointFolder(dir, step);
  const average = result.ema && finished ? { ema: join(dir, "ema") } : {};
  if (json) {
    const measured = { tokensPerSecond, ...(evaluation ? { evaluation } : {}) };
    printJson(io.stdout, { model, ...average, step, tokens, finished, ...measured });
  } else {
    const next = finished
      ? `dsv3 generate --model ${model} --prompt "Once"`
      : `dsv3 train --resume ${dir}`;
    io.stdout.write(
      [
        `${finished ? "Trained" : "Stopped"} after ${step} steps: ${model}`,
        ...(average.ema ? [`Average of the weights: ${average.ema}`] : []),
        ...Object.entries(evaluation ?? {}).map(([name, value]) => `${name}: ${value.toFixed(4)}`),
        `Next: ${next}\n`,
      ].join("\n"),
    );
  }
}
