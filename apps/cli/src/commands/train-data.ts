import { encodeCorpus, MixedRows, PackedRows } from "@dsv3/data";
import { isShardFolder, openShards, readSamples } from "@dsv3/data/node";
import type { Tokenizer } from "@dsv3/tokenizer";
import { loadTokenizer } from "@dsv3/tokenizer/node";
import type { RowSource } from "@dsv3/train";

/** What a model is trained on, tokenized. */
export interface TrainData {
  readonly rows: RowSource;
  readonly documents: number;
  readonly tokens: number;
  close(): void;
}

/** Texts in memory. */
export function dataOfTexts(
  texts: readonly string[],
  tokenizer: Tokenizer,
  { fimRate, seed }: { readonly fimRate: number; readonly seed: number },
): TrainData {
  const corpus = encodeCorpus(texts, tokenizer, { fimRate, seed });
  const rows = new PackedRows(corpus, seed);
  return { rows, documents: texts.length, tokens: corpus.size, close: () => {} };
}

/** Shards on disk, with the tokenizer that made them. */
export interface PreparedData {
  readonly tokenizer: Tokenizer;
  /** Stands for all of the data. */
  readonly sha256: string;
  open(seed: number): TrainData;
}

/**
 * The folder of shards that the paths name, if they do.
 * @throws Error for shards that are damaged, and for such a folder among other paths
 */
export async function preparedData(paths: readonly string[]): Promise<PreparedData | undefined> {
  const prepared = [];
  for (const path of paths) if (await isShardFolder(path)) prepared.push(path);
  const [folder] = prepared;
  if (folder === undefined) return undefined;
  if (paths.length > 1) {
    throw new Error(
      `${folder} is prepared data, which is trained on alone; mix it with the rest by dsv3 data prepare`,
    );
  }
  const tokenizer = await loadTokenizer(folder);
  const { sources, sha256, close } = await openShards(folder);
  const sum = (numbers: number[]) => numbers.reduce((a, b) => a + b, 0);
  const open = (seed: number): TrainData => ({
    rows:
      sources.length === 1
        ? new PackedRows((sources[0] as (typeof sources)[number]).corpus, seed)
        : new MixedRows(sources, seed),
    documents: sum(sources.map(({ corpus }) => corpus.documents)),
    tokens: sum(sources.map(({ corpus }) => corpus.size)),
    close,
  });
  return { tokenizer, sha256, open };
}

/** Every document; conversations are for fine-tuning. */
export async function* textsOf(paths: readonly string[]): AsyncGenerator<string> {
  for await (const sample of readSamples(paths)) {
    if (!("text" in sample)) {
      throw new Error(
        `${sample.file}:${sample.line}: a conversation, but training from nothing takes texts`,
      );
    }
    yield sample.text;
  }
}

export async function readTexts(paths: readonly string[]): Promise<string[]> {
  const texts: string[] = [];
  for await (const text of textsOf(paths)) texts.push(text);
  return texts;
}
