import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { type Corpus, encodeCorpus, PackedRows } from "@dsv3/data";
import {
  countParameters,
  denseVariant,
  generate,
  type ModelConfig,
  type ModelParams,
  saveModel,
} from "@dsv3/model";
import { disposeTree, setBackend } from "@dsv3/tensor";
import { type Tokenizer, trainBpe } from "@dsv3/tokenizer";
import { bitsPerByte, secondsPerStep } from "@dsv3/train";
import { backendFlag, openBackend } from "../backend.ts";
import { type Command, defineCommand } from "../command.ts";
import { HELD_OUT, MODEL, PROMPTS, recipe, VOCABULARY } from "../demo/recipe.ts";
import { demoTexts } from "../demo/texts.ts";
import { freeFolder } from "../free-folder.ts";
import type { Io } from "../io.ts";
import { trainWithProgress } from "../run-view.ts";
import { tokenizerFiles } from "../tokenizer-files.ts";
import { formatBytes, formatCount, formatDuration } from "../ui/format.ts";
import { printJson } from "../ui/json.ts";
import { styler } from "../ui/style.ts";
import { renderTable } from "../ui/table.ts";

/** What one model came to. */
interface Outcome {
  readonly name: string;
  readonly parameters: number;
  /** Per token. */
  readonly active: number;
  readonly steps: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly bitsPerByte: number;
}

export const demo: Command = defineCommand({
  summary: "Trains a small DeepSeek-V3 on real text in about two minutes, and lets it write.",
  flags: {
    out: {
      type: "string",
      value: "DIR",
      help: "where all of it goes; it must not exist yet (default: runs/demo, or the next free name)",
    },
    seconds: { type: "number", value: "N", help: "how long to train", default: 120, min: 1 },
    steps: {
      type: "integer",
      value: "N",
      help: "steps to train in place of --seconds: the same on every machine",
      min: 2,
    },
    compareDense: {
      type: "boolean",
      help: "also train a dense model of as many active parameters on the same tokens",
    },
    backend: backendFlag,
    json: { type: "boolean", help: "print what was measured and written as JSON" },
  },
  examples: ["demo", "demo --compare-dense", "demo --seconds 600 --out runs/longer"],
  async run({ out, seconds, steps, compareDense, backend: choice, json }, io) {
    const began = performance.now();
    const folder = await freeFolder(out, "runs/demo");
    const say = reporter(io, json);
    const backend = await openBackend(choice);
    try {
      setBackend(backend);
      say.title("A DeepSeek-V3 learns English on this computer");
      const texts = demoTexts();
      const characters = texts.train.reduce((sum, text) => sum + text.length, 0);
      say.fact("text", `${formatBytes(characters)}: speeches to the Congress, and Moby-Dick`);

      const tokenizer = trainBpe(texts.train, { vocabSize: VOCABULARY });
      const corpus = encodeCorpus(texts.train, tokenizer);
      const heldOut = encodeCorpus(texts.heldOut, tokenizer);
      const perToken = (characters / corpus.tokens.length).toFixed(2);
      say.fact("tokenizer", `${tokenizer.vocabSize} tokens learnt, ${perToken} characters each`);

      const config: ModelConfig = { ...MODEL, vocabSize: tokenizer.vocabSize };
      const { total, active } = countParameters(config);
      say.fact(
        "model",
        `${formatCount(total)} parameters, ${formatCount(active)} active for a token: ` +
          `${config.numHiddenLayers} layers, ${config.nRoutedExperts} experts of which ${config.numExpertsPerTok}, and a shared one`,
      );
      await mkdir(folder, { recursive: true });
      const measured = steps ?? (await stepsIn(seconds, config, corpus));
      const bench = { io, folder, tokenizer, corpus, heldOut, steps: measured };
      const moe = await trainOne("mixture of experts", "moe", "training", config, bench);
      const outcomes = [moe.outcome];
      if (moe.finished) {
        const bpb = moe.outcome.bitsPerByte.toFixed(3);
        say.fact("learnt", `${bpb} bits per byte on text it has never seen`);
      }
      const model = join(folder, "model");
      await saveModel(model, config, moe.params, { extraFiles: tokenizerFiles(tokenizer) });
      const samples = io.signal.aborted ? [] : await write(moe.params, config, tokenizer);
      disposeTree(moe.params);
      for (const { prompt, text } of samples) say.sample(prompt, text);
      if (compareDense && !io.signal.aborted) {
        const dense = await trainOne("dense", "dense", "dense", denseVariant(config), bench);
        disposeTree(dense.params);
        if (dense.finished) outcomes.push(dense.outcome);
        say.comparison(outcomes);
      }
      const elapsed = (performance.now() - began) / 1000;
      if (json) printJson(io.stdout, { model, seconds: elapsed, models: outcomes, samples });
      else say.next(model, elapsed);
    } finally {
      backend.dispose();
    }
  },
});

