export { Deduplicator, type DeduplicatorOptions } from "./node/dedupe.ts";
export {
  DataError,
  type DataProblem,
  type FileSample,
  type ReadOptions,
  readSamples,
} from "./node/read.ts";
