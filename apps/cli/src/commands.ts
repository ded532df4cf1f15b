import type { Command } from "./command.ts";

/** A subcommand before it is loaded: enough for `dsv3 --help`, so that help starts nothing heavy. */
export interface CommandEntry {
  summary: string;
  load(): Promise<Command>;
}

/**
 * The subcommands, in the order of the help text. Each is a file of its own under commands/, loaded
 * when it is called, and listed here once it exists.
 */
export const commands: Record<string, CommandEntry> = {
  chat: {
    summary: "Talk with a model, of a folder or behind a URL",
    load: async () => (await import("./commands/chat.ts")).chat,
  },
  bench: {
    summary: "Measure this machine: products, memory, training and decoding",
    load: async () => (await import("./commands/bench.ts")).bench,
  },
  convert: {
    summary: "Write a model in another precision",
    load: async () => (await import("./commands/convert.ts")).convert,
  },
  "data prepare": {
    summary: "Tokenize a mix of texts into shards for training",
    load: async () => (await import("./commands/data.ts")).prepare,
  },
  "data inspect": {
    summary: "What prepared data holds, and whether it is whole",
    load: async () => (await import("./commands/data.ts")).inspect,
  },
  demo: {
    summary: "Train a small DeepSeek-V3 on real text in two minutes, and let it write",
    load: async () => (await import("./commands/demo.ts")).demo,
  },
  distill: {
    summary: "Answers of a teacher that are good, as conversations",
    load: async () => (await import("./commands/distill.ts")).distill,
  },
  eval: {
    summary: "Measure a model on benchmarks and in bits per byte",
    load: async () => (await import("./commands/eval.ts")).evalCommand,
  },
  generate: {
    summary: "Continue a text with a model",
    load: async () => (await import("./commands/generate.ts")).generate,
  },
  grpo: {
    summary: "Reinforcement learning on questions that check themselves",
    load: async () => (await import("./commands/grpo.ts")).grpo,
  },
  inspect: {
    summary: "Parameters, bytes and cache size of a model",
    load: async () => (await import("./commands/inspect.ts")).inspect,
  },
  logits: {
    summary: "Logits of given token ids, for comparing with other implementations",
    load: async () => (await import("./commands/logits.ts")).logits,
  },
  report: {
    summary: "Write what a run came to as a page and as Markdown",
    load: async () => (await import("./commands/report.ts")).report,
  },
  serve: {
    summary: "Serve a model over HTTP to OpenAI's clients",
    load: async () => (await import("./commands/serve.ts")).serve,
  },
  sft: {
    summary: "Teach a model conversations",
    load: async () => (await import("./commands/sft.ts")).sft,
  },
  train: {
    summary: "Train a model on texts, from nothing",
    load: async () => (await import("./commands/train.ts")).train,
  },
  watch: {
    summary: "Show the curves of runs in a page, live",
    load: async () => (await import("./commands/watch.ts")).watch,
  },
  "tokenizer encode": {
    summary: "Token ids of a text, with the borders of the tokens in colours",
    load: async () => (await import("./commands/tokenizer.ts")).encode,
  },
  "tokenizer decode": {
    summary: "Text of token ids",
    load: async () => (await import("./commands/tokenizer.ts")).decode,
  },
  "tokenizer train": {
    summary: "Learn a vocabulary from texts",
    load: async () => (await import("./commands/tokenizer-train.ts")).train,
  },
  "tokenizer inspect": {
    summary: "What a tokenizer is made of",
    load: async () => (await import("./commands/tokenizer.ts")).inspect,
  },
};
