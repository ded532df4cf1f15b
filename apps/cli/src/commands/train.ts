import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { encodeCorpus, PackedRows } from "@dsv3/data";
import { readSamples } from "@dsv3/data/node";
import { checkConfig, type ModelConfig, parseHuggingFaceConfig, preset } from "@dsv3/model";
import { disposeTree, setBackend } from "@dsv3/tensor";
import { type Tokenizer, trainBpe } from "@dsv3/tokenizer";
import { loadTokenizer } from "@dsv3/tokenizer/node";
import {
  checkpointFolder,
  deepseekSchedule,
  type RunRecord,
  type RunSettings,
  readRun,
} from "@dsv3/train";
import { backendFlag, openBackend } from "../backend.ts";
import { type Command, defineCommand } from "../command.ts";
import { UsageError } from "../errors.ts";
import type { Args, Flag } from "../flags.ts";
import { freeFolder } from "../free-folder.ts";
import type { Io } from "../io.ts";
import { trainWithProgress } from "../run-view.ts";
import { tokenizerFiles } from "../tokenizer-files.ts";
import { formatCount } from "../ui/format.ts";
import { printJson } from "../ui/json.ts";

const flags = {
  data: {
    type: "string",
    value: "PATH,PATH",
    help: "files, folders or patterns: text, jsonl, json, parquet, also compressed",
  },
  out: { type: "string", value: "DIR", help: "the run's folder, which must not exist yet" },
  resume: { type: "string", value: "DIR", help: "goes on with the run in this folder" },
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
    help: "of a learnt tokenizer",
    default: 4096,
    min: 300,
  },
  steps: { type: "integer", value: "N", help: "updates of the weights", default: 1000, min: 1 },
  batch: { type: "integer", value: "N", help: "sequences at a time", default: 8, min: 1 },
  length: { type: "integer", value: "N", help: "tokens of a sequence", default: 128, min: 2 },
  accumulate: { type: "integer", value: "N", help: "batches for an update", default: 1, min: 1 },
  rampFrom: { type: "integer", value: "N", help: "batches for the first updates", min: 1 },
  rampSteps: {
    type: "integer",
    value: "N",
    help: "steps from --ramp-from to --accumulate",
    min: 0,
  },
  learningRate: { type: "number", value: "RATE", help: "at its peak", default: 2e-3, min: 0 },
  warmUp: { type: "integer", value: "N", help: "steps to the peak", default: 25, min: 0 },
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
  fimRate: {
    type: "number",
    value: "SHARE",
    help: "of documents rewritten for filling in the middle",
    default: 0,
    min: 0,
    max: 1,
  },
  seed: { type: "integer", value: "N", help: "of weights and order", default: 0, min: 0 },
  checkpointEvery: { type: "integer", value: "N", help: "steps", default: 200, min: 1 },
  keep: { type: "integer", value: "N", help: "checkpoints", default: 2, min: 1 },
  backend: backendFlag,
  json: { type: "boolean", help: "print what came of it as JSON" },
} as const satisfies Record<string, Flag>;

type TrainArgs = Args<typeof flags, Record<never, never>>;

/** Where a run of this command has its tokens from: `source` of its run.json. */
interface Source {
  readonly data: readonly string[];
  readonly fimRate: number;
}

