import { resolve } from "node:path";
import {
  DataError,
  type FileCounts,
  openShards,
  type PrepareProgress,
  pinNames,
  prepareShards,
  type ShardManifest,
  verifyShards,
} from "@dsv3/data/node";
import { loadTokenizer } from "@dsv3/tokenizer/node";
import { type Command, defineCommand } from "../command.ts";
import { UsageError } from "../errors.ts";
import type { Io } from "../io.ts";
import { formatBytes, formatCount } from "../ui/format.ts";
import { printJson } from "../ui/json.ts";
import { Progress } from "../ui/progress.ts";
import { renderTable } from "../ui/table.ts";

export const prepare: Command = defineCommand({
  summary: "Tokenizes a mix of texts into a folder of shards, which `dsv3 train --data` reads.",
  flags: {
    data: {
      type: "string",
      value: "[WEIGHT:]PATH,…",
      help: "files, folders, patterns or hf:owner/name; with weights, shares of the mix",
      required: true,
    },
    tokenizer: {
      type: "string",
      value: "DIR",
      help: "a folder with tokenizer.json",
      required: true,
    },
    out: {
      type: "string",
      value: "DIR",
      help: "must not exist yet; what was stopped is gone on with",
      required: true,
    },
    fimRate: {
      type: "number",
      value: "SHARE",
      help: "of documents rewritten for filling in the middle",
      default: 0.1,
      min: 0,
      max: 1,
    },
    duplicates: {
      type: "choice",
      choices: ["keep", "exact", "near"],
      help: "which documents seen before are left out: none, equal ones, similar ones too",
      default: "exact",
    },
    similarity: {
      type: "number",
      value: "S",
      help: "share of runs of five words in common from which documents are near duplicates",
      default: 0.8,
      min: 0.5,
      max: 1,
    },
    skipBad: { type: "boolean", help: "report what cannot be read, and go on without it" },
    shardTokens: {
      type: "integer",
      value: "N",
      help: "after which a shard ends",
      default: 2 ** 25,
      min: 1,
    },
    threads: { type: "integer", value: "N", help: "that encode (default: all cores)", min: 1 },
    seed: { type: "integer", value: "N", help: "of filling in the middle", default: 0, min: 0 },
    json: { type: "boolean", help: "print the manifest as JSON" },
  },
  examples: [
    "data prepare --data books/ --tokenizer my-tokenizer --out shards/books",
    "data prepare --data 3:books/,1:'web/*.jsonl.zst',1:hf:owner/name/default:train --tokenizer my-tokenizer --out shards/mix --duplicates near --skip-bad",
  ],
  async run(args, io) {
    const { fimRate, shardTokens, seed, duplicates, similarity, threads } = args;
    const tokenizer = await loadTokenizer(args.tokenizer);
    const sources = await sourcesOf(args.data);
    const view = new PrepareView(io);
    const onProblem = ({ file, line, message }: { file: string; line?: number; message: string }) =>
      view.log(`warning: ${line === undefined ? file : `${file}:${line}`}: ${message}`);
    const manifest = await prepareShards(resolve(args.out), {
      ...{ sources, tokenizer, fimRate, shardTokens, seed, signal: io.signal },
      ...(threads === undefined ? {} : { threads }),
      ...(duplicates === "keep"
        ? {}
        : { duplicates: { near: duplicates === "near" ? similarity : 1 } }),
      ...(args.skipBad ? { onProblem } : {}),
      onProgress: (progress) => view.update(progress),
      onDownload: (progress) => view.download(progress),
    }).catch((error) => {
      if (!(error instanceof DataError)) throw error;
      throw new Error(`${error.message} (--skip-bad goes on without it)`);
    });
    view.finish();
    if (args.json) printJson(io.stdout, manifest);
    else {
      io.stdout.write(`${report(manifest)}Next: dsv3 train --data ${args.out} --out runs/mine\n`);
    }
  },
});

export const inspect: Command = defineCommand({
  summary: "What is in a folder that `dsv3 data prepare` made.",
  flags: {
    verify: { type: "boolean", help: "read everything and compare the hashes" },
    json: { type: "boolean", help: "print the manifest as JSON" },
  },
  operands: { folder: { help: "the folder" } },
  examples: ["data inspect shards/books --verify"],
  async run({ folder, verify, json }, io) {
    const shards = await openShards(folder);
    shards.close();
    if (verify) {
      const total = bytesOf(shards.manifest);
      const progress = new Progress(io.stderr, { label: "verifying", total });
      const onProgress = (done: number) => progress.update({ done });
      await verifyShards(folder, { onProgress, signal: io.signal });
      progress.finish();
    }
    if (json) printJson(io.stdout, { ...shards.manifest, sha256: shards.sha256, verified: verify });
    else io.stdout.write(`${report(shards.manifest)}${verify ? "Every hash is right.\n" : ""}`);
  },
});

