export {
  ConversationSource,
  type ConversationSourceOptions,
  type SourcedChat,
  type SourcedRows,
} from "./conversation-source.ts";
export { type ConversationRows, packConversations } from "./conversations.ts";
export {
  Corpus,
  type DocumentTokenizer,
  type EncodeCorpusOptions,
  encodeCorpus,
  type TokenDocuments,
} from "./corpus.ts";
export {
  type Distilled,
  type DistilledChat,
  type DistillOptions,
  distill,
  type Teacher,
} from "./distill.ts";
export { fillInTheMiddle } from "./fim.ts";
export { italianNumber } from "./italian-numbers.ts";
export { MixedRows, type MixturePosition } from "./mixture.ts";
export { PackedRows, type Position, type TokenRows } from "./packing.ts";
export { passAtK } from "./pass-at-k.ts";
export { shuffled } from "./random.ts";
export { readRecord, type Sample } from "./record.ts";
export {
  boxed,
  containing,
  exact,
  number,
  ofForm,
  ofLength,
  type Question,
  type Reply,
  type Reward,
  taskReward,
  type WeightedReward,
} from "./reward-functions.ts";
export { boxedAnswer, exactReward, formatReward, lengthReward, numberReward } from "./rewards.ts";
export {
  solves,
  TASKS,
  type TaskItem,
  type TaskLanguage,
  type TaskName,
  taskChat,
  taskItems,
} from "./tasks.ts";
