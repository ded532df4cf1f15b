/** Runs tasks: reads their documents, asks the model, and adds up. */
import { Document, FieldError, type SourcedRecord } from "./document.ts";
import { type Example, fewShotHead } from "./few-shot.ts";
import type { LanguageModel } from "./language-model.ts";
import { MEAN, type Value } from "./metrics.ts";
import { type EvalResults, harnessResults, type TaskScores } from "./results.ts";
import type { DocumentSource } from "./source.ts";
import type { Answer, AskSettings, Question, Task } from "./task.ts";
import type { TaskGroup } from "./tasks/group.ts";

export interface EvaluateOptions {
  readonly tasks: readonly Task[];
  readonly groups?: readonly TaskGroup[];
  readonly model: LanguageModel;
  readonly source: DocumentSource;
  /** Documents of each task at most, the first ones. */
  readonly limit?: number;
  /** Solved documents before each question, instead of the tasks' own numbers. */
  readonly numFewShot?: number;
  /** Of examples and sampled answers; 1234, the harness's, unless given. */
  readonly seed?: number;
  /** Answers to a question, in tasks whose answers are sampled; 1 unless given. */
  readonly repeats?: number;
  /** Of those answers; 0 unless given. */
  readonly temperature?: number;
  /** Tokens of an answer at most, instead of the tasks' own numbers. */
  readonly maxTokens?: number;
  /** Documents worked on at once; 16 unless given. */
  readonly parallel?: number;
  /** Tasks that run a model's code are refused without it. */
  readonly allowCode?: boolean;
  readonly onProgress?: (progress: EvalProgress) => void;
  readonly onSample?: (sample: Sample) => void;
  readonly signal?: AbortSignal;
}

export interface EvalProgress {
  readonly task: string;
  /** Documents of all tasks. */
  readonly done: number;
  readonly total: number;
}

/** What became of one document. */
export interface Sample {
  readonly task: string;
  /** Its place in the split, from 0. */
  readonly index: number;
  readonly record: unknown;
  readonly target: string | number;
  readonly answer: Answer;
}

/** A task with all that it will ask. */
interface Prepared {
  readonly task: Task;
  readonly questions: readonly Example[];
  /** Documents of the split, before `limit`. */
  readonly original: number;
  readonly pool: readonly Example[];
  readonly count: number;
}

/**
 * Scores a model. All documents are read before the first is asked, so that what is wrong with one is
 * known at once.
 * @returns results in the layout of lm-evaluation-harness
 * @throws FieldError for a document that is not as its task needs it; Error for tasks that need
 *   `allowCode`, and for documents that are not there; the signal's reason once it is aborted
 */
export async function evaluate(options: EvaluateOptions): Promise<EvalResults> {
  const { tasks, groups = [], limit, signal, onProgress = () => {} } = options;
  const started = performance.now();
  const refused = options.allowCode ? [] : tasks.filter(({ runsCode }) => runsCode);
  if (refused.length > 0) {
    const names = refused.map(({ name }) => name).join(", ");
    throw new Error(
      `${names}: runs code that the model wrote; allow that (allowCode), or leave it out`,
    );
  }
  const prepared: Prepared[] = [];
  for (const task of tasks) prepared.push(await prepare(task, options));
  const total = prepared.reduce((sum, { questions }) => sum + questions.length, 0);
  let done = 0;
  const scores: TaskScores[] = [];
  for (const one of prepared) {
    const told = () => onProgress({ task: one.task.name, done: ++done, total });
    scores.push(await run(one, options, told));
    signal?.throwIfAborted();
  }
  const seconds = (performance.now() - started) / 1000;
  return harnessResults(scores, groups, { ...(limit === undefined ? {} : { limit }), seconds });
}

async function prepare(task: Task, options: EvaluateOptions): Promise<Prepared> {
  const { source, limit = Infinity, numFewShot, signal } = options;
  const count = numFewShot !== undefined && task.fewShot ? numFewShot : (task.fewShot?.count ?? 0);
  const read = async (split: string, most: number) => {
    const records = task.documents?.() ?? source.documents(task, split);
    const examples: Example[] = [];
    let seen = 0;
    for await (const record of records) {
      signal?.throwIfAborted();
      seen++;
      if (seen <= most) examples.push(example(task, record));
    }
    return { examples, seen };
  };
  const { examples, seen } = await read(task.split, limit);
  if (examples.length === 0)
    throw new Error(`${task.name}: its split ${task.split} has no documents`);
  const pool = count > 0 && task.fewShot ? (await read(task.fewShot.split, Infinity)).examples : [];
  return { task, questions: examples, original: seen, pool, count };
}

function example(task: Task, record: SourcedRecord): Example {
  try {
    return { record: record.value, question: task.read(new Document(record)) };
  } catch (error) {
    if (!(error instanceof FieldError)) throw error;
    throw new FieldError(`${task.name}: ${error.message}`);
  }
}

async function run(
  { task, questions, original, pool, count }: Prepared,
  options: EvaluateOptions,
  told: () => void,
): Promise<TaskScores> {
  const { model, seed = 1234, repeats = 1, temperature = 0, maxTokens, signal, onSample } = options;
  const asking = {
    ...{ repeats, temperature },
    ...(maxTokens === undefined ? {} : { maxTokens }),
    ...(signal ? { signal } : {}),
  };
  const values = new Map<string, Value[]>();
  await inOrder(questions, options.parallel ?? 16, async ({ record, question }, index) => {
    signal?.throwIfAborted();
    const head = fewShotHead(task, pool, count, { index, record, seed });
    // Each question draws from random numbers of its own.
    const settings: AskSettings = { ...asking, seed: seed + index };
    const answer = await ask(task, question, head, settings, model);
    for (const [key, value] of Object.entries(answer.values)) {
      const all = values.get(key) ?? [];
      values.set(key, all);
      all[index] = value;
    }
    onSample?.({ task: task.name, index, record, target: question.target, answer });
    told();
  });
  return {
    ...{ task, original, effective: questions.length, fewShot: count },
    metrics: [...values].map(([key, all]) => {
      const [name = "", filter = ""] = key.split(",");
      // pass@2, pass@4 … are told by how many answers there are.
      const metric = task.metrics[name] ?? MEAN;
      const scored = { value: metric.aggregate(all), stderr: metric.stderr(all) };
      return { name, filter, higherIsBetter: metric.higherIsBetter, ...scored };
    }),
  };
}

async function ask(
  task: Task,
  question: Question,
  head: string,
  settings: AskSettings,
  model: LanguageModel,
): Promise<Answer> {
  try {
    return await question.ask(model, head, settings);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new RangeError(`${task.name}: ${error.message}`, { cause: error });
  }
}

/** Works on some of a list at once, beginning in its order. The first failure ends it. */
async function inOrder<T>(
  list: readonly T[],
  parallel: number,
  work: (one: T, index: number) => Promise<void>,
): Promise<void> {
  let [next, failed] = [0, false];
  const worker = async () => {
    while (next < list.length && !failed) {
      const index = next++;
      try {
        await work(list[index] as T, index);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const workers = Array.from({ length: Math.max(1, parallel) }, worker);
  const ends = await Promise.allSettled(workers);
  for (const end of ends) if (end.status === "rejected") throw end.reason;
}
