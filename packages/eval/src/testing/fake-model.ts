/** For tests: a model whose tokens are characters and whose log-probabilities are set by hand. */
import type { GenerateSettings, LanguageModel, Likelihood } from "../language-model.ts";

export interface FakeOptions {
  readonly maxLength?: number;
  /** Log-probability of a text after another; −1 for each character unless given. */
  readonly logprob?: (context: string, continuation: string) => number;
  readonly isGreedy?: (context: string, continuation: string) => boolean;
  readonly answers?: (prompt: string, settings: GenerateSettings) => readonly string[];
  /** Texts that are one token, besides single characters; the first that fits is taken. */
  readonly joined?: readonly string[];
}

/** Token 0 is where texts begin; a character is its code point + 1; joined texts come after them. */
const JOINED = 0x110001;

/** A model, and what was asked of it: the texts that it saw, where they begin written as ^. */
export class FakeModel implements LanguageModel {
  readonly maxLength: number;
  readonly prefixToken = 0;
  readonly scored: (readonly [string, string])[] = [];
  readonly prompts: string[] = [];
  readonly #options: FakeOptions;

  constructor(options: FakeOptions = {}) {
    this.maxLength = options.maxLength ?? 10_000;
    this.#options = options;
  }

  encode(text: string, special: boolean): readonly number[] {
    const { joined = [] } = this.#options;
    const ids: number[] = special ? [0] : [];
    for (let at = 0; at < text.length; ) {
      const found = joined.findIndex((one) => text.startsWith(one, at));
      const piece = joined[found] ?? String.fromCodePoint(text.codePointAt(at) as number);
      ids.push(found < 0 ? (piece.codePointAt(0) as number) + 1 : JOINED + found);
      at += piece.length;
    }
    return ids;
  }

  encodeQuestion(question: string): readonly number[] {
    return this.encode(`<${question}>`, true);
  }

  async score(context: readonly number[], continuation: readonly number[]): Promise<Likelihood> {
    const pair = [this.#text(context), this.#text(continuation)] as const;
    this.scored.push(pair);
    const { logprob = (_, { length }) => -length, isGreedy = () => false } = this.#options;
    return { logprob: logprob(...pair), isGreedy: isGreedy(...pair) };
  }

  async generate(ids: readonly number[], settings: GenerateSettings): Promise<readonly string[]> {
    const prompt = this.#text(ids);
    this.prompts.push(prompt);
    return this.#options.answers?.(prompt, settings) ?? [""];
  }

  #text(ids: readonly number[]): string {
    const { joined = [] } = this.#options;
    return ids
      .map((id) => (id === 0 ? "^" : (joined[id - JOINED] ?? String.fromCodePoint(id - 1))))
      .join("");
  }
}
