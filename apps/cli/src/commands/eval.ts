import { basename } from "node:path";
import { readRecords } from "@dsv3/data/node";
import {
  checkPython,
  type DocumentSource,
  EngineModel,
  EVAL_GROUPS,
  EVAL_TASKS,
  type EvalResults,
  evaluate,
  folderSource,
  hubSource,
  publishedScores,
  type Sample,
  type Selection,
  selectTasks,
  type Task,
  textTask,
} from "@dsv3/eval";
import { loadModel } from "@dsv3/model";
import { disposeTree, setBackend } from "@dsv3/tensor";
import { loadTokenizer } from "@dsv3/tokenizer/node";
import { backendFlag, openBackend } from "../backend.ts";
import { type Command, defineCommand } from "../command.ts";
import { UsageError } from "../errors.ts";
import { type Args, type Flag, suggestion } from "../flags.ts";
import type { Io } from "../io.ts";
import { printJson } from "../ui/json.ts";
import { Progress } from "../ui/progress.ts";
import { WholeFile } from "./eval-files.ts";
import { publishedTable, scoreTable } from "./eval-view.ts";

const flags = {
  model: { type: "string", value: "DIR", help: "the model to measure, with its tokenizer" },
  tasks: { type: "string", value: "A,B", help: "tasks and groups; --list shows them" },
  texts: {
    type: "string",
    value: "PATH,PATH",
    help: "texts whose bits per byte are measured, each path by itself; txt, jsonl, json, parquet",
  },
  data: {
    type: "string",
    value: "DIR",
    help: "documents as DIR/<task>/<split>.jsonl (.json, .parquet); from the Hugging Face Hub unless given",
  },
  list: { type: "boolean", help: "print the tasks and groups, and the columns that they read" },
  limit: { type: "integer", value: "N", help: "the first N documents of each task", min: 1 },
  numFewshot: {
    type: "integer",
    value: "N",
    help: "solved documents before each question; each task has its own number",
    min: 0,
  },
  batch: { type: "integer", value: "N", help: "requests at a time", default: 16, min: 1 },
  maxLength: {
    type: "integer",
    value: "N",
    help: "tokens that the model reads at once; its whole context unless given",
    min: 2,
  },
  maxNewTokens: {
    type: "integer",
    value: "N",
    help: "tokens of an answer at most; each task has its own number",
    min: 1,
  },
  repeats: {
    type: "integer",
    value: "N",
    help: "answers to a question in tasks of pass@k",
    default: 1,
    min: 1,
    max: 128,
  },
  temperature: {
    type: "number",
    value: "T",
    help: "of those answers; 0 takes the likeliest tokens",
    default: 0,
    min: 0,
  },
  seed: {
    type: "integer",
    value: "N",
    help: "of few-shot examples and sampled answers",
    default: 1234,
    min: 0,
  },
  allowCode: {
    type: "boolean",
    help: "runs the Python that the model writes (humaneval), in a sandbox",
  },
  dtype: {
    type: "choice",
    choices: ["f32", "bf16"],
    help: "of weights and activations",
    default: "f32",
  },
  backend: backendFlag,
  out: { type: "string", value: "FILE", help: "writes the results there as JSON" },
  samples: {
    type: "string",
    value: "FILE",
    help: "writes each document there, with what was asked and answered: a line of JSON each",
  },
  json: { type: "boolean", help: "print the results as JSON, in lm-evaluation-harness's layout" },
} as const satisfies Record<string, Flag>;

type EvalArgs = Args<typeof flags, Record<never, never>>;

export const evalCommand: Command = defineCommand({
  summary: "Measures a model on benchmarks, as lm-evaluation-harness does, and in bits per byte.",
  flags,
  examples: [
    "eval --list",
    "eval --model my-model --tasks arc_easy,lambada_openai --data benchmarks/ --limit 200",
    "eval --model my-model --tasks mmlu --num-fewshot 5 --out results.json --samples samples.jsonl",
    "eval --model my-model --texts held-out.jsonl,novels.txt --json",
    "eval --model my-model --tasks humaneval --allow-code --repeats 16 --temperature 0.8",
  ],
  async run(args, io) {
    if (args.list) return list(args, io);
    const { model, tasks, texts } = args;
    if (model === undefined) throw new UsageError("--model is missing: what to measure");
    if (tasks === undefined && texts === undefined) {
      throw new UsageError("--tasks or --texts is missing: what to measure it with; see --list");
    }
    if (args.repeats > 1 && args.temperature === 0) {
      throw new UsageError("--repeats of --temperature 0 are all the same; give a temperature");
    }
    const selection = chosen(args);
    const code = selection.tasks.filter(({ runsCode }) => runsCode);
    if (code.length > 0) {
      const names = code.map(({ name }) => name).join(", ");
      if (!args.allowCode) {
        throw new UsageError(`${names} runs code that the model wrote; --allow-code allows it`);
      }
      await checkPython();
    }
    const results = await measure(model, selection, args, io);
    if (args.json) printJson(io.stdout, results);
    else io.stdout.write(scoreTable(results) + publishedTable(results));
  },
});