/** One source for all paths without weights; with weights, a source for each path. */
async function sourcesOf(data: string): Promise<{ paths: string[]; weight: number }[]> {
  const parts = data.split(",").map((part) => {
    const [, weight, path] = /^(?:(\d+(?:\.\d+)?):)?(.+)$/s.exec(part) ?? [];
    if (path === undefined) throw new UsageError(`--data "${data}" has an empty path`);
    return { weight: weight === undefined ? undefined : Number(weight), path };
  });
  const weighted = parts.filter(({ weight }) => weight !== undefined);
  if (weighted.length === 0) {
    return [{ paths: await pinNames(parts.map(({ path }) => path)), weight: 1 }];
  }
  const sources = [];
  for (const { weight, path } of parts) {
    if (weight === undefined) {
      throw new UsageError(`--data gives a weight to some paths, but none to ${path}`);
    }
    if (weight === 0) throw new UsageError(`--data gives ${path} the weight 0; leave it out`);
    sources.push({ paths: await pinNames([path]), weight });
  }
  return sources;
}

/** How far it is, on stderr: downloads and shards in turn. */
class PrepareView {
  readonly #io: Io;
  #label = "";
  #progress: Progress | undefined;

  constructor(io: Io) {
    this.#io = io;
  }

  update({ read, size, tokens }: PrepareProgress): void {
    this.#show("tokenizing", size).update({ done: read, tokens });
  }

  download({ file, bytes, size }: { file: string; bytes: number; size: number }): void {
    const name = file.slice(file.lastIndexOf("/") + 1);
    this.#show(`downloading ${name}`, size).update({ done: bytes });
    if (bytes >= size) this.finish();
  }

  log(line: string): void {
    if (this.#progress) this.#progress.log(line);
    else this.#io.stderr.write(`${line}\n`);
  }

  finish(): void {
    this.#progress?.finish();
    this.#progress = undefined;
  }

  #show(label: string, total: number): Progress {
    if (this.#progress === undefined || this.#label !== label) {
      this.finish();
      this.#label = label;
      this.#progress = new Progress(this.#io.stderr, { label, total });
    }
    return this.#progress;
  }
}

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);

const bytesOf = ({ sources, tokenBytes }: ShardManifest) =>
  sum(sources.flatMap(({ shards }) => shards.map(({ tokens }) => tokenBytes * tokens)));

const LEFT_OUT = {
  exactDuplicates: "equal",
  nearDuplicates: "similar",
  empty: "empty",
  problems: "bad",
} as const satisfies Partial<Record<keyof FileCounts, string>>;

/** A row for each source, and one for each file of which something was left out. */
function report(manifest: ShardManifest): string {
  const total = sum(manifest.sources.map(({ weight }) => weight));
  const kinds = Object.keys(LEFT_OUT) as (keyof typeof LEFT_OUT)[];
  const leftOut = (files: readonly FileCounts[]) =>
    kinds.map((kind) => formatCount(sum(files.map((file) => file[kind]))));
  const right = (title: string) => ({ title, align: "right" as const });
  const counted = kinds.map((kind) => right(LEFT_OUT[kind]));
  const sources = renderTable(
    [
      { title: "source" },
      ...["share", "documents", "tokens", "text", "bytes/token"].map(right),
      ...counted,
    ],
    manifest.sources.map(({ paths, weight, documents, tokens, bytes, files }) => [
      paths.length === 1 ? (paths[0] as string) : `${paths[0]} and ${paths.length - 1} more`,
      `${((100 * weight) / total).toFixed(1)}%`,
      ...[formatCount(documents), formatCount(tokens), formatBytes(bytes)],
      ...[(bytes / tokens).toFixed(2), ...leftOut(files)],
    ]),
  );
  const lossy = manifest.sources
    .flatMap(({ files }) => files)
    .filter((file) => kinds.some((kind) => file[kind] > 0));
  if (lossy.length === 0) return sources;
  const rows = lossy.slice(0, MOST_FILES).map((file) => [file.file, ...leftOut([file])]);
  const more = lossy.length - rows.length;
  return `${sources}\n${renderTable([{ title: "left out of" }, ...counted], rows)}${
    more > 0 ? `and of ${more} more files, see manifest.json\n` : ""
  }\n`;
}

/** Rows of the second table, so that a person sees the first. */
const MOST_FILES = 20;
