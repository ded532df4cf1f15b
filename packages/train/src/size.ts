/** How a model of a size is trained: tokens, batch and learning rate, by published laws. */
import { countParameters, sizedConfig } from "@dsv3/model";

export interface SizedRecipe {
  /** Of pre-training. */
  readonly tokens: number;
  /** Sequences of an update, and tokens of a sequence. */
  readonly batch: number;
  readonly length: number;
  /** At its peak. */
  readonly learningRate: number;
}

/** Tokens for each active parameter (Hoffmann et al., arXiv 2203.15556); the report has 400. */
const TOKENS_PER_PARAMETER = 20;

/**
 * The recipe for `sizedConfig(size)` of @dsv3/model, from its active parameters N (without the input
 * embedding) and the number of tokens T, 20 N unless told. With C = 6 N T operations, the batch has
 * 0.2920 C^0.3271 tokens and the learning rate is 0.3118 C^−0.1250 (DeepSeek LLM, arXiv 2401.02954,
 * section 3.1). For the report's 14.8T tokens they give 31M and 2.7e-4, where it has 63M and 2.2e-4.
 * @throws RangeError for a size that is none
 */
export function sizedRecipe(size: number, tokensAsked?: number): SizedRecipe {
  const config = sizedConfig(size);
  const active = countParameters(config).activeWithoutEmbedding;
  const tokens = tokensAsked ?? TOKENS_PER_PARAMETER * active;
  const compute = 6 * active * tokens;
  const length = config.maxPositionEmbeddings;
  return {
    tokens,
    batch: Math.max(1, Math.round((0.292 * compute ** 0.3271) / length)),
    length,
    // Three digits: more would be noise.
    learningRate: Number((0.3118 * compute ** -0.125).toPrecision(3)),
  };
}
