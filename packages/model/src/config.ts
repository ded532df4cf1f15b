/** What a DeepSeek-V3 is: every size and rule that its weights and its forward pass depend on. */
import type { MlaConfig } from "@dsv3/mla";
import type { MoeConfig } from "@dsv3/moe";

/** Hugging Face names in camelCase; see {@link MlaConfig} and {@link MoeConfig} for their parts. */
export interface ModelConfig extends MlaConfig, MoeConfig {
  /** `deepseek_v2` differs in routing defaults alone; the rest of the model is the same. */
  readonly modelType: "deepseek_v3" | "deepseek_v2";
  readonly vocabSize: number;
  /** Of every norm but those within attention. */
  readonly rmsNormEps: number;
  readonly numHiddenLayers: number;
  /** Layers before this one have a dense MLP of `intermediateSize`; the others route. */
  readonly firstKDenseReplace: number;
  readonly intermediateSize: number;
  /** Depth of multi-token prediction: modules after the main model (section 2.2 of the report). */
  readonly numNextnPredictLayers: number;
  /** Tokens of context; with YaRN, of the extended one. */
  readonly maxPositionEmbeddings: number;
  /** Standard deviation of fresh weights. */
  readonly initializerRange: number;
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
}

/** Whether layer `index` routes. MTP modules go on counting after the main model's last layer. */
export function isMoeLayer(c: ModelConfig, index: number): boolean {
  return index >= c.firstKDenseReplace;
}

/** A configuration that cannot be: names the field, what it is, and what it should be. */
export class ConfigError extends Error {
  /** The field at fault, as config.json spells it. */
  readonly field: string;

  constructor(field: string, problem: string) {
    super(`config: ${field}: ${problem}`);
    this.name = "ConfigError";
    this.field = field;
  }
}

/**
 * Checks that the fields agree with each other, and returns the config.
 * @throws ConfigError for the first contradiction
 */
export function checkConfig(c: ModelConfig): ModelConfig {
  const refuse = (field: string, problem: string): never => {
    throw new ConfigError(field, problem);
  };
  if (c.qkRopeHeadDim % 2 !== 0) {
    refuse("qk_rope_head_dim", `must be even to rotate in pairs, is ${c.qkRopeHeadDim}`);
  }
  if (c.nRoutedExperts % c.nGroup !== 0) {
    refuse("n_group", `${c.nGroup} does not divide n_routed_experts = ${c.nRoutedExperts}`);
  }
  if (c.topkGroup > c.nGroup) {
    refuse("topk_group", `${c.topkGroup} groups of n_group = ${c.nGroup} cannot be picked`);
  }
  const groupSize = c.nRoutedExperts / c.nGroup;
  if (c.topkMethod === "noaux_tc" && c.nGroup > 1 && groupSize < 2) {
    refuse("n_group", `groups of ${groupSize} expert have no two best, which noaux_tc ranks by`);
  }
  const eligible = c.topkMethod === "greedy" ? c.nRoutedExperts : groupSize * c.topkGroup;
  if (c.numExpertsPerTok > eligible) {
    const why = `only ${eligible} of n_routed_experts = ${c.nRoutedExperts} are eligible`;
    refuse("num_experts_per_tok", `${c.numExpertsPerTok} cannot be picked: ${why}`);
  }
  if (c.scoringFunc === "softmax" && c.topkMethod === "noaux_tc") {
    refuse("topk_method", "noaux_tc goes with scoring_func sigmoid, not softmax");
  }
  const layers = c.numHiddenLayers + c.numNextnPredictLayers;
  if (c.firstKDenseReplace > layers) {
    refuse("first_k_dense_replace", `${c.firstKDenseReplace} of ${layers} layers (with MTP)`);
  }
  for (const [field, id] of [
    ["bos_token_id", c.bosTokenId],
    ...c.eosTokenIds.map((id) => ["eos_token_id", id] as const),
  ] as const) {
    if (id !== null && id >= c.vocabSize) {
      refuse(field, `${id} is outside the vocabulary of ${c.vocabSize}`);
    }
  }
  return c;
}