export const train: Command = defineCommand({
  summary: "Trains a model on texts, from nothing, into a folder that can be resumed.",
  flags,
  examples: [
    "train --data books/ --out runs/books",
    "train --data 'corpus/*.jsonl.gz' --config my-config.json --tokenizer my-tokenizer --out runs/mine --steps 20000",
    "train --resume runs/books",
  ],
  async run(args, io) {
    const backend = await openBackend(args.backend);
    try {
      setBackend(backend);
      const { dir, record, tokenizer, texts } = args.resume
        ? await existingRun(args.resume, args)
        : await newRun(args);
      const { fimRate } = record.source as Source;
      const { settings, config } = record;
      const corpus = encodeCorpus(texts, tokenizer, { fimRate, seed: settings.seed });
      io.stderr.write(
        `${formatCount(texts.length)} documents, ${formatCount(corpus.tokens.length)} tokens\n`,
      );
      const result = await trainWithProgress(
        io,
        "training",
        dir,
        config,
        settings,
        new PackedRows(corpus, settings.seed),
        {
          resume: args.resume !== undefined,
          source: record.source,
          extraFiles: tokenizerFiles(tokenizer),
        },
      );
      disposeTree(result.params);
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
  readonly texts: readonly string[];
}

async function newRun(args: TrainArgs): Promise<Run> {
  if (args.data === undefined) throw new UsageError("--data is missing: what to learn from");
  if (args.out === undefined) throw new UsageError("--out is missing: where the run goes");
  if (args.preset !== undefined && args.config !== undefined) {
    throw new UsageError("--preset and --config both say what the model is; give one");
  }
  if ((args.rampFrom === undefined) !== (args.rampSteps === undefined)) {
    throw new UsageError("--ramp-from and --ramp-steps belong together");
  }
  const dir = await freeFolder(args.out, args.out);
  const data = args.data.split(",").map((path) => resolve(path));
  const given = args.config === undefined ? undefined : await readConfig(args.config);
  const texts = await readTexts(data);
  const tokenizer = args.tokenizer
    ? await loadTokenizer(args.tokenizer)
    : trainBpe(texts, { vocabSize: args.vocabSize });
  const config = fitted(given, args.preset ?? "demo", tokenizer);
  const source: Source = { data, fimRate: args.fimRate };
  return { dir, record: { settings: settingsOf(args), config, source }, tokenizer, texts };
}

async function existingRun(dir: string, args: TrainArgs): Promise<Run> {
  if (args.out !== undefined || args.data !== undefined) {
    throw new UsageError("--resume takes everything from the run's folder; leave out the rest");
  }
  const record = await readRun(dir);
  const { data } = (record.source ?? {}) as Partial<Source>;
  if (!Array.isArray(data)) {
    throw new Error(
      `${dir}/run.json does not say where its data is; it was not started by dsv3 train`,
    );
  }
  const tokenizer = await loadTokenizer(dir);
  return { dir, record, tokenizer, texts: await readTexts(data) };
}

/** Every document; conversations are for fine-tuning. */
async function readTexts(paths: readonly string[]): Promise<string[]> {
  const texts: string[] = [];
  for await (const sample of readSamples(paths)) {
    if (!("text" in sample)) {
      throw new Error(
        `${sample.file}:${sample.line}: a conversation, but training from nothing takes texts`,
      );
    }
    texts.push(sample.text);
  }
  return texts;
}

async function readConfig(file: string): Promise<ModelConfig> {
  let json: unknown;
  try {
    json = JSON.parse(await readFile(file, "utf8"));
  } catch (cause) {
    throw new Error(`cannot read ${file}`, { cause });
  }
  return parseHuggingFaceConfig(json);
}

/** A preset takes the tokenizer's vocabulary; a configuration must have room for it. */
function fitted(given: ModelConfig | undefined, name: string, tokenizer: Tokenizer): ModelConfig {
  const { vocabSize, special } = tokenizer;
  if (given && given.vocabSize < vocabSize) {
    throw new Error(
      `the tokenizer has ${vocabSize} tokens and the configuration a vocab_size of ${given.vocabSize}; it needs as many at least`,
    );
  }
  if (given) return given;
  return checkConfig({
    ...preset(name),
    vocabSize,
    bosTokenId: special.bos ?? null,
    eosTokenIds: special.eos === undefined ? [] : [special.eos],
  });
}

function settingsOf(args: TrainArgs): RunSettings {
  const { steps, warmUp, rampFrom, rampSteps } = args;
  return {
    steps,
    batch: args.batch,
    length: args.length,
    accumulate: args.accumulate,
    ...(rampFrom !== undefined && rampSteps !== undefined
      ? { ramp: { from: rampFrom, steps: rampSteps } }
      : {}),
    learningRate: deepseekSchedule(steps, args.learningRate, Math.min(warmUp, steps)),
    biasSpeed: args.biasSpeed,
    mtpWeight: args.mtpWeight,
    balanceWeight: args.balanceWeight,
    momentDtype: args.moments,
    seed: args.seed,
    checkpointEvery: args.checkpointEvery,
    keepCheckpoints: args.keep,
  };
}

function report(
  io: Io,
  dir: string,
  { progress, finished, tokensPerSecond }: Awaited<ReturnType<typeof trainWithProgress>>,
  json: boolean,
): void {
  const { step, tokens } = progress;
  const model = checkpointFolder(dir, step);
  if (json) printJson(io.stdout, { model, step, tokens, finished, tokensPerSecond });
  else {
    const next = finished
      ? `dsv3 generate --model ${model} --prompt "Once"`
      : `dsv3 train --resume ${dir}`;
    io.stdout.write(
      `${finished ? "Trained" : "Stopped"} after ${step} steps: ${model}\nNext: ${next}\n`,
    );
  }
}
