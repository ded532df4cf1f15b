export { EncoderPool, type EncoderPoolOptions } from "./encoder-pool.ts";
export { loadTokenizer, saveTokenizer } from "./folder.ts";
export { JinjaChat, type JinjaChatOptions, type JinjaRenderOptions } from "./node-jinja.ts";
