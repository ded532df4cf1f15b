/** Figures that others published, to stand beside one's own. */

/** A score in per cent, as it was published. */
export interface PublishedScore {
  readonly model: "DeepSeek-V3-Base" | "GPT-4o (2024-05-13)";
  readonly percent: number;
  /** How it was asked for: prompts differ from the tasks' here, and so the figures are no equals. */
  readonly setting: string;
  readonly source: string;
}

const BASE_TABLE = "arXiv 2412.19437, table 3";
const SIMPLE_EVALS = "github.com/openai/simple-evals, README";

const base = (percent: number, setting: string): PublishedScore => ({
  model: "DeepSeek-V3-Base",
  ...{ percent, setting, source: BASE_TABLE },
});

const gpt4o = (percent: number, setting: string): PublishedScore => ({
  model: "GPT-4o (2024-05-13)",
  ...{ percent, setting, source: SIMPLE_EVALS },
});

const SCORES: Readonly<Record<string, readonly PublishedScore[]>> = {
  arc_easy: [base(98.9, "25-shot")],
  arc_challenge: [base(95.3, "25-shot")],
  gsm8k: [base(89.3, "8-shot, exact match")],
  hellaswag: [base(88.9, "10-shot")],
  humaneval: [base(65.2, "0-shot, pass@1"), gpt4o(91.0, "0-shot, chat")],
  mmlu: [base(87.1, "5-shot"), gpt4o(87.2, "0-shot, chain of thought")],
  piqa: [base(84.7, "0-shot")],
  winogrande: [base(84.9, "5-shot")],
};

/** Of a task or group; none for most. */
export function publishedScores(task: string): readonly PublishedScore[] {
  return Object.hasOwn(SCORES, task) ? (SCORES[task] as readonly PublishedScore[]) : [];
}
