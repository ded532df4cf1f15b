/** An answer as its reader sees it: the text of its tokens as they come, and where it ends. */
import type { ModelConfig } from "@dsv3/model";
import type { StreamDecoder, Tokenizer } from "@dsv3/tokenizer";
import type { Delta, Generation } from "./generation.ts";
import type { GenerationRequest } from "./request.ts";
import { StopWatch } from "./stop.ts";

export class Output {
  readonly generation: Generation;
  readonly maxTokens: number;
  /** Null without a tokenizer: then answers are token ids alone. */
  readonly #decoder: StreamDecoder | null;
  readonly #stops: StopWatch;
  readonly #stopIds: ReadonlySet<number>;
  /** Control tokens with a text. */
  readonly #shown: ReadonlyMap<number, string>;

  constructor(
    generation: Generation,
    request: GenerationRequest,
    maxTokens: number,
    { eosTokenIds }: ModelConfig,
    tokenizer: Tokenizer | undefined,
  ) {
    const { stop = [], stopIds = [], showIds = [], ignoreEos = false } = request;
    this.generation = generation;
    this.maxTokens = maxTokens;
    this.#decoder = tokenizer?.decoder({ skipSpecial: true }) ?? null;
    this.#stops = new StopWatch(stop);
    this.#stopIds = new Set([...stopIds, ...(ignoreEos ? [] : eosTokenIds)]);
    this.#shown = new Map(showIds.map((id) => [id, tokenizer?.decode([id]) ?? ""]));
  }

  /** What a token adds, the last of `count`; `complete` says that the answer's format ends there. */
  take(
    token: number,
    count: number,
    complete: boolean,
  ): Pick<Delta, "text" | "finishReason" | "stopped"> {
    const decoder = this.#decoder;
    let text = "";
    let stopped: string | number | null = this.#stopIds.has(token) ? token : null;
    if (stopped === null && decoder) {
      const name = this.#shown.get(token);
      const piece = name === undefined ? textOf(decoder, token) : decoder.end() + name;
      ({ text, stop: stopped } = this.#stops.push(piece));
    }
    const whole = stopped !== null || complete;
    const ended = whole || count >= this.maxTokens;
    if (ended && decoder && typeof stopped !== "string") {
      const last = this.#stops.push(decoder.end());
      text += last.text + (last.stop === null ? this.#stops.end() : "");
      stopped ??= last.stop;
    }
    return { text, stopped, finishReason: !ended ? null : whole ? "stop" : "length" };
  }
}

/** Text that a token completes. Ids that the tokenizer does not use, which pad models, have none. */
function textOf(decoder: StreamDecoder, token: number): string {
  try {
    return decoder.push(token);
  } catch (error) {
    if (error instanceof RangeError) return "";
    throw error;
  }
}
