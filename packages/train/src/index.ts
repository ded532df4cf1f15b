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
export { checkpointFolder, listCheckpoints, type Progress, TRAINING_FILES } from "./checkpoints.ts";
export type { RunMetrics } from "./metrics.ts";
export { deepseekPhases, type RecipeOptions } from "./recipe.ts";
export { type GrpoOptions, type GrpoResult, grpo } from "./rl/grpo.ts";
export {
  GRPO_FORMS,
  type GrpoForm,
  type GrpoLossOptions,
  type GrpoParts,
  type GrpoTerms,
  grpoLoss,
} from "./rl/grpo-loss.ts";
export type { GrpoMetrics } from "./rl/grpo-metrics.ts";
export { FORM_DEFAULTS, type GrpoSettings } from "./rl/grpo-settings.ts";
export { type MeasureOptions, measureTask, type TaskScores, testItems } from "./rl/measure.ts";
export { listPrompts, promptOf, taskPrompts } from "./rl/prompts.ts";
export { type Preference, RewardModel, type RewardModelOptions } from "./rl/reward-model.ts";
export type { Judged, Output, Prompt, PromptSource } from "./rl/rollouts.ts";
export {
  DivergedError,
  type Evaluate,
  type RunEvents,
  type RunOptions,
  type RunResult,
  secondsPerStep,
  train,
  type Weights,
} from "./run.ts";
export { type RunRecord, readRun } from "./run-folder.ts";
export type { ExpertLoads } from "./run-log.ts";
export { type Scalar, scalarsOf } from "./scalars.ts";
export {
  batchRamp,
  deepseekSchedule,
  type Piece,
  type Schedule,
  scheduled,
  sftSchedule,
} from "./schedule.ts";
export {
  type Phase,
  parsePhases,
  phasesOf,
  type RunSettings,
  totalSteps,
  type YarnPhase,
} from "./settings.ts";
export { type SizedRecipe, sizedRecipe } from "./size.ts";
export {
  initTrainState,
  type StepMetrics,
  type StepOptions,
  type StepSettings,
  type TrainState,
  type TrainStep,
  trainStep,
} from "./step.ts";
