import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { encodeCorpus } from "@dsv3/data";
import { countParameters, denseVariant, type ModelConfig, saveModel } from "@dsv3/model";
import { disposeTree, setBackend } from "@dsv3/tensor";
import { trainBpe } from "@dsv3/tokenizer";
import { backendFlag, openBackend } from "../backend.ts";
import { type Command, defineCommand } from "../command.ts";
import { type Lesson, taskTexts, teach } from "../demo/lesson.ts";
import { planned, preTrain, write } from "../demo/pre-train.ts";
import { MODEL, stepsFor, TASK, VOCABULARY } from "../demo/recipe.ts";
import { type Outcome, Reporter } from "../demo/reporter.ts";
import { demoTexts } from "../demo/texts.ts";
import { freeFolder } from "../free-folder.ts";
import type { Sample } from "../report/run-data.ts";
import { writeStagesReport } from "../report/stages.ts";
import { tokenizerFiles } from "../tokenizer-files.ts";
import { formatBytes, formatCount } from "../ui/format.ts";
import { printJson } from "../ui/json.ts";

export const demo: Command = defineCommand({
  summary:
    "Trains a small DeepSeek-V3 on real text, teaches it a task by examples and rewards, in about three minutes.",
  flags: {
    out: {
      type: "string",
      value: "DIR",
      help: "where all of it goes; it must not exist yet (default: runs/demo, or the next free name)",
    },
    seconds: {
      type: "number",
      value: "N",
      help: "how long to train, half of it to pre-train",
      default: 165,
      min: 1,
    },
    steps: {
      type: "integer",
      value: "N",
      help: "steps of pre-training, and others in proportion, in place of --seconds: the same on every machine",
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
    const say = new Reporter(io, json);
    const backend = await openBackend(choice);
    try {
      setBackend(backend);
      say.title("A DeepSeek-V3 learns English on this computer, then to answer");
      const texts = demoTexts();
      const characters = texts.train.reduce((sum, text) => sum + text.length, 0);
      say.fact("text", `${formatBytes(characters)}: speeches to the Congress, and Moby-Dick`);

      const tokenizer = trainBpe([...texts.train, ...taskTexts()], { vocabSize: VOCABULARY });
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
      const plan =
        steps === undefined ? await planned(seconds, config, corpus) : { steps: stepsFor(steps) };
      const bench = { io, folder, config, tokenizer, corpus, heldOut, plan };
      const moe = await preTrain("mixture of experts", "moe", "pre-training", config, bench);
      const outcomes = [moe.outcome];
      if (!io.signal.aborted) {
        const bpb = moe.outcome.bitsPerByte.toFixed(3);
        say.fact("learnt", `${bpb} bits per byte on text it has never seen`);
      }
      const model = join(folder, "model");
      await saveModel(model, config, moe.params, { extraFiles: tokenizerFiles(tokenizer) });
      const samples = io.signal.aborted ? [] : await write(moe.params, config, tokenizer);
      say.samples(samples);

      const lesson = await teach(bench, moe.params);
      say.lesson(lesson);
      if (compareDense && !io.signal.aborted) {
        const dense = await preTrain("dense", "dense", "dense", denseVariant(config), bench);
        disposeTree(dense.params);
        if (!io.signal.aborted) outcomes.push(dense.outcome);
        say.comparison(outcomes);
      }
      const chat = lesson.afterFineTuning && join(folder, "chat");
      const written = { model, ...(chat ? { chat } : {}) };
      const report = io.signal.aborted
        ? undefined
        : await reportOn(folder, outcomes, samples, lesson);
      const elapsed = (performance.now() - began) / 1000;
      const all = { ...written, ...(report ? { report } : {}), seconds: elapsed };
      if (json) printJson(io.stdout, { ...all, models: outcomes, samples, lesson });
      else say.next(all);
    } finally {
      backend.dispose();
    }
  },
});

/** report.html of the whole life, in the demo's folder. */
function reportOn(
  folder: string,
  models: readonly Outcome[],
  samples: readonly Sample[],
  { questions, afterFineTuning, afterRewards, answers }: Lesson,
): Promise<string> {
  const bits = models.map(({ name, bitsPerByte }) => [
    `held-out text, ${name}`,
    { "bits_per_byte,none": bitsPerByte },
  ]);
  const scores = Object.entries({ examples: afterFineTuning, rewards: afterRewards }).map(
    ([after, found]) => [
      `${TASK}, ${questions} unseen questions, after ${after}`,
      { "right,likeliest answer": found?.greedy, "right,answer drawn at random": found?.sampled },
    ],
  );
  const stages = [
    { title: "Pre-training: the next token of prose", folder: "moe" },
    { title: "Fine-tuning: examples of the task", folder: "sft" },
    { title: "Reinforcement learning: rewards for right answers (GRPO)", folder: "grpo" },
  ];
  const asked = answers.map(({ prompt, text }) => ({ prompt, text: ` ${text}` }));
  return writeStagesReport(folder, stages, {
    samples: [...samples, ...asked],
    evaluations: { results: Object.fromEntries([...bits, ...scores]) },
  });
}
