/** What a benchmark is: where its documents come from, how each becomes a question, and what counts. */
import type { Document, SourcedRecord } from "./document.ts";
import type { LanguageModel } from "./language-model.ts";
import type { Metric, Value } from "./metrics.ts";

export type RequestKind =
  | "loglikelihood"
  | "loglikelihood_rolling"
  | "multiple_choice"
  | "generate_until";

/** Where a task's documents are: a dataset of the Hugging Face Hub, in whose columns files are read. */
export interface Dataset {
  /** `owner/name` */
  readonly path: string;
  /** The Hub's configuration; `default` unless given. */
  readonly config?: string;
  /** The columns that are read. */
  readonly columns: readonly string[];
}

/** Solved documents before the question, each followed by an empty line. */
export interface FewShot {
  readonly split: string;
  /** How many, unless the caller says. */
  readonly count: number;
  /** The first ones of the split, or others for each document. */
  readonly sampler: "first" | "random";
}

/** What every task says of itself. */
export interface TaskHead {
  readonly name: string;
  /** Of the harness's task; another one when scores cannot be compared any more. */
  readonly version: number;
  readonly dataset: Dataset;
  /** The split that is scored. */
  readonly split: string;
  readonly fewShot?: FewShot;
  /** Before the solved documents. */
  readonly description?: string;
  /** Documents that come from elsewhere than the dataset. */
  readonly documents?: () => AsyncIterable<SourcedRecord> | Iterable<SourcedRecord>;
}

export interface Task extends TaskHead {
  readonly kind: RequestKind;
  /** By name: `acc`, `acc_norm` … */
  readonly metrics: Readonly<Record<string, Metric>>;
  /** Answers to a question of which the chance of a right one is told (`pass@k`). */
  readonly sampled?: boolean;
  /** Runs code that a model wrote. */
  readonly runsCode?: boolean;
  /** Tokens of an answer at most. */
  readonly maxTokens?: number;
  /** @throws FieldError for a document that is not as the task needs it */
  read(document: Document): Question;
}

/** A document, ready to be asked. */
export interface Question {
  /** As it stands among few-shot examples: with its answer. */
  readonly solved: string;
  /** For the log of samples. */
  readonly target: string | number;
  /** @param head what comes before the question: description and solved documents */
  ask(model: LanguageModel, head: string, settings: AskSettings): Promise<Answer>;
}

export interface AskSettings {
  /** Tokens of an answer at most, in place of the task's own number. */
  readonly maxTokens?: number;
  /** Answers to one question, where a task takes several. */
  readonly repeats: number;
  readonly temperature: number;
  readonly seed: number;
  readonly signal?: AbortSignal;
}

/** What a model made of a question. */
export interface Answer {
  /** By `metric,filter`, as `acc,none`. */
  readonly values: Readonly<Record<string, Value>>;
  /** What was asked of the model, and what it said. */
  readonly requests: readonly (readonly string[])[];
  readonly responses: readonly unknown[];
}
