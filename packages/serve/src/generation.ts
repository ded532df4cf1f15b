/** What a request gives: a stream of tokens of its answers. */
import type { Drawn } from "./scores.ts";
import type { Sequence } from "./sequence.ts";

/**
 * `stop`: an end-of-sequence id, a stop id, a stop string, or the end of its format. `length`: `maxTokens` or the end of the
 * context was reached.
 */
export type FinishReason = "stop" | "length";

/** One token of one answer. */
export interface Delta extends Drawn {
  /** Which of the n answers. */
  readonly choice: number;
  /** Text that is certain now; often empty, as characters and stop strings have to be complete. */
  readonly text: string;
  /** Set with the last token of the answer. */
  readonly finishReason: FinishReason | null;
  /** The stop string or id that ended the answer, if one did. */
  readonly stopped: string | number | null;
}

export interface Usage {
  readonly promptTokens: number;
  /** Tokens of the prompt that were found in the cache. */
  readonly cachedTokens: number;
  /** Of all answers. */
  readonly completionTokens: number;
}

/** A whole answer. */
export interface Choice {
  readonly tokens: readonly number[];
  readonly text: string;
  /** Of each token. */
  readonly drawn: readonly Drawn[];
  readonly finishReason: FinishReason;
  readonly stopped: string | number | null;
}

/** Tokens that wait to be read, for each answer of a request, before the engine stops making more. */
export const MAX_UNREAD = 256;

/**
 * The answers to one request, as they are made. Iterate once; leaving the loop cancels the rest. Whoever
 * does not read on gets no more than {@link MAX_UNREAD} tokens of an answer ahead: it pauses until half of
 * them are read.
 */
export class Generation implements AsyncIterable<Delta> {
  readonly #waiting: Delta[] = [];
  readonly #promptTokens: number;
  #unfinished: number;
  #cachedTokens = 0;
  #promptLogprobs: readonly (Drawn | null)[] | null = null;
  #completionTokens = 0;
  #failure: { readonly reason: unknown } | null = null;
  #wake: (() => void) | null = null;
  readonly #mostUnread: number;
  #behind = false;
  readonly #onEnd: () => void;
  readonly #onRead: () => void;

  /**
   * `onEnd` is called once there is nothing more to give, or nobody left to take it; `onRead` when a reader
   * that was behind is not any more. @internal
   */
  constructor(choices: number, promptTokens: number, onEnd: () => void, onRead: () => void) {
    this.#unfinished = choices;
    this.#promptTokens = promptTokens;
    this.#mostUnread = MAX_UNREAD * choices;
    this.#onEnd = onEnd;
    this.#onRead = onRead;
  }

  /** Whether so much waits to be read that nothing is to be added. @internal */
  get behind(): boolean {
    return this.#behind;
  }

  /**
   * Of each token of the prompt, null for the first; known from the first delta on. Null if the request
   * did not ask for `promptLogprobs`.
   */
  get promptLogprobs(): readonly (Drawn | null)[] | null {
    return this.#promptLogprobs;
  }

  /** What the request has used so far. */
  get usage(): Usage {
    return {
      promptTokens: this.#promptTokens,
      cachedTokens: this.#cachedTokens,
      completionTokens: this.#completionTokens,
    };
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Delta, void, undefined> {
    try {
      while (true) {
        const delta = this.#waiting.shift();
        this.#caughtUp();
        if (delta) yield delta;
        else if (this.#failure) throw this.#failure.reason;
        else if (this.#unfinished === 0) return;
        else await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    } finally {
      this.#onEnd();
    }
  }

  /** Reads the stream to its end. */
  async collect(): Promise<{ choices: Choice[]; usage: Usage }> {
    type Growing = { drawn: Drawn[]; text: string; last: Delta };
    const choices: Growing[] = [];
    for await (const delta of this) {
      const { choice, token, logprob, top, text } = delta;
      choices[choice] ??= { drawn: [], text: "", last: delta };
      const growing = choices[choice];
      growing.drawn.push({ token, logprob, top });
      growing.text += text;
      growing.last = delta;
    }
    return {
      choices: choices.map(({ drawn, text, last: { finishReason, stopped } }) => ({
        tokens: drawn.map(({ token }) => token),
        text,
        drawn,
        finishReason: finishReason!,
        stopped,
      })),
      usage: this.usage,
    };
  }

  /** @internal */
  give(delta: Delta, { cachedTokens, scores }: Sequence): void {
    if (this.#failure) return;
    if (delta.choice === 0) {
      this.#cachedTokens = cachedTokens;
      this.#promptLogprobs = scores;
    }
    this.#completionTokens++;
    this.#waiting.push(delta);
    this.#behind ||= this.#waiting.length >= this.#mostUnread;
    if (delta.finishReason !== null && --this.#unfinished === 0) this.#onEnd();
    this.#wake?.();
  }

  /** Tokens that were not read yet are dropped. @internal */
  fail(reason: unknown): void {
    if (this.#unfinished === 0) return;
    this.#failure ??= { reason };
    this.#waiting.length = 0;
    this.#onEnd();
    this.#wake?.();
  }

  #caughtUp(): void {
    if (!this.#behind || this.#waiting.length > this.#mostUnread / 2) return;
    this.#behind = false;
    this.#onRead();
  }
}