function list({ json }: EvalArgs, io: Io): void {
  if (json) {
    const tasks = EVAL_TASKS.map(({ name, kind, dataset, split, fewShot, metrics }) => ({
      ...{ name, kind, dataset, split, fewShot, metrics: Object.keys(metrics) },
      published: publishedScores(name),
    }));
    printJson(io.stdout, { tasks, groups: EVAL_GROUPS });
    return;
  }
  const inGroups = new Set(EVAL_GROUPS.flatMap(({ members }) => members));
  for (const { name, kind, dataset, split } of EVAL_TASKS) {
    if (inGroups.has(name)) continue;
    const where = [dataset.path, dataset.config, split].filter(Boolean).join(" ");
    io.stdout.write(
      `${name.padEnd(24)} ${kind.padEnd(22)} ${where}: ${dataset.columns.join(", ")}\n`,
    );
  }
  io.stdout.write("\nGroups\n");
  for (const { name, members } of EVAL_GROUPS) {
    io.stdout.write(
      `${name.padEnd(24)} ${members.length} tasks: ${members.slice(0, 3).join(", ")} …\n`,
    );
  }
}

/** @throws {UsageError} for a name that there is not, with the nearest one */
function chosen({ tasks: names, texts }: EvalArgs): Selection {
  const known = [...EVAL_TASKS, ...EVAL_GROUPS].map(({ name }) => name);
  const asked = (names ?? "").split(",").filter((name) => name !== "");
  const wrong = asked.find((name) => !known.includes(name));
  if (wrong !== undefined) {
    const near = suggestion(wrong, known, "") || "; --list shows them all";
    throw new UsageError(`--tasks: there is no task "${wrong}"${near}`);
  }
  const { tasks, groups } = selectTasks(asked);
  const paths = (texts ?? "").split(",").filter((path) => path !== "");
  return { tasks: [...tasks, ...paths.map((path) => ownTexts(path, paths))], groups };
}

/** Named after the file, or the whole path where two files have the same name. */
function ownTexts(path: string, paths: readonly string[]): Task {
  const same = paths.filter((other) => basename(other) === basename(path)).length > 1;
  return textTask(`text_${same ? path : basename(path)}`, () => readRecords([path]));
}

async function measure(
  dir: string,
  { tasks, groups }: Selection,
  args: EvalArgs,
  io: Io,
): Promise<EvalResults> {
  const source: DocumentSource =
    args.data === undefined ? hubSource(io.signal) : folderSource(args.data, io.signal);
  const tokenizer = await loadTokenizer(dir);
  const files: WholeFile[] = [];
  const file = async (path: string | undefined) => {
    if (path === undefined) return undefined;
    files.push(await WholeFile.open(path));
    return files.at(-1);
  };
  const backend = await openBackend(args.backend);
  try {
    const [out, log] = [await file(args.out), await file(args.samples)];
    setBackend(backend);
    const { params, config } = await loadModel(dir, { mtp: false, dtype: args.dtype });
    const { batch, maxLength, dtype: computeDtype } = args;
    const sizes = { batch, computeDtype, ...(maxLength === undefined ? {} : { maxLength }) };
    const model = new EngineModel({ params, config, tokenizer, ...sizes });
    try {
      const scored = await run(model, { tasks, groups }, source, args, io, log);
      const settings = { model: "dsv3", model_args: dir, batch_size: batch, seed: args.seed };
      const results = { ...scored, config: { ...settings, ...scored.config } };
      out?.write(`${JSON.stringify(results, null, 2)}\n`);
      for (const one of files) await one.finish();
      return results;
    } finally {
      await model.dispose();
      disposeTree(params);
    }
  } finally {
    for (const one of files) await one.discard();
    backend.dispose();
  }
}

async function run(
  model: EngineModel,
  { tasks, groups }: Selection,
  source: DocumentSource,
  args: EvalArgs,
  io: Io,
  log: WholeFile | undefined,
): Promise<EvalResults> {
  const { limit, numFewshot, batch, repeats, temperature, seed, maxNewTokens, allowCode } = args;
  let progress: Progress | undefined;
  const results = await evaluate({
    ...{ tasks, groups, model, source, repeats, temperature, seed, allowCode, parallel: batch },
    ...(limit === undefined ? {} : { limit }),
    ...(numFewshot === undefined ? {} : { numFewShot: numFewshot }),
    ...(maxNewTokens === undefined ? {} : { maxTokens: maxNewTokens }),
    signal: io.signal,
    onSample: (sample) => log?.write(sampleLine(sample)),
    onProgress({ done, total }) {
      progress ??= new Progress(io.stderr, { label: "evaluating", total });
      const { promptTokens, generatedTokens } = model.stats();
      progress.update({ done, tokens: promptTokens + generatedTokens });
    },
  });
  progress?.finish();
  return results;
}

/** A line of samples, in the fields of the harness's log. */
function sampleLine({ task, index, record, target, answer }: Sample): string {
  const { requests, responses, values } = answer;
  const line = { task, doc_id: index, doc: record, target, arguments: requests, resps: responses };
  return `${JSON.stringify({ ...line, ...values }, numbers)}\n`;
}

/** Tables keep whole numbers as bigints, which JSON does not have. */
function numbers(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? Number(value) : value;
}
