export { type CodeLimits, type CodeRun, codeReward, runCode } from "./node/code-reward.ts";
export { Deduplicator, type DeduplicatorOptions } from "./node/dedupe.ts";
export { pinNames } from "./node/files.ts";
export type { FetchOptions } from "./node/input-file.ts";
export {
  type FileCounts,
  isShardFolder,
  type ShardEntry,
  type ShardedSource,
  type ShardManifest,
} from "./node/manifest.ts";
export { type PrepareOptions, type PrepareProgress, prepareShards } from "./node/prepare.ts";
export {
  DataError,
  type DataProblem,
  type FileRecord,
  type FileSample,
  type ReadOptions,
  readRecords,
  readSamples,
} from "./node/read.ts";
export { openShards, type ShardFolder, TokenShards, verifyShards } from "./node/shards.ts";
