import type { Tokenizer } from "@dsv3/tokenizer";

/** The tokenizer's files of a Hugging Face folder, to be written beside a model. */
export function tokenizerFiles(tokenizer: Tokenizer): Record<string, Uint8Array> {
  const file = (value: object) => Buffer.from(`${JSON.stringify(value, null, 2)}\n`);
  return {
    "tokenizer.json": file(tokenizer.toJSON()),
    "tokenizer_config.json": file(tokenizer.config),
  };
}
