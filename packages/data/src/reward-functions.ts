/** Rewards as reinforcement learning takes them: functions of a question and a reply, with weights. */
import { boxedAnswer, exactReward, formatReward, lengthReward, numberReward } from "./rewards.ts";
import { solves, type TaskItem } from "./tasks.ts";

/** What is asked, and what is known of a right answer. Plain JSON. */
export interface Question {
  readonly prompt: string;
  readonly answer?: string;
  /** A whole answer that is there already, see `distill`. */
  readonly response?: string;
  /** JavaScript that throws unless the reply's code is right, see `codeReward` of @dsv3/data/node. */
  readonly tests?: string;
  /** Of a question made by rule. */
  readonly item?: TaskItem;
}

export interface Reply {
  readonly text: string;
  readonly tokens: number;
  /** False: cut at the most tokens that it may have. */
  readonly finished: boolean;
}

/** What a reply is worth; higher is better. */
export type Reward = (question: Question, reply: Reply) => number | Promise<number>;

export interface WeightedReward {
  readonly name: string;
  readonly weight: number;
  readonly score: Reward;
}

/** 1 for a right answer to a question made by rule, see `solves`. */
export const taskReward: Reward = ({ item, prompt }, { text }) => {
  if (item === undefined) throw new Error(`not a question made by rule: ${quoted(prompt)}`);
  return solves(item, text) ? 1 : 0;
};

/** See {@link exactReward}. */
export const exact: Reward = (question, { text }) => exactReward(answerOf(question), text);

/** See {@link numberReward}. */
export const number: Reward = (question, { text }) => {
  const answer = answerOf(question);
  const value = Number(answer);
  if (answer.trim() === "" || !Number.isFinite(value)) {
    throw new Error(`the answer to ${quoted(question.prompt)} is ${quoted(answer)}, not a number`);
  }
  return numberReward(value, text);
};

/** 1 for a reply with a box, whatever is in it. */
export const boxed: Reward = (_, { text }) => (boxedAnswer(text) === undefined ? 0 : 1);

/** 1 for a reply that is of the form as a whole. */
export function ofForm(form: RegExp): Reward {
  return (_, { text }) => formatReward(form, text);
}

/** 1 for a reply that the expression is found in. @param pattern not sticky and not global */
export function containing(pattern: RegExp): Reward {
  return (_, { text }) => (pattern.test(text) ? 1 : 0);
}

/** See {@link lengthReward}. */
export function ofLength(limits: { limit: number; margin: number }): Reward {
  return (_, { tokens }) => lengthReward(tokens, limits);
}

function answerOf({ answer, prompt }: Question): string {
  if (answer !== undefined) return answer;
  throw new Error(`the question ${quoted(prompt)} has no answer to compare with`);
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text);
}
