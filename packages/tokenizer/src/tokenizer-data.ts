import type { AddedToken } from "./added-tokens.ts";
import type { BpeModel } from "./bpe.ts";
import type { PreTokenizerName } from "./pretokenize.ts";
import type { TokenizerConfig } from "./special.ts";

/** All of a tokenizer as plain data: what files hold, and what goes to a worker. */
export interface TokenizerData {
  /** The ordinary tokens. Added tokens have no bytes here, so no text merges into one. */
  model: BpeModel;
  preTokenizer: PreTokenizerName;
  addedTokens: AddedToken[];
  /**
   * The entries of the file's vocabulary that are not written in the byte alphabet, or that are
   * added tokens as well; kept to be saved again.
   */
  vocabStrings: Map<number, string>;
  /** Put around a text by `addSpecial`. */
  prefix: number[];
  suffix: number[];
  /** The file's `post_processor`, kept to be saved again. */
  postProcessor: unknown;
  /** tokenizer_config.json; empty where there was none. */
  config: TokenizerConfig;
}
