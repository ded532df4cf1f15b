export type { AddedToken } from "./added-tokens.ts";
export {
  type ChatMessage,
  type ChatOptions,
  type ChatToolCall,
  type EncodedChat,
  encodeChat,
  formatChat,
} from "./chat.ts";
export { JoinedTokenSplitter, type JoinedTokenSplitterOptions } from "./joined-tokens.ts";
export type { PreTokenizerName } from "./pretokenize.ts";
export {
  SPECIAL_TOKENS,
  type SpecialIds,
  type SpecialRole,
  type TokenizerConfig,
} from "./special.ts";
export type { StreamDecoder } from "./stream-decoder.ts";
export { type DecodeOptions, type EncodeOptions, Tokenizer } from "./tokenizer.ts";
export type { TokenizerData } from "./tokenizer-data.ts";
export { type TrainBpeOptions, type TrainBpeProgress, trainBpe, trainBpeSteps } from "./train.ts";
