export { EncoderPool, type EncoderPoolOptions } from "./encoder-pool.ts";
export { loadTokenizer, saveTokenizer } from "./folder.ts";
