import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { pinNames } from "@dsv3/data/node";
import { trainBpeSteps } from "@dsv3/tokenizer";
import { saveTokenizer } from "@dsv3/tokenizer/node";
import { type Command, defineCommand } from "../command.ts";
import { printJson } from "../ui/json.ts";
import { Progress } from "../ui/progress.ts";
import { textsOf } from "./train-data.ts";

export const train: Command = defineCommand({
  summary:
    "Learns a vocabulary from texts and writes it as a Hugging Face folder, with DeepSeek's control tokens.",
  flags: {
    text: {
      type: "string",
      value: "PATH,PATH",
      help: "texts, or records with a `text`: files, also compressed, folders, patterns, hf:owner/name",
      required: true,
    },
    vocabSize: { type: "integer", value: "N", help: "tokens in all", required: true, min: 256 },
    out: {
      type: "string",
      value: "DIR",
      help: "gets tokenizer.json and its config",
      required: true,
    },
    minFrequency: {
      type: "integer",
      value: "N",
      help: "pairs that occur less often are not merged",
      default: 2,
      min: 1,
    },
    maxTokenLength: {
      type: "integer",
      value: "BYTES",
      help: "tokens stay shorter than this",
      min: 2,
    },
    overwrite: { type: "boolean", help: "replace a tokenizer that is there" },
    json: { type: "boolean", help: "print what was written as JSON" },
  },
  examples: ["tokenizer train --text corpus --vocab-size 32000 --out my-tokenizer"],
  async run({ text, vocabSize, out, minFrequency, maxTokenLength, overwrite, json }, io) {
    if (!overwrite && existsSync(join(out, "tokenizer.json"))) {
      throw new Error(
        `${out} has a tokenizer.json already: name another folder, or add --overwrite`,
      );
    }
    if (existsSync(out) && !statSync(out).isDirectory()) {
      throw new Error(`${out} is no folder: name another --out`);
    }
    const progress = new Progress(io.stderr, { label: "merging", total: vocabSize });
    const options = { vocabSize, minFrequency };
    let texts = 0;
    const counted = async function* () {
      for await (const one of textsOf(await pinNames(text.split(",")))) {
        texts++;
        yield one;
      }
    };
    const steps = trainBpeSteps(
      counted(),
      maxTokenLength === undefined ? options : { ...options, maxTokenLength },
    );
    let step = await steps.next();
    for (; !step.done; step = await steps.next()) {
      if (step.value.stage === "merge") progress.update({ done: step.value.done });
      await setImmediate(); // for Ctrl-C
      if (io.signal.aborted) return;
    }
    const tokenizer = step.value;
    progress.finish();
    await saveTokenizer(tokenizer, out);
    if (json) printJson(io.stdout, { out, vocabSize: tokenizer.vocabSize, texts });
    else io.stdout.write(`${out}: ${tokenizer.vocabSize} tokens from ${texts} texts\n`);
    if (tokenizer.vocabSize < vocabSize) {
      io.stderr.write(
        `the texts have no more pairs to merge: ${tokenizer.vocabSize} tokens, not ${vocabSize}\n`,
      );
    }
  },
});
