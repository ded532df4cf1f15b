export {
  appendLatents,
  type CacheDtype,
  type CacheStep,
  cacheStep,
  type Fp8Latents,
  type LatentCache,
  latentBytes,
  latentCache,
  latentWidth,
} from "./cache.ts";
export {
  initMla,
  type MlaConfig,
  type MlaParams,
  mlaParamShapes,
  type QueryParams,
} from "./config.ts";
export { cheaperForm, type MlaOptions, mla, mlaCached } from "./mla.ts";
export {
  type RopeConfig,
  type RopeTables,
  ropeTables,
  softmaxScale,
  type YarnScaling,
  yarnFrequencies,
} from "./rope.ts";
