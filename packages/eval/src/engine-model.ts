/** The serving engine as a model to be evaluated. */
import type { ModelConfig, ModelParams } from "@dsv3/model";
import { Engine, type EngineStats } from "@dsv3/serve";
import { encodeChat, type Tokenizer } from "@dsv3/tokenizer";
import type { GenerateSettings, LanguageModel, Likelihood } from "./language-model.ts";
import { Places } from "./places.ts";

export interface EngineModelOptions {
  /** They stay the caller's, and must live as long as the model. */
  readonly params: ModelParams;
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  /** Requests computed at once; 16 unless given. */
  readonly batch?: number;
  /** Most tokens that the model reads at once; its whole context unless given. */
  readonly maxLength?: number;
  readonly computeDtype?: "f32" | "bf16";
}

/** Tokens that the latent cache holds at least, so that few-shot heads are found again. */
const CACHE_TOKENS = 16_384;

export class EngineModel implements LanguageModel {
  readonly maxLength: number;
  readonly prefixToken: number;
  readonly #engine: Engine;
  readonly #tokenizer: Tokenizer;
  /** Given out in the order of asking, so that neighbours find each other's prefixes. */
  readonly #places: Places;

  /** @throws RangeError for sizes that cannot be; Error for a vocabulary without a token to begin with */
  constructor(options: EngineModelOptions) {
    const { params, config, tokenizer, batch = 16, computeDtype } = options;
    const context = config.maxPositionEmbeddings;
    this.maxLength = options.maxLength ?? context;
    if (!(Number.isInteger(this.maxLength) && this.maxLength > 0 && this.maxLength <= context)) {
      throw new RangeError(
        `maxLength is ${this.maxLength}, but must be a whole number up to the model's context of ${context}`,
      );
    }
    const prefix = tokenizer.special.bos ?? config.bosTokenId ?? tokenizer.special.eos;
    if (prefix === undefined || prefix === null) {
      throw new Error("neither tokenizer nor model has a token to begin a text with");
    }
    this.prefixToken = prefix;
    this.#tokenizer = tokenizer;
    this.#places = new Places(batch);
    // A window's last token and the one drawn after it take two places more than the model reads: it
    // computes them, but nothing that is looked at depends on them.
    const maxContext = this.maxLength + 2;
    this.#engine = new Engine({
      params,
      config: { ...config, maxPositionEmbeddings: Math.max(context, maxContext) },
      tokenizer,
      maxContext,
      cacheTokens: Math.max(CACHE_TOKENS, 2 * maxContext),
      maxRunning: batch,
      maxQueued: Number.MAX_SAFE_INTEGER,
      ...(computeDtype ? { computeDtype } : {}),
    });
  }

  encode(text: string, special: boolean): readonly number[] {
    return Array.from(this.#tokenizer.encode(text, { addSpecial: special }));
  }

  encodeQuestion(question: string): readonly number[] {
    const messages = [{ role: "user", content: question }] as const;
    return Array.from(encodeChat(this.#tokenizer, messages, { addGenerationPrompt: true }).ids);
  }

  async score(context: readonly number[], continuation: readonly number[]): Promise<Likelihood> {
    return this.#places.take(async () => {
      const generation = this.#engine.submit({
        prompt: [...context, ...continuation],
        maxTokens: 1,
        temperature: 0,
        promptLogprobs: 1,
        promptLogprobsFrom: context.length,
      });
      await generation.collect();
      const scored = generation.promptLogprobs?.slice(context.length) ?? [];
      let [logprob, isGreedy] = [0, true];
      for (const one of scored) {
        logprob += one?.logprob ?? Number.NaN;
        isGreedy &&= one?.top[0]?.token === one?.token;
      }
      return { logprob, isGreedy };
    });
  }

  async generate(
    prompt: readonly number[],
    { until, maxTokens, n = 1, temperature = 0, seed }: GenerateSettings,
  ): Promise<readonly string[]> {
    return this.#places.take(async () => {
      const request = { prompt, maxTokens, n, temperature, stop: until };
      const { choices } = await this.#engine.generate(
        seed === undefined ? request : { ...request, seed },
      );
      return choices.map(({ text }) => text);
    });
  }

  /** How much the engine has computed, and found in its prefix cache. */
  stats(): EngineStats {
    return this.#engine.stats();
  }

  async dispose(): Promise<void> {
    await this.#engine.dispose();
  }
}
