/** Texts to a folder of tokenized shards, which training reads in place of the texts. */
import { hash } from "node:crypto";
import { stat } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { serialize } from "node:v8";
import type { Tokenizer } from "@dsv3/tokenizer";
import { EncoderPool } from "@dsv3/tokenizer/node";
import { cutInThree, fimTokens } from "../fim.ts";
import { randomStream } from "../random.ts";
import { Deduplicator, type DeduplicatorOptions } from "./dedupe.ts";
import { findFiles } from "./files.ts";
import type { InputFile } from "./input-file.ts";
import { type FileCounts, manifestOf, type ShardedSource, type ShardManifest } from "./manifest.ts";
import { type DataProblem, type ReadOptions, readFile as readSamplesOf, reporter } from "./read.ts";
import { ShardBuilder, tokenBytesFor } from "./shard-file.ts";
import { Unfinished } from "./unfinished.ts";

export interface PrepareProgress {
  /** Tokenized so far. */
  readonly documents: number;
  readonly tokens: number;
  /** Stored bytes of the files that were read, of those of all files. */
  readonly read: number;
  readonly size: number;
}

export interface PrepareOptions extends Omit<ReadOptions, "onRead"> {
  /** What to read, as `readSamples` takes it; rows are drawn from each source by its weight. */
  readonly sources: readonly { readonly paths: readonly string[]; readonly weight: number }[];
  readonly tokenizer: Tokenizer;
  /** Share of documents rewritten for filling in the middle (0.1 in section 4.1 of the report); 0 unless told. */
  readonly fimRate?: number;
  /** Decides which documents, and where they are cut. */
  readonly seed?: number;
  /** Leaves out duplicates, over all sources together; without it they are kept. */
  readonly duplicates?: DeduplicatorOptions;
  /** Tokens after which a shard ends, with its document; 2²⁵ unless told. */
  readonly shardTokens?: number;
  /** Threads that encode, one for every core unless told; 1 is the caller's own. */
  readonly threads?: number;
  readonly onProgress?: (progress: PrepareProgress) => void;
}

/** Texts are encoded together up to this many UTF-16 units a thread. */
const BATCH_LENGTH = 1 << 20;

/**
 * Tokenizes documents, each after the begin-of-sentence token where the tokenizer has one and before
 * the end-of-sequence token, into `folder`, which must not exist. A `signal` stops the work. Memory holds one shard and the texts
 * of two batches, and with `duplicates` some numbers for each document.
 *
 * The folder appears when it is whole. Until then the shards are in `folder.unfinished`; after a stop
 * or a crash the same call goes on with them and gives the same bytes, since everything random is a function of
 * the seed and the number of a document. It reads the texts again, but encodes only what is missing.
 * @throws DataError for the first problem, unless `onProblem` is given; Error when what is unfinished
 *   there was begun from other data or with other options, and when no text is left
 */
export async function prepareShards(
  folder: string,
  options: PrepareOptions,
): Promise<ShardManifest> {
  if (await stat(folder).catch(() => undefined)) throw new Error(`${folder} exists already`);
  const { tokenizer, duplicates, fimRate = 0, seed = 0, shardTokens = 2 ** 25 } = options;
  const settings: Settings = { fimRate, seed, shardTokens };
  const tokenBytes = tokenBytesFor(tokenizer.vocabSize);
  if (tokenizer.special.eos === undefined) {
    throw new Error("the tokenizer has no end-of-sequence token, which ends each document");
  }
  if (fimRate > 0) fimTokens(tokenizer);
  if (options.sources.length === 0) throw new RangeError("there must be one source at least");
  const inputs: InputFile[][] = [];
  for (const { paths, weight } of options.sources) {
    if (!(weight > 0 && Number.isFinite(weight))) {
      throw new RangeError(
        `the weight of ${paths.join(", ")} must be a positive number, is ${weight}`,
      );
    }
    inputs.push(await findFiles(paths));
  }
  const plan = {
    sources: options.sources.map(({ paths, weight }, s) => ({
      paths,
      weight,
      files: (inputs[s] as InputFile[]).map(({ name, version }) => ({ name, version })),
    })),
    tokenizer: hash("sha256", serialize(tokenizer.data)),
    ...{ ...settings, tokenBytes, maxBytes: options.maxBytes ?? null },
    duplicates: duplicates ? (duplicates.near ?? "default") : "kept",
  };
  const work = await Unfinished.open(resolve(folder), plan);
  await using encoder = encoderOf(tokenizer, options.threads ?? availableParallelism());
  const seen = duplicates && new Deduplicator(duplicates);
  const reading = { read: 0, size: inputs.flat().reduce((sum, { size }) => sum + size, 0) };
  const sources: ShardedSource[] = [];
  for (const [s, { paths, weight }] of options.sources.entries()) {
    const context = { options, settings, encoder, seen, work, reading };
    sources.push({ paths, weight, ...(await prepareSource(s, inputs[s] as InputFile[], context)) });
  }
  const { vocabSize } = tokenizer;
  const manifest = manifestOf({ tokenBytes, vocabSize, fimRate, seed, sources });
  await work.finish(manifest, tokenizer);
  return manifest;
}

type Settings = Required<Pick<PrepareOptions, "fimRate" | "seed" | "shardTokens">>;

type Encoder = Pick<EncoderPool, "threads" | "encodeBatch" | typeof Symbol.asyncDispose>;

