export { EncoderPool, type EncoderPoolOptions } from "./node-encoder-pool.ts";
export { loadTokenizer, saveTokenizer } from "./node-folder.ts";
export { JinjaChat, type JinjaChatOptions, type JinjaRenderOptions } from "./node-jinja.ts";
