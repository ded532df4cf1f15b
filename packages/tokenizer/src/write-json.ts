import { bytesToToken } from "./bytes.ts";
import { preTokenizerJson } from "./pretokenize.ts";
import type { TokenizerData } from "./tokenizer-data.ts";

/** The Hugging Face tokenizer.json of a tokenizer, with every field that their loader requires. */
export function writeTokenizerJson(data: TokenizerData): Record<string, unknown> {
  const { model, vocabStrings } = data;
  const strings: string[] = [];
  const vocab: Record<string, number> = {};
  for (let id = 0; id < model.vocabSize; id++) {
    const start = model.starts[id]!;
    const end = start + model.lengths[id]!;
    const string = vocabStrings.get(id) ?? bytesToToken(model.pool.subarray(start, end));
    strings.push(string);
    if (string === "") continue;
    // Plain assignment would set the prototype for "__proto__".
    Object.defineProperty(vocab, string, {
      value: id,
      enumerable: true,
      writable: true,
      configurable: true,
    });
  }
  const merges: [string, string][] = [];
  for (let i = 0; i < model.merges.length; i += 3) {
    merges.push([strings[model.merges[i]!]!, strings[model.merges[i + 1]!]!]);
  }
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: data.addedTokens.map(({ singleWord, id, content, special, ...flags }) => ({
      id,
      content,
      single_word: singleWord,
      lstrip: flags.lstrip,
      rstrip: flags.rstrip,
      normalized: flags.normalized,
      special,
    })),
    normalizer: null,
    pre_tokenizer: preTokenizerJson(data.preTokenizer),
    post_processor: data.postProcessor,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: model.ignoreMerges,
      vocab,
      merges,
    },
  };
}
