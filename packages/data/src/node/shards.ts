/** Tokenized documents on disk, read in places. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { join } from "node:path";
import type { TokenDocuments } from "../corpus.ts";
import { readManifest, type ShardEntry, type ShardManifest } from "./manifest.ts";
import { ShardFile, type TokenBytes } from "./shard-file.ts";

/** The documents of one source. Memory holds a few numbers for each shard, and no tokens. */
export class TokenShards implements TokenDocuments {
  readonly documents: number;
  readonly size: number;
  readonly #files: ShardFile[] = [];
  /** Number of each shard's first document, and at the end that of all. */
  readonly #firsts: number[] = [0];
  /** The document that was asked for last, in its shard. */
  #last = { document: Number.NaN, shard: 0, start: 0, end: 0 };

  /** @throws Error with the path for a shard that is missing, cut short or of other data */
  constructor(folder: string, shards: readonly ShardEntry[], bytes: TokenBytes) {
    let [documents, size] = [0, 0];
    try {
      for (const shard of shards) {
        this.#files.push(new ShardFile(join(folder, shard.file), { ...shard, bytes }));
        documents += shard.documents;
        size += shard.tokens;
        this.#firsts.push(documents);
      }
    } catch (error) {
      this.close();
      throw error;
    }
    this.documents = documents;
    this.size = size;
  }

  sizeOf(document: number): number {
    const { start, end } = this.#find(document);
    return end - start;
  }

  read(document: number, offset: number, into: Int32Array): void {
    const { shard, start, end } = this.#find(document);
    if (offset + into.length > end - start) {
      throw new RangeError(
        `document ${document} has ${end - start} tokens, not ${offset + into.length}`,
      );
    }
    (this.#files[shard] as ShardFile).read(start + offset, into);
  }

  close(): void {
    for (const file of this.#files.splice(0)) file.close();
  }

  #find(document: number): { shard: number; start: number; end: number } {
    if (this.#last.document === document) return this.#last;
    if (!(document >= 0 && document < this.documents)) {
      throw new RangeError(`there are documents 0 to ${this.documents - 1}, not ${document}`);
    }
    let [low, high] = [0, this.#files.length];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if ((this.#firsts[middle] as number) <= document) low = middle;
      else high = middle;
    }
    const local = document - (this.#firsts[low] as number);
    const [start, end] = (this.#files[low] as ShardFile).boundsOf(local);
    this.#last = { document, shard: low, start, end };
    return this.#last;
  }
}

/** A folder that `prepareShards` made. */
export interface ShardFolder {
  readonly manifest: ShardManifest;
  /** Of the manifest, and so of all the data: the same digest means the same tokens. */
  readonly sha256: string;
  /** Each source with its weight, as `MixedRows` takes them. */
  readonly sources: readonly { readonly corpus: TokenShards; readonly weight: number }[];
  close(): void;
}

/**
 * Opens prepared data. Sizes and headers are checked, hashes are not: `verifyShards` reads everything.
 * @throws Error for a folder or file that is missing, cut short or damaged
 */
export async function openShards(folder: string): Promise<ShardFolder> {
  const { manifest, sha256 } = await readManifest(folder);
  const sources: { corpus: TokenShards; weight: number }[] = [];
  const close = () => {
    for (const { corpus } of sources) corpus.close();
  };
  try {
    for (const { shards, weight } of manifest.sources) {
      sources.push({ corpus: new TokenShards(folder, shards, manifest.tokenBytes), weight });
    }
  } catch (error) {
    close();
    throw error;
  }
  return { manifest, sha256, sources, close };
}

/**
 * Reads every shard and compares its hash with the manifest's.
 * @param onProgress called with the bytes read so far
 * @throws Error with the name of the first file that is damaged
 */
export async function verifyShards(
  folder: string,
  options: { onProgress?: (bytes: number) => void; signal?: AbortSignal } = {},
): Promise<void> {
  const { manifest } = await readManifest(folder);
  let done = 0;
  for (const { file, sha256 } of manifest.sources.flatMap(({ shards }) => shards)) {
    const hash = createHash("sha256");
    for await (const chunk of createReadStream(join(folder, file), { highWaterMark: 1 << 20 })) {
      options.signal?.throwIfAborted();
      hash.update(chunk as Buffer);
      done += (chunk as Buffer).length;
      options.onProgress?.(done);
    }
    if (hash.digest("hex") !== sha256) {
      throw new Error(`${join(folder, file)} is damaged: its hash is not the one in the manifest`);
    }
  }
}