interface Bench {
  readonly io: Io;
  readonly folder: string;
  readonly tokenizer: Tokenizer;
  readonly corpus: Corpus;
  readonly heldOut: Corpus;
  readonly steps: number;
}

const DATA_SEED = 1;

async function stepsIn(seconds: number, config: ModelConfig, corpus: Corpus): Promise<number> {
  const each = await secondsPerStep(config, recipe(1), new PackedRows(corpus, DATA_SEED));
  return Math.max(2, Math.round(seconds / each));
}

/** Trains into a run folder, and measures what it learnt. */
async function trainOne(
  name: string,
  run: string,
  label: string,
  config: ModelConfig,
  { io, folder, tokenizer, corpus, heldOut, steps }: Bench,
): Promise<{ params: ModelParams; finished: boolean; outcome: Outcome }> {
  const result = await trainWithProgress(
    io,
    label,
    join(folder, run),
    config,
    recipe(steps),
    new PackedRows(corpus, DATA_SEED),
    { source: "demo" },
  );
  const { params, progress, finished, tokensPerSecond } = result;
  const rows = new PackedRows(heldOut, DATA_SEED);
  const options = { ...HELD_OUT, batches: finished ? HELD_OUT.batches : 1 };
  const measured = await bitsPerByte(params, config, rows, tokenizer.byteLengths, options);
  const { total, active } = countParameters(config);
  const outcome = {
    name,
    parameters: total,
    active,
    steps: progress.step,
    tokens: progress.tokens,
    tokensPerSecond,
    bitsPerByte: measured.bitsPerByte,
  };
  return { params, finished, outcome };
}

async function write(params: ModelParams, config: ModelConfig, tokenizer: Tokenizer) {
  const prompts = PROMPTS.map((text) => Array.from(tokenizer.encode(text, { addSpecial: true })));
  const options = { maxNewTokens: 60, temperature: 0.7, topP: 0.9, seed: 1 };
  const made = await generate(params, config, prompts, options);
  return made.map((ids, i) => ({
    prompt: PROMPTS[i] as string,
    text: tokenizer.decode(ids, { skipSpecial: true }),
  }));
}

/** What a person sees; nothing with `--json`, whose one document is all of stdout. */
function reporter(io: Io, quiet: boolean) {
  const style = styler(io.stdout, io.env);
  const line = (text: string) => {
    if (!quiet) io.stdout.write(`${text}\n`);
  };
  return {
    title: (text: string) => line(`\n${style("bold", text)}\n`),
    fact: (name: string, text: string) => line(`${style("cyan", name.padEnd(10))}  ${text}`),
    sample: (prompt: string, text: string) =>
      line(`\n${style("bold", prompt)}${text.replace(/\s+/g, " ").trimEnd()} …`),
    comparison(outcomes: readonly Outcome[]) {
      const columns = [
        { title: "model" },
        { title: "active", align: "right" as const },
        { title: "parameters", align: "right" as const },
        { title: "tokens", align: "right" as const },
        { title: "tokens/s", align: "right" as const },
        { title: "held-out bits per byte", align: "right" as const },
      ];
      const rows = outcomes.map((o) => [
        o.name,
        formatCount(o.active),
        formatCount(o.parameters),
        formatCount(o.tokens),
        formatCount(o.tokensPerSecond),
        o.bitsPerByte.toFixed(4),
      ]);
      line(`\n${renderTable(columns, rows).trimEnd()}`);
    },
    next(model: string, seconds: number) {
      line(`\nSaved in ${style("bold", model)} after ${formatDuration(seconds)}. Now try:\n`);
      line(`  npm run -s dsv3 -- generate --model ${model} --prompt "My fellow citizens"`);
      line(`  npm run -s dsv3 -- inspect --model ${model}`);
      line("  npm run -s dsv3 -- demo --seconds 600   # it learns more the longer it reads\n");
    },
  };
}
