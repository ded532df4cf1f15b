/** What a folder of tokenized documents says of itself: `manifest.json`, beside the shards and the tokenizer. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import type { TokenBytes } from "./shard-file.ts";

export const MANIFEST = "manifest.json";
const FORMAT = "dsv3-tokens-1";

/** One shard; its documents follow those of the shard before. */
export interface ShardEntry {
  readonly file: string;
  readonly documents: number;
  readonly tokens: number;
  /** SHA-256 of the file, in hexadecimal. */
  readonly sha256: string;
}

/** What became of the records of one file. */
export interface FileCounts {
  readonly file: string;
  /** Taken. */
  readonly documents: number;
  /** Left out: without text, seen before exactly, seen before nearly, or not to be read. */
  readonly empty: number;
  readonly exactDuplicates: number;
  readonly nearDuplicates: number;
  readonly problems: number;
}

/** Documents that are drawn from together. */
export interface ShardedSource {
  /** As they were asked for. */
  readonly paths: readonly string[];
  /** Share of the rows, in any unit. */
  readonly weight: number;
  readonly documents: number;
  readonly tokens: number;
  /** UTF-8 bytes of the texts. */
  readonly bytes: number;
  /** Documents rewritten for filling in the middle. */
  readonly fimDocuments: number;
  readonly files: readonly FileCounts[];
  readonly shards: readonly ShardEntry[];
}

export interface ShardManifest {
  readonly format: typeof FORMAT;
  readonly tokenBytes: TokenBytes;
  readonly vocabSize: number;
  readonly fimRate: number;
  readonly seed: number;
  readonly sources: readonly ShardedSource[];
}

export const manifestOf = (fields: Omit<ShardManifest, "format">): ShardManifest => ({
  format: FORMAT,
  ...fields,
});

/**
 * Reads a folder's manifest.
 * @returns also the SHA-256 of the file, which stands for all the data, since the manifest holds their hashes
 * @throws Error for a folder without one, and for a manifest that is not as it should be
 */
export async function readManifest(
  folder: string,
): Promise<{ manifest: ShardManifest; sha256: string }> {
  const path = join(folder, MANIFEST);
  const bytes = await readFile(path).catch((cause) => {
    throw new Error(`${folder} has no ${MANIFEST}; it is no folder of prepared data`, { cause });
  });
  let json: unknown;
  try {
    json = JSON.parse(bytes.toString("utf8"));
  } catch (cause) {
    throw new Error(`${path} is damaged`, { cause });
  }
  const fault = faultOf(json as ShardManifest);
  if (fault) throw new Error(`${path}: ${fault}`);
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  return { manifest: json as ShardManifest, sha256 };
}

/** Whether a path is a folder of prepared data, and not of texts. */
export async function isShardFolder(path: string): Promise<boolean> {
  try {
    const json = JSON.parse(await readFile(join(path, MANIFEST), "utf8")) as Partial<ShardManifest>;
    return json?.format === FORMAT;
  } catch {
    return false;
  }
}

const isCount = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0;

/** What is wrong with the parts that reading relies on. */
function faultOf(manifest: Partial<ShardManifest> | null): string | undefined {
  if (manifest?.format !== FORMAT) {
    return `format is ${JSON.stringify(manifest?.format)}, expected "${FORMAT}"`;
  }
  if (manifest.tokenBytes !== 2 && manifest.tokenBytes !== 4) return "tokenBytes must be 2 or 4";
  if (!isCount(manifest.vocabSize)) return "vocabSize is no whole number";
  const { sources } = manifest;
  if (!Array.isArray(sources) || sources.length === 0) return "sources is no list of sources";
  for (const [s, source] of (sources as Partial<ShardedSource>[]).entries()) {
    if (!(Number.isFinite(source?.weight) && (source.weight as number) > 0)) {
      return `sources[${s}].weight must be a positive number`;
    }
    if (!Array.isArray(source.shards)) return `sources[${s}].shards is no list`;
    for (const [i, shard] of (source.shards as Partial<ShardEntry>[]).entries()) {
      const { file, documents, tokens, sha256 } = shard ?? {};
      const named = typeof file === "string" && basename(file) === file;
      if (!named || !isCount(documents) || !isCount(tokens) || typeof sha256 !== "string") {
        return `sources[${s}].shards[${i}] needs file (a name without folders), documents, tokens and sha256`;
      }
    }
  }
  return undefined;
}
