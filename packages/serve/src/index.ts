export { type AnswerEvent, type AnswerOptions, AnswerParser } from "./answer.ts";
export { BLOCK_TOKENS } from "./blocks.ts";
export { Engine, type EngineOptions, type EngineStats } from "./engine.ts";
export {
  type Choice,
  type Delta,
  type FinishReason,
  Generation,
  type Usage,
} from "./generation.ts";
export type { Format, FunctionSpec } from "./grammar/grammar.ts";
export { type GenerationRequest, QueueFullError, RequestError, type Sampling } from "./request.ts";
export type { Drawn } from "./scores.ts";
