export type { CacheDtype, LatentCache } from "@dsv3/mla";
export {
  type CompressedMatrix,
  type CompressedParams,
  compressParams,
  expandParams,
} from "./compress.ts";
export { ConfigError, checkConfig, isMoeLayer, type ModelConfig } from "./config.ts";
export {
  cacheBytesPerToken,
  countParameters,
  type FlopsOptions,
  flopsPerToken,
  type ParameterCount,
} from "./count.ts";
export {
  type CachedOptions,
  type CachedResult,
  columnOf,
  forwardCached,
  latentCaches,
  mtpCached,
} from "./decode.ts";
export { checkTokenIds, type GenerateOptions, generate, generateStream } from "./generate.ts";
export { parseHuggingFaceConfig, toHuggingFaceConfig } from "./hugging-face.ts";
export { type Batch, type LossOptions, type LossParts, lossFn } from "./loss.ts";
export {
  type ComputeDtype,
  type ForwardOptions,
  type ForwardResult,
  forward,
  type LayerRouting,
  type ModelDropout,
  type Precision,
} from "./model.ts";
export { type NamedParam, namedParams } from "./names.ts";
export {
  initParams,
  type LayerParams,
  type ModelParams,
  type MtpParams,
  paramShapes,
} from "./params.ts";
export { denseVariant, PRESETS, type PresetName, preset } from "./presets.ts";
export { roundedMatrices } from "./rounded.ts";
export { randomSource, type SampleOptions, sampleToken } from "./sample.ts";
export { sizedConfig } from "./size.ts";
export {
  checkedConfig,
  type LoadedModel,
  type LoadOptions,
  loadModel,
  type SaveOptions,
  saveModel,
} from "./weights.ts";