/** One thread is the caller's: a pool of one would copy every text and all ids for nothing. */
function encoderOf(tokenizer: Tokenizer, threads: number): Encoder {
  if (threads > 1) return new EncoderPool(tokenizer, { threads });
  return {
    threads: 1,
    encodeBatch: async (texts) => tokenizer.encodeBatch(texts),
    [Symbol.asyncDispose]: async () => {},
  };
}

interface Context {
  readonly options: PrepareOptions;
  readonly settings: Settings;
  readonly encoder: Encoder;
  readonly seen: Deduplicator | undefined;
  readonly work: Unfinished;
  /** Stored bytes, for the progress. */
  readonly reading: { read: number; readonly size: number };
}

/** A document on its way to the encoder: its text, or the three parts of it. */
type Pieces = readonly string[];

async function prepareSource(
  s: number,
  files: readonly InputFile[],
  { options, settings, encoder, seen, work, reading }: Context,
): Promise<Omit<ShardedSource, "paths" | "weight">> {
  const { tokenizer } = options;
  const { fimRate, seed, shardTokens } = settings;
  const shards = work.shardsOf(s);
  const done = shards.reduce((sum, { documents }) => sum + documents, 0);
  const builder = new ShardBuilder(tokenBytesFor(tokenizer.vocabSize));
  const totals = { documents: 0, bytes: 0, fimDocuments: 0 };

  const tell = () => options.onProgress?.({ ...work.progress(builder), ...reading });
  const finishShard = async () => {
    const file = `${s}-${String(shards.length).padStart(5, "0")}.tokens`;
    const { documents, size: tokens } = builder;
    const sha256 = await work.write(file, builder.take());
    shards.push({ file, documents, tokens, sha256 });
    await work.save();
  };
  const store = async (batch: readonly Pieces[], encoded: Promise<Uint32Array[]>) => {
    const ids = await encoded;
    let at = 0;
    for (const pieces of batch) {
      builder.add(framed(tokenizer, ids.slice(at, at + pieces.length)));
      at += pieces.length;
      if (builder.size >= shardTokens) await finishShard();
    }
    tell();
  };

  // While one batch is encoded, the next is read.
  let encoding: Promise<void> = Promise.resolve();
  let batch: Pieces[] = [];
  let length = 0;
  const encode = async () => {
    await encoding;
    const full = batch;
    encoding = store(full, encoder.encodeBatch(full.flat()));
    encoding.catch(() => {}); // it is awaited before the next batch, or at the end
    batch = [];
    length = 0;
  };

  const counts: FileCounts[] = [];
  for (const file of files) {
    const of = { documents: 0, empty: 0, exactDuplicates: 0, nearDuplicates: 0, problems: 0 };
    const before = reading.read;
    const onRead = (bytes: number) => {
      reading.read += bytes;
      tell();
    };
    for await (const text of textsOf(file, { ...options, onRead }, of)) {
      if (text.length === 0) of.empty++;
      const found = text.length === 0 ? undefined : (seen?.add(text) ?? "new");
      if (found === "exact") of.exactDuplicates++;
      if (found === "near") of.nearDuplicates++;
      if (found !== "new") continue;
      of.documents++;
      const number = totals.documents++;
      totals.bytes += Buffer.byteLength(text);
      const random = randomStream(seed + Math.imul(s, 0x85ebca6b) + Math.imul(number, 0x9e3779b1));
      const fim = random() < fimRate;
      if (fim) totals.fimDocuments++;
      if (number < done) continue; // its shard is there already
      batch.push(fim ? cutInThree(text, random) : [text]);
      length += text.length;
      if (length >= BATCH_LENGTH * encoder.threads) await encode();
    }
    reading.read = before + file.size;
    counts.push({ file: file.name, ...of });
  }
  await encode();
  await encoding;
  if (builder.documents > 0) await finishShard();
  if (totals.documents === 0) {
    throw new Error(`no text is left of ${options.sources[s]?.paths.join(", ")}`);
  }
  const tokens = shards.reduce((sum, shard) => sum + shard.tokens, 0);
  return { ...totals, tokens, files: counts, shards };
}

/** The texts of a file; conversations are problems here. */
async function* textsOf(
  file: InputFile,
  options: ReadOptions,
  counts: { problems: number },
): AsyncGenerator<string> {
  const report = reporter(options);
  const { onProblem } = options;
  const counted = onProblem && {
    onProblem: (problem: DataProblem) => {
      counts.problems++;
      onProblem(problem);
    },
  };
  for await (const sample of readSamplesOf(file, { ...options, ...counted })) {
    if ("text" in sample) yield sample.text;
    else {
      counts.problems++;
      const message = "a conversation, but pre-training takes texts";
      report({ file: sample.file, line: sample.line, message });
    }
  }
}

/** A document's tokens: one piece is its text; three are the parts that a cut for filling in the middle made. */
function framed(tokenizer: Tokenizer, pieces: readonly Uint32Array[]): ArrayLike<number>[] {
  const { bos, eos } = tokenizer.special;
  const around = (inner: ArrayLike<number>[]) => [
    ...(bos === undefined ? [] : [[bos]]),
    ...inner,
    [eos as number],
  ];
  if (pieces.length === 1) return around([...pieces]);
  const { begin, hole, end } = fimTokens(tokenizer);
  const [prefix, middle, suffix] = pieces as [Uint32Array, Uint32Array, Uint32Array];
  return around([[begin], prefix, [hole], suffix, [end], middle]);
}
