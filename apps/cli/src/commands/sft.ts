import { readFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { ConversationSource, type SourcedChat } from "@dsv3/data";
import { pinNames, readSamples } from "@dsv3/data/node";
import { loadModel, type ModelConfig, parseHuggingFaceConfig } from "@dsv3/model";
import { disposeTree, setBackend } from "@dsv3/tensor";
import { encodeChat, type Tokenizer } from "@dsv3/tokenizer";
import { loadTokenizer } from "@dsv3/tokenizer/node";
import { checkpointFolder, type RunSettings, readRun, sftSchedule } from "@dsv3/train";
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
  model: { type: "string", value: "DIR", help: "the model to teach, with its tokenizer" },
  data: {
    type: "string",
    value: "PATH,PATH",
    help: "conversations: OpenAI, ShareGPT, Alpaca or prompt/completion; files, folders, patterns, hf:owner/name",
  },
  out: { type: "string", value: "DIR", help: "the run's folder, which must not exist yet" },
  resume: { type: "string", value: "DIR", help: "goes on with the run in this folder" },
  epochs: { type: "integer", value: "N", help: "times over the data", default: 2, min: 1 },
  batch: { type: "integer", value: "N", help: "rows at a time", default: 8, min: 1 },
  length: { type: "integer", value: "N", help: "tokens of a row", default: 128, min: 2 },
  accumulate: { type: "integer", value: "N", help: "batches for an update", default: 1, min: 1 },
  learningRate: { type: "number", value: "RATE", help: "at first", default: 5e-6, min: 0 },
  endLearningRate: { type: "number", value: "RATE", help: "at the end", default: 1e-6, min: 0 },
  tooLong: {
    type: "choice",
    choices: ["truncate", "skip"],
    help: "what becomes of conversations longer than a row",
    default: "truncate",
  },
  skipBad: { type: "boolean", help: "report records that are malformed, and go on without them" },
  biasSpeed: {
    type: "number",
    value: "G",
    help: "of the biases that balance the experts",
    default: 0,
    min: 0,
  },
  mtpWeight: {
    type: "number",
    value: "L",
    help: "of the loss of tokens further ahead",
    default: 0.1,
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
  seed: { type: "integer", value: "N", help: "of the order", default: 0, min: 0 },
  checkpointEvery: { type: "integer", value: "N", help: "steps", default: 200, min: 1 },
  keep: { type: "integer", value: "N", help: "checkpoints", default: 2, min: 1 },
  backend: backendFlag,
  json: { type: "boolean", help: "print what came of it as JSON" },
} as const satisfies Record<string, Flag>;

type SftArgs = Args<typeof flags, Record<never, never>>;

/** What a run of this command starts from: `source` of its run.json. */
interface Source {
  readonly model: string;
  readonly data: readonly string[];
  readonly epochs: number;
  readonly tooLong: "truncate" | "skip";
  readonly skipBad: boolean;
}

interface Run {
  readonly dir: string;
  readonly settings: RunSettings;
  readonly config: ModelConfig;
  readonly source: Source;
  readonly tokenizer: Tokenizer;
  readonly data: ConversationSource;
  /** Malformed records that were passed over. */
  readonly bad: number;
}

export const sft: Command = defineCommand({
  summary: "Teaches a model conversations: what the assistant says in them, and nothing else.",
  flags,
  examples: [
    "sft --model runs/demo/model --data chats.jsonl --out runs/chat",
    "sft --model my-model --data 'chats/*.jsonl.gz,more.parquet' --out runs/chat --too-long skip --learning-rate 1e-4",
    "sft --resume runs/chat",
  ],
  async run(args, io) {
    const backend = await openBackend(args.backend);
    try {
      setBackend(backend);
      const run = args.resume ? await existingRun(args.resume, args, io) : await newRun(args, io);
      const { dir, config, settings, source, data } = run;
      const { truncated, skipped, withoutTarget } = data.counts;
      io.stderr.write(
        `${formatCount(data.rows)} rows of ${settings.length} tokens; ${truncated} conversations cut, ` +
          `${skipped} skipped as too long, ${withoutTarget} without words of the assistant, ${run.bad} malformed\n`,
      );
      const result = await trainWithProgress(io, "fine-tuning", dir, config, settings, data, {
        resume: args.resume !== undefined,
        // Also of a resumed run that was killed before its first checkpoint.
        initial: async () => (await loadModel(source.model)).params,
        source,
        extraFiles: tokenizerFiles(run.tokenizer),
      });
      disposeTree(result.params);
      report(io, run, result, args.json);
    } finally {
      backend.dispose();
    }
  },
});

async function newRun(args: SftArgs, io: Io): Promise<Run> {
  if (args.model === undefined) throw new UsageError("--model is missing: what to teach");
  if (args.data === undefined) throw new UsageError("--data is missing: what to learn from");
  if (args.out === undefined) throw new UsageError("--out is missing: where the run goes");
  const dir = await freeFolder(args.out, args.out);
  const { epochs, tooLong, skipBad, batch, accumulate, length } = args;
  const paths = await pinNames(args.data.split(","));
  const source: Source = { model: resolve(args.model), data: paths, epochs, tooLong, skipBad };
  const tokenizer = await loadTokenizer(args.model);
  const { data, bad } = await conversations(io, source, tokenizer, length, args.seed);
  const config = await modelConfig(args.model);
  const steps = Math.ceil((epochs * data.rows) / (batch * accumulate));
  const settings: RunSettings = {
    ...{ steps, batch, length, accumulate, seed: args.seed, momentDtype: args.moments },
    learningRate: sftSchedule(steps, args.learningRate, args.endLearningRate),
    biasSpeed: args.biasSpeed,
    mtpWeight: args.mtpWeight,
    balanceWeight: args.balanceWeight,
    checkpointEvery: args.checkpointEvery,
    keepCheckpoints: args.keep,
  };
  return { dir, settings, config, source, tokenizer, data, bad };
}

async function existingRun(dir: string, args: SftArgs, io: Io): Promise<Run> {
  if (args.out !== undefined || args.data !== undefined || args.model !== undefined) {
    throw new UsageError("--resume takes everything from the run's folder; leave out the rest");
  }
  const { settings, config, source: saved } = await readRun(dir);
  const source = (saved ?? {}) as Source;
  if (!Array.isArray(source.data) || source.model === undefined) {
    throw new Error(
      `${dir}/run.json does not say where its conversations are; it was not started by dsv3 sft`,
    );
  }
  const tokenizer = await loadTokenizer(dir);
  const read = await conversations(io, source, tokenizer, settings.length, settings.seed);
  return { dir, settings, config, source, tokenizer, ...read };
}

async function modelConfig(dir: string): Promise<ModelConfig> {
  const file = join(dir, "config.json");
  const text = await readFile(file, "utf8").catch((cause) => {
    throw new Error(`cannot read ${file}`, { cause });
  });
  return parseHuggingFaceConfig(JSON.parse(text));
}

/** Every conversation, encoded; one's source is its field `source`, or else the name of its file. */
async function conversations(
  io: Io,
  { data, epochs, tooLong, skipBad }: Source,
  tokenizer: Tokenizer,
  length: number,
  seed: number,
): Promise<{ data: ConversationSource; bad: number }> {
  const chats: SourcedChat[] = [];
  let bad = 0;
  const refuse = (where: string, message: string) => {
    if (!skipBad) throw new Error(`${where}: ${message} (--skip-bad goes on without it)`);
    io.stderr.write(`warning: ${where}: ${message}\n`);
    bad++;
  };
  const onProblem = (problem: { file: string; line?: number; message: string }) =>
    refuse(
      problem.line === undefined ? problem.file : `${problem.file}:${problem.line}`,
      problem.message,
    );
  for await (const sample of readSamples(data, { onProblem })) {
    io.signal.throwIfAborted();
    if ("messages" in sample) {
      const source = sample.source ?? basename(sample.file);
      chats.push({ ...encodeChat(tokenizer, sample.messages), source });
    } else {
      refuse(`${sample.file}:${sample.line}`, "a text, but fine-tuning takes conversations");
    }
  }
  const padId = tokenizer.special.eos ?? 0;
  return { data: new ConversationSource(chats, { length, padId, epochs, seed, tooLong }), bad };
}

function report(
  io: Io,
  { dir, data, bad }: Run,
  { progress, finished, tokensPerSecond }: Awaited<ReturnType<typeof trainWithProgress>>,
  json: boolean,
): void {
  const { step, tokens } = progress;
  const model = checkpointFolder(dir, step);
  if (json) {
    const conversations = { ...data.counts, malformed: bad };
    printJson(io.stdout, { model, step, tokens, finished, tokensPerSecond, conversations });
  } else {
    const next = finished ? `dsv3 serve --model ${model}` : `dsv3 sft --resume ${dir}`;
    io.stdout.write(
      `${finished ? "Taught" : "Stopped"} after ${step} steps: ${model}\nNext: ${next}\n`,
    );
  }
}
