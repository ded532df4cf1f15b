import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { extname, join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { trainBpeSteps } from "@dsv3/tokenizer";
import { saveTokenizer } from "@dsv3/tokenizer/node";
import { type Command, defineCommand } from "../command.ts";
import { printJson } from "../ui/json.ts";
import { Progress } from "../ui/progress.ts";

export const train: Command = defineCommand({
  summary:
    "Learns a vocabulary from texts and writes it as a Hugging Face folder, with DeepSeek's control tokens.",
  flags: {
    text: {
      type: "string",
      value: "PATH",
      help: "a .txt or .md file, a .jsonl file with a `text` in each line, or a folder of them",
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
    const files = textFiles(text);
    const progress = new Progress(io.stderr, { label: "merging", total: vocabSize });
    const options = { vocabSize, minFrequency };
    const steps = trainBpeSteps(
      readTexts(files),
      maxTokenLength === undefined ? options : { ...options, maxTokenLength },
    );
    let step = steps.next();
    for (; !step.done; step = steps.next()) {
      if (step.value.stage === "merge") progress.update({ done: step.value.done });
      await setImmediate(); // for Ctrl-C
      if (io.signal.aborted) return;
    }
    const tokenizer = step.value;
    progress.finish();
    await saveTokenizer(tokenizer, out);
    if (json) printJson(io.stdout, { out, vocabSize: tokenizer.vocabSize, files: files.length });
    else io.stdout.write(`${out}: ${tokenizer.vocabSize} tokens from ${files.length} files\n`);
    if (tokenizer.vocabSize < vocabSize) {
      io.stderr.write(
        `the texts have no more pairs to merge: ${tokenizer.vocabSize} tokens, not ${vocabSize}\n`,
      );
    }
  },
});

const EXTENSIONS = [".txt", ".md", ".jsonl"];

/** The text files of a path, in the order of their names. */
function textFiles(path: string): string[] {
  if (!existsSync(path)) throw new Error(`${path} does not exist`);
  if (!statSync(path).isDirectory()) {
    if (EXTENSIONS.includes(extname(path))) return [path];
    throw new Error(`${path} is not one of ${EXTENSIONS.join(", ")}`);
  }
  const files = readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && EXTENSIONS.includes(extname(entry.name)))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  if (files.length > 0) return files;
  throw new Error(`${path} has no file that ends in ${EXTENSIONS.join(", ")}`);
}

/** One file in memory at a time. */
function* readTexts(files: readonly string[]): Generator<string> {
  for (const file of files) {
    const content = readFileSync(file, "utf8");
    if (extname(file) === ".jsonl") yield* jsonLines(content, file);
    else yield content;
  }
}

function* jsonLines(content: string, file: string): Generator<string> {
  let line = 0;
  for (let start = 0; start < content.length; ) {
    const newline = content.indexOf("\n", start);
    const end = newline < 0 ? content.length : newline;
    const json = content.slice(start, end).trim();
    start = end + 1;
    line++;
    if (json !== "") yield textOf(json, `${file}, line ${line}`);
  }
}

function textOf(json: string, where: string): string {
  let record: unknown;
  try {
    record = JSON.parse(json);
  } catch (cause) {
    throw new Error(`${where} is not JSON`, { cause });
  }
  const text = (record as { text?: unknown } | null)?.text;
  if (typeof text === "string") return text;
  throw new Error(`${where} has no string "text"`);
}
