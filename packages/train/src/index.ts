export {
  ADAMW,
  type AdamWConfig,
  adamw,
  clipByGlobalNorm,
  globalNorm,
  initMoments,
  type Moments,
} from "./adamw.ts";
export { checkpointFolder, listCheckpoints, type Progress } from "./checkpoints.ts";
export {
  DivergedError,
  type RowSource,
  type RunEvents,
  type RunMetrics,
  type RunResult,
  type RunSettings,
  train,
} from "./run.ts";
export {
  batchRamp,
  checkSchedule,
  deepseekSchedule,
  type Piece,
  type Schedule,
  scheduled,
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
