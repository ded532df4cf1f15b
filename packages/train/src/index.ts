export {
  ADAMW,
  type AdamWConfig,
  adamw,
  clipByGlobalNorm,
  globalNorm,
  initMoments,
  type Moments,
} from "./adamw.ts";
export type { RowSource, Rows } from "./batches.ts";
export { type BitsPerByte, type BitsPerByteOptions, bitsPerByte } from "./bits-per-byte.ts";
export { checkpointFolder, listCheckpoints, type Progress } from "./checkpoints.ts";
export {
  DivergedError,
  type RunEvents,
  type RunMetrics,
  type RunOptions,
  type RunRecord,
  type RunResult,
  type RunSettings,
  readRun,
  secondsPerStep,
  train,
} from "./run.ts";
export {
  batchRamp,
  checkSchedule,
  deepseekSchedule,
  type Piece,
  type Schedule,
  scheduled,
  sftSchedule,
} from "./schedule.ts";
export {
  initTrainState,
  type StepMetrics,
  type StepOptions,
  type StepSettings,
  type TrainState,
  type TrainStep,
  trainStep,
} from "./step.ts";
