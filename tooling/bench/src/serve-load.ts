/** The load that serving is measured with: streams that begin together, each a prompt and an answer. */
import { performance } from "node:perf_hooks";

/** What the streams of one load saw. */
export interface LoadResult {
  readonly streams: number;
  /** Tokens of all answers, by the time from the first request to the last token. */
  readonly tokensPerSecond: number;
  /** Milliseconds from a request to its first token: median. */
  readonly firstToken: number;
  /** Milliseconds between two tokens of one answer: median, and what 95 % stay below. */
  readonly between: number;
  readonly between95: number;
}

/** A contender: one answer to a prompt of token ids, as a stream that ends after `maxTokens`. */
export type Answer = (prompt: number[], maxTokens: number) => AsyncIterable<unknown>;

export const PROMPT_TOKENS = 128;
export const ANSWER_TOKENS = 64;
export const STREAMS: readonly number[] = [1, 4, 16, 64];

/** Ids below `vocabSize`, different for every salt from the first block on. */
export function promptOf(length: number, salt: number, vocabSize: number): number[] {
  return Array.from(
    { length },
    (_, i) => 3 + ((i * 31 + salt * 977 + ((i * salt) % 13)) % (vocabSize - 3)),
  );
}

/** When a stream's tokens came, in milliseconds after it was asked for. */
export async function timesOf(stream: AsyncIterable<unknown>, began: number): Promise<number[]> {
  const times: number[] = [];
  for await (const _ of stream) times.push(performance.now() - began);
  return times;
}

/** Prompts are all different, in a client's process too, so that no prefix is found again. */
let salt = process.send ? 1_000_000 : 0;

export async function load(
  answer: Answer,
  streams: number,
  vocabSize: number,
): Promise<LoadResult> {
  await burst(answer, streams, vocabSize, 4); // programs are compiled, engines warm
  return burst(answer, streams, vocabSize, ANSWER_TOKENS);
}

/** The same without anything before, with answers of so many tokens. */
export async function burst(
  answer: Answer,
  streams: number,
  vocabSize: number,
  tokens: number,
): Promise<LoadResult> {
  const began = performance.now();
  const prompts = Array.from({ length: streams }, () => promptOf(PROMPT_TOKENS, ++salt, vocabSize));
  const times = await Promise.all(prompts.map((prompt) => timesOf(answer(prompt, tokens), began)));
  const count = times.reduce((sum, t) => sum + t.length, 0);
  const gaps = times.flatMap((t) => t.slice(1).map((time, i) => time - t[i]!));
  return {
    streams,
    tokensPerSecond: (1000 * count) / Math.max(...times.map((t) => t.at(-1)!)),
    firstToken: quantile(
      times.map((t) => t[0]!),
      0.5,
    ),
    between: quantile(gaps, 0.5),
    between95: quantile(gaps, 0.95),
  };
}

/** Other programs slow down some rounds: loads of up to 16 streams are repeated, and the best counts. */
export const ROUNDS = 3;

export async function loadAll(
  answerFor: (streams: number) => Answer | Promise<Answer>,
  streams: readonly number[],
  vocabSize: number,
): Promise<LoadResult[]> {
  const best = new Map<number, LoadResult>();
  for (let round = 0; round < ROUNDS; round++) {
    for (const count of round === 0 ? streams : streams.filter((n) => n <= 16)) {
      best.set(
        count,
        better(best.get(count), await load(await answerFor(count), count, vocabSize)),
      );
    }
  }
  return [...best.values()];
}

export function better(a: LoadResult | undefined, b: LoadResult): LoadResult {
  return a && a.tokensPerSecond > b.tokensPerSecond ? a : b;
}

export function quantile(values: readonly number[], q: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}
