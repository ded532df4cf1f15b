import { nextDeepSeekWord } from "./scan-deepseek.ts";
import { nextGpt2Word, nextLlama3Word, nextQwen2Word } from "./scan-gpt.ts";

/**
 * End of the word that starts at `pos` in UTF-8 text that ends at `end`. Words cover the text
 * without gaps, and no token crosses from one into the next.
 */
export type Scanner = (bytes: Uint8Array, pos: number, end: number) => number;

export type PreTokenizerName = "deepseek-v3" | "gpt2" | "llama3" | "qwen2";

interface PreTokenizer {
  scan: Scanner;
  /** The `pre_tokenizer` of tokenizer.json that the scanner implements. */
  json: object;
}

const BYTE_LEVEL = {
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: false,
};

const split = (regex: string): object => ({
  type: "Split",
  pattern: { Regex: regex },
  behavior: "Isolated",
  invert: false,
});

const sequence = (...patterns: string[]): object => ({
  type: "Sequence",
  pretokenizers: [...patterns.map(split), BYTE_LEVEL],
});

const cl100k = (digits: string): string =>
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" +
  `${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;

/**
 * Every pattern is a scanner written by hand: linear time on any text, and the same answer in
 * every engine. A general translation of Oniguruma's patterns to JavaScript's offers neither, so a
 * file with another pattern is refused.
 */
const PRE_TOKENIZERS: Record<PreTokenizerName, PreTokenizer> = {
  "deepseek-v3": {
    scan: nextDeepSeekWord,
    json: sequence(
      "\\p{N}{1,3}",
      "[一-龥\u3040-ゟ゠-ヿ]+",
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|" +
        " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    ),
  },
  gpt2: { scan: nextGpt2Word, json: { ...BYTE_LEVEL, use_regex: true } },
  llama3: { scan: nextLlama3Word, json: sequence(cl100k("\\p{N}{1,3}")) },
  qwen2: { scan: nextQwen2Word, json: sequence(cl100k("\\p{N}")) },
};

export const PRE_TOKENIZER_NAMES: readonly PreTokenizerName[] = Object.keys(
  PRE_TOKENIZERS,
) as PreTokenizerName[];

export function scannerOf(name: PreTokenizerName): Scanner {
  const found = PRE_TOKENIZERS[name];
  if (found === undefined) {
    throw new Error(
      `unknown pre-tokenizer "${name}": expected one of ${PRE_TOKENIZER_NAMES.join(", ")}`,
    );
  }
  return found.scan;
}

/** The `pre_tokenizer` field to write into tokenizer.json. */
export function preTokenizerJson(name: PreTokenizerName): object {
  return structuredClone(PRE_TOKENIZERS[name].json);
}

/**
 * Which scanner a file's `pre_tokenizer` means.
 * @throws naming the part that no scanner implements.
 */
export function recognisePreTokenizer(json: unknown): PreTokenizerName {
  const wanted = canonical(json);
  for (const name of PRE_TOKENIZER_NAMES) {
    if (canonical(PRE_TOKENIZERS[name].json) === wanted) return name;
  }
  throw new Error(
    `tokenizer.json: the pre_tokenizer ${wanted} is not implemented: expected that of ${PRE_TOKENIZER_NAMES.join(", ")}`,
  );
}

/** One spelling for equal pre-tokenizers: only what changes the words, in a fixed order. */
function canonical(json: unknown): string {
  if (json === null || typeof json !== "object") return String(json);
  const node = json as Record<string, unknown>;
  if (node.type === "Sequence" && Array.isArray(node.pretokenizers)) {
    const parts = node.pretokenizers.map(canonical);
    return parts.length === 1 ? parts[0]! : `[${parts.join(", ")}]`;
  }
  if (node.type === "Split") {
    const pattern = node.pattern as { Regex?: unknown; String?: unknown } | undefined;
    return `Split(${JSON.stringify(pattern)}, ${node.behavior}, invert ${node.invert ?? false})`;
  }
  if (node.type === "ByteLevel") {
    return `ByteLevel(add_prefix_space ${node.add_prefix_space ?? true}, use_regex ${node.use_regex ?? true})`;
  }
  return JSON.stringify(json);
}
