/** Prepared data until it is whole: `FOLDER.unfinished`, which a later call goes on with. */
import { mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import type { Tokenizer } from "@dsv3/tokenizer";
import { saveTokenizer } from "@dsv3/tokenizer/node";
import { MANIFEST, type ShardEntry, type ShardManifest } from "./manifest.ts";
import { type ShardBuilder, ShardFile, type TokenBytes } from "./shard-file.ts";
import { syncFolder, writeWhole } from "./write-whole.ts";

/** What was asked for, and the shards that are whole. */
const STATE = "state.json";

/** The folder of what is not finished, and its state: the shards that are whole. */
export class Unfinished {
  /** What it will be called. */
  readonly #final: string;
  readonly #folder: string;
  readonly #plan: object;
  readonly #shards: ShardEntry[][];

  private constructor(final: string, plan: object, shards: ShardEntry[][]) {
    this.#final = final;
    this.#folder = `${final}.unfinished`;
    this.#plan = plan;
    this.#shards = shards;
  }

  /** Begins, or goes on with what was begun. @throws Error when that was something else */
  static async open(
    final: string,
    plan: { readonly sources: readonly unknown[]; readonly tokenBytes: TokenBytes },
  ): Promise<Unfinished> {
    const folder = `${final}.unfinished`;
    await mkdir(folder, { recursive: true });
    const text = await readFile(join(folder, STATE), "utf8").catch(() => undefined);
    const state = text && (JSON.parse(text) as { plan: object; shards: ShardEntry[][] });
    if (!state || state.shards.flat().length === 0) {
      const none = plan.sources.map(() => []);
      const unfinished = new Unfinished(final, plan, none);
      await unfinished.save();
      return unfinished;
    }
    if (!isDeepStrictEqual(state.plan, JSON.parse(JSON.stringify(plan)))) {
      throw new Error(
        `${folder} was begun with other options, or its texts have changed since; delete it to begin anew`,
      );
    }
    for (const shard of state.shards.flat()) {
      new ShardFile(join(folder, shard.file), { ...shard, bytes: plan.tokenBytes }).close();
    }
    return new Unfinished(final, plan, state.shards);
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
  async finish(manifest: ShardManifest, tokenizer: Tokenizer): Promise<void> {
    const kept = new Set([STATE, ...this.#shards.flat().map(({ file }) => file)]);
    for (const name of await readdir(this.#folder)) {
      if (!kept.has(name)) await rm(join(this.#folder, name), { recursive: true });
    }
    await saveTokenizer(tokenizer, this.#folder);
    await writeWhole(join(this.#folder, MANIFEST), [`${JSON.stringify(manifest, null, 1)}\n`]);
    await rename(this.#folder, this.#final);
    await syncFolder(dirname(this.#final));
    await rm(join(this.#final, STATE));
  }
}
