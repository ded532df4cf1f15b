/** Texts to a folder of tokenized shards, which training reads in place of the texts. */
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { Tokenizer } from "@dsv3/tokenizer";
import { EncoderPool, saveTokenizer } from "@dsv3/tokenizer/node";
import { cutInThree, fimTokens } from "../fim.ts";
import { randomStream } from "../random.ts";
import { Deduplicator, type DeduplicatorOptions } from "./dedupe.ts";
import { findFiles } from "./files.ts";
import type { InputFile } from "./input-file.ts";
import {
  type FileCounts,
  MANIFEST,
  manifestOf,
  type ShardEntry,
  type ShardedSource,
  type ShardManifest,
} from "./manifest.ts";
import { type DataProblem, type ReadOptions, readFile as readSamplesOf, reporter } from "./read.ts";
import { ShardBuilder, ShardFile, type TokenBytes, tokenBytesFor } from "./shard-file.ts";
import { syncFolder, writeWhole } from "./write-whole.ts";

export interface PrepareOptions extends ReadOptions {
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
  /** Threads that encode; one for every core unless told. */
  readonly threads?: number;
  /** Told what has been written or is about to be. */
  readonly onProgress?: (done: { documents: number; tokens: number }) => void;
}

/** Texts are encoded together up to this many UTF-16 units a thread. */
const BATCH_LENGTH = 1 << 20;
/** What a folder is called until it is whole. */
const UNFINISHED = ".unfinished";
const STATE = "state.json";

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
    tokenizer: createHash("sha256").update(JSON.stringify(tokenizer.toJSON())).digest("hex"),
    ...{ ...settings, tokenBytes, maxBytes: options.maxBytes ?? null },
    duplicates: duplicates ? (duplicates.near ?? "default") : "kept",
    passOver: options.onProblem !== undefined,
  };
  const work = await Work.open(`${folder}${UNFINISHED}`, plan);
  await using pool = new EncoderPool(tokenizer, {
    threads: options.threads ?? availableParallelism(),
  });
  const seen = duplicates && new Deduplicator(duplicates);
  const sources: ShardedSource[] = [];
  for (const [s, { paths, weight }] of options.sources.entries()) {
    const context = { options, settings, pool, seen, work };
    sources.push({ paths, weight, ...(await prepareSource(s, inputs[s] as InputFile[], context)) });
  }
  const { vocabSize } = tokenizer;
  const manifest = manifestOf({ tokenBytes, vocabSize, fimRate, seed, sources });
  await work.finish(folder, manifest, tokenizer);
  return manifest;
}

type Settings = Required<Pick<PrepareOptions, "fimRate" | "seed" | "shardTokens">>;

interface Context {
  readonly options: PrepareOptions;
  readonly settings: Settings;
  readonly pool: EncoderPool;
  readonly seen: Deduplicator | undefined;
  readonly work: Work;
}

/** A document on its way to the encoder: its text, or the three parts of it. */
type Pieces = readonly string[];

async function prepareSource(
  s: number,
  files: readonly InputFile[],
  { options, settings, pool, seen, work }: Context,
): Promise<Omit<ShardedSource, "paths" | "weight">> {
  const { tokenizer } = options;
  const { fimRate, seed, shardTokens } = settings;
  const shards = work.shardsOf(s);
  const done = shards.reduce((sum, { documents }) => sum + documents, 0);
  const builder = new ShardBuilder(tokenBytesFor(tokenizer.vocabSize));
  const totals = { documents: 0, bytes: 0, fimDocuments: 0 };

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
    options.onProgress?.(work.progress(builder));
  };

  // While one batch is encoded, the next is read.
  let encoding: Promise<void> = Promise.resolve();
  let batch: Pieces[] = [];
  let length = 0;
  const encode = async () => {
    await encoding;
    const full = batch;
    encoding = store(full, pool.encodeBatch(full.flat()));
    encoding.catch(() => {}); // it is awaited before the next batch, or at the end
    batch = [];
    length = 0;
  };

  const counts: FileCounts[] = [];
  for (const file of files) {
    const of = { documents: 0, empty: 0, exactDuplicates: 0, nearDuplicates: 0, problems: 0 };
    for await (const text of textsOf(file, options, of)) {
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
      if (length >= BATCH_LENGTH * pool.threads) await encode();
    }
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
  options: PrepareOptions,
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

/** The folder of what is not finished, and its state: the shards that are whole. */
class Work {
  readonly #folder: string;
  readonly #plan: object;
  readonly #shards: ShardEntry[][];

  private constructor(folder: string, plan: object, shards: ShardEntry[][]) {
    this.#folder = folder;
    this.#plan = plan;
    this.#shards = shards;
  }

  /** Begins, or goes on with what was begun. @throws Error when that was something else */
  static async open(
    folder: string,
    plan: { readonly sources: readonly unknown[]; readonly tokenBytes: TokenBytes },
  ): Promise<Work> {
    await mkdir(folder, { recursive: true });
    const text = await readFile(join(folder, STATE), "utf8").catch(() => undefined);
    if (text === undefined) {
      const work = new Work(
        folder,
        plan,
        plan.sources.map(() => []),
      );
      await work.save();
      return work;
    }
    const state = JSON.parse(text) as { plan: object; shards: ShardEntry[][] };
    if (!isDeepStrictEqual(state.plan, JSON.parse(JSON.stringify(plan)))) {
      throw new Error(
        `${folder} was begun with other options, or its texts have changed since; delete it to begin anew`,
      );
    }
    for (const shard of state.shards.flat()) {
      new ShardFile(join(folder, shard.file), { ...shard, bytes: plan.tokenBytes }).close();
    }
    return new Work(folder, plan, state.shards);
  }

  shardsOf(source: number): ShardEntry[] {
    return this.#shards[source] as ShardEntry[];
  }

  /** Documents and tokens of all shards and of the one that is being filled. */
  progress(current: ShardBuilder): { documents: number; tokens: number } {
    const shards = this.#shards.flat();
    const sum = (numbers: number[]) => numbers.reduce((a, b) => a + b, 0);
    return {
      documents: sum(shards.map(({ documents }) => documents)) + current.documents,
      tokens: sum(shards.map(({ tokens }) => tokens)) + current.size,
    };
  }

  async write(file: string, parts: readonly Uint8Array[]): Promise<string> {
    return writeWhole(join(this.#folder, file), parts);
  }

  async save(): Promise<void> {
    const state = { plan: this.#plan, shards: this.#shards };
    await writeWhole(join(this.#folder, STATE), [`${JSON.stringify(state, null, 1)}\n`]);
  }

  /** Adds what is missing and gives the folder its name. */
  async finish(folder: string, manifest: ShardManifest, tokenizer: Tokenizer): Promise<void> {
    const kept = new Set([STATE, ...this.#shards.flat().map(({ file }) => file)]);
    for (const name of await readdir(this.#folder)) {
      if (!kept.has(name)) await rm(join(this.#folder, name), { recursive: true });
    }
    await saveTokenizer(tokenizer, this.#folder);
    await writeWhole(join(this.#folder, MANIFEST), [`${JSON.stringify(manifest, null, 1)}\n`]);
    await rename(this.#folder, folder);
    await syncFolder(dirname(folder));
    await rm(join(folder, STATE));
  }
}
