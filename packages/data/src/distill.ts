/**
 * Distillation of a reasoning model (section 5.1 of the report): a teacher answers until its answer is
 * a good one (rejection sampling), and each question gives examples of two forms, <problem, original
 * response> and <system prompt, problem, teacher's response>.
 */
import type { Question, Reply, WeightedReward } from "./reward-functions.ts";

/** Asked with the same question and number, it should give the same answer. */
export type Teacher = (question: Question, attempt: number) => Promise<Reply>;

export interface DistillOptions {
  readonly rewards: readonly WeightedReward[];
  /** Weighted sum of the rewards that an answer needs. */
  readonly threshold: number;
  /** Answers that are asked for at most, for each question. */
  readonly attempts: number;
  /** Good answers that are enough. */
  readonly keep: number;
  /** What stands before the teacher's answers, and asks for its way of thinking. */
  readonly system: string;
}

/** A conversation to learn from; `source` tells its form. */
export interface DistilledChat {
  readonly messages: readonly { readonly role: string; readonly content: string }[];
  readonly source: "original" | "distilled";
}

export interface Distilled {
  /** None where no answer was good: neither form is kept. */
  readonly chats: readonly DistilledChat[];
  readonly attempts: number;
  readonly accepted: number;
}

/** Examples of one question. Answers that were cut are no good, nor are repeated ones of use. */
export async function distill(
  question: Question,
  teacher: Teacher,
  { rewards, threshold, attempts, keep, system }: DistillOptions,
): Promise<Distilled> {
  const user = { role: "user", content: question.prompt };
  const good = new Set<string>();
  let asked = 0;
  while (asked < attempts && good.size < keep) {
    const reply = await teacher(question, asked++);
    if (!reply.finished || good.has(reply.text)) continue;
    let worth = 0;
    for (const { weight, score } of rewards) worth += weight * (await score(question, reply));
    if (worth >= threshold) good.add(reply.text);
  }
  const said = (content: string) => ({ role: "assistant", content });
  const chats: DistilledChat[] = [];
  if (good.size > 0 && question.response !== undefined) {
    chats.push({ messages: [user, said(question.response)], source: "original" });
  }
  for (const text of good) {
    const before = system === "" ? [] : [{ role: "system", content: system }];
    chats.push({ messages: [...before, user, said(text)], source: "distilled" });
  }
  return { chats, attempts: asked, accepted: good.size };
}
