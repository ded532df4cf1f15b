/**
 * `config.json` of a Hugging Face folder, both ways. Every field must be known: a field that changes
 * what the model computes and is silently dropped makes a model that is almost right.
 */
import { z } from "zod";
import { ConfigError, checkConfig, type ModelConfig } from "./config.ts";

const size = z.int().min(1);
const count = z.int().min(0);
const positive = z.number().positive();
const tokenId = z.int().min(0);

const yarnFields = {
  factor: positive,
  original_max_position_embeddings: size,
  beta_fast: positive.default(32),
  beta_slow: positive.default(1),
  mscale: z.number().default(1),
  mscale_all_dim: z.number().default(0),
};

/** `rope_scaling` (transformers 4): `type` or `rope_type`, θ apart. */
const ropeScaling = z
  .strictObject({
    type: z.literal("yarn").optional(),
    rope_type: z.literal("yarn").optional(),
    ...yarnFields,
  })
  .nullable();

/** `rope_parameters` (transformers 5): θ inside, and always there. */
const ropeParameters = z.discriminatedUnion("rope_type", [
  z.strictObject({ rope_type: z.literal("default"), rope_theta: positive }),
  z.strictObject({ rope_type: z.literal("yarn"), rope_theta: positive, ...yarnFields }),
]);

/** Fields that the model is made of. */
const modelFields = {
  model_type: z.enum(["deepseek_v3", "deepseek_v2"]),
  vocab_size: size,
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: size,
  num_nextn_predict_layers: count.default(0),
  first_k_dense_replace: count,
  num_attention_heads: size,
  q_lora_rank: size.nullable(),
  kv_lora_rank: size,
  qk_nope_head_dim: size,
  qk_rope_head_dim: size,
  v_head_dim: size,
  rms_norm_eps: positive,
  moe_intermediate_size: size,
  n_routed_experts: size,
  n_shared_experts: count.nullable(),
  num_experts_per_tok: size,
  n_group: size.nullable().optional(),
  topk_group: size.nullable().optional(),
  scoring_func: z.enum(["sigmoid", "softmax"]).optional(),
  topk_method: z.enum(["noaux_tc", "greedy", "group_limited_greedy"]).optional(),
  norm_topk_prob: z.boolean().optional(),
  routed_scaling_factor: positive,
  max_position_embeddings: size,
  rope_theta: positive.optional(),
  rope_scaling: ropeScaling.optional(),
  rope_parameters: ropeParameters.optional(),
  rope_interleave: z.boolean().default(true),
  initializer_range: positive.default(0.02),
  bos_token_id: tokenId.nullable().default(null),
  eos_token_id: z.union([tokenId, z.array(tokenId), z.null()]).default(null),
};

/** Fields that may only say what this model always does. */
const fixedFields = {
  architectures: z.array(z.enum(["DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM"])).optional(),
  hidden_act: z.literal("silu").optional(),
  attention_bias: z.literal(false).optional(),
  attention_dropout: z.literal(0).optional(),
  mlp_bias: z.literal(false).optional(),
  tie_word_embeddings: z.literal(false).optional(),
  moe_layer_freq: z.literal(1).optional(),
  is_encoder_decoder: z.literal(false).optional(),
  head_dim: size.optional(), //             = qk_rope_head_dim
  qk_head_dim: size.optional(), //          = qk_nope_head_dim + qk_rope_head_dim
  num_key_value_heads: size.optional(), //  = num_attention_heads
  quantization_config: z
    .object({
      quant_method: z.literal("fp8"),
      fmt: z.literal("e4m3").optional(),
      weight_block_size: z.tuple([z.literal(128), z.literal(128)]).optional(),
    })
    .optional(),
};

/** Fields that concern others: training settings, other software's switches, labels. */
const ignoredFields = Object.fromEntries(
  [
    ..."_attn_implementation _name_or_path aux_loss_alpha auto_map chunk_size_feed_forward dtype",
    ..." ep_size id2label label2id output_attentions output_hidden_states pad_token_id",
    ..." pretraining_tp problem_type return_dict seq_aux torch_dtype transformers_version use_cache",
  ]
    .join("")
    .split(" ")
    .map((name) => [name, z.unknown().optional()]),
);

const configSchema = z.strictObject({ ...ignoredFields, ...fixedFields, ...modelFields });

/**
 * Reads a parsed `config.json` of model type deepseek_v3 or deepseek_v2.
 * @throws ConfigError naming the first field that is unknown, of a wrong kind, or contradicts others
 */
export function parseHuggingFaceConfig(json: unknown): ModelConfig {
  const result = configSchema.safeParse(json);
  if (!result.success) throw firstIssue(result.error, json);
  const hf = result.data;
  const v3 = hf.model_type === "deepseek_v3";

  const mustBe = (field: "head_dim" | "qk_head_dim" | "num_key_value_heads", value: number) => {
    if (hf[field] !== undefined && hf[field] !== value) {
      throw new ConfigError(field, `is ${hf[field]}, but the other fields make it ${value}`);
    }
  };
  mustBe("head_dim", hf.qk_rope_head_dim);
  mustBe("qk_head_dim", hf.qk_nope_head_dim + hf.qk_rope_head_dim);
  mustBe("num_key_value_heads", hf.num_attention_heads);

  return checkConfig({
    modelType: hf.model_type,
    vocabSize: hf.vocab_size,
    hiddenSize: hf.hidden_size,
    intermediateSize: hf.intermediate_size,
    numHiddenLayers: hf.num_hidden_layers,
    numNextnPredictLayers: hf.num_nextn_predict_layers,
    firstKDenseReplace: hf.first_k_dense_replace,
    numAttentionHeads: hf.num_attention_heads,
    qLoraRank: hf.q_lora_rank,
    kvLoraRank: hf.kv_lora_rank,
    qkNopeHeadDim: hf.qk_nope_head_dim,
    qkRopeHeadDim: hf.qk_rope_head_dim,
    vHeadDim: hf.v_head_dim,
    rmsNormEps: hf.rms_norm_eps,
    ...parseRope(hf),
    moeIntermediateSize: hf.moe_intermediate_size,
    nRoutedExperts: hf.n_routed_experts,
    nSharedExperts: hf.n_shared_experts ?? 0,
    numExpertsPerTok: hf.num_experts_per_tok,
    nGroup: hf.n_group ?? 1,
    topkGroup: hf.topk_group ?? 1,
    scoringFunc: hf.scoring_func ?? (v3 ? "sigmoid" : "softmax"),
    topkMethod: hf.topk_method ?? (v3 ? "noaux_tc" : "greedy"),
    normTopkProb: hf.norm_topk_prob ?? v3,
    routedScalingFactor: hf.routed_scaling_factor,
    maxPositionEmbeddings: hf.max_position_embeddings,
    initializerRange: hf.initializer_range,
    bosTokenId: hf.bos_token_id,
    eosTokenIds: hf.eos_token_id === null ? [] : [hf.eos_token_id].flat(),
  });
}

/** θ and YaRN from whichever spelling is there; an error when two spellings disagree. */
function parseRope(
  hf: z.output<typeof configSchema>,
): Pick<ModelConfig, "ropeTheta" | "ropeScaling" | "ropeInterleave"> {
  const old = hf.rope_scaling === undefined ? undefined : toYarn(hf.rope_scaling);
  const now = hf.rope_parameters === undefined ? undefined : toYarn(hf.rope_parameters);
  if (old !== undefined && now !== undefined && JSON.stringify(old) !== JSON.stringify(now)) {
    throw new ConfigError("rope_scaling", "contradicts rope_parameters; keep one of them");
  }
  const [outer, inner] = [hf.rope_theta, hf.rope_parameters?.rope_theta];
  if (outer !== undefined && inner !== undefined && outer !== inner) {
    throw new ConfigError("rope_theta", `${outer} contradicts rope_parameters' ${inner}`);
  }
  return {
    ropeTheta: outer ?? inner ?? 10000,
    ropeScaling: now ?? old ?? null,
    ropeInterleave: hf.rope_interleave,
  };
}

function toYarn(
  rope: z.output<typeof ropeScaling> | z.output<typeof ropeParameters>,
): ModelConfig["ropeScaling"] {
  if (rope === null || !("factor" in rope)) return null;
  return {
    factor: rope.factor,
    originalMaxPositionEmbeddings: rope.original_max_position_embeddings,
    betaFast: rope.beta_fast,
    betaSlow: rope.beta_slow,
    mscale: rope.mscale,
    mscaleAllDim: rope.mscale_all_dim,
  };
}

/** The first problem that zod saw, in our words: field, what it is, what was expected. */
function firstIssue(error: z.ZodError, json: unknown): ConfigError {
  const issue = error.issues[0]!;
  const path = issue.path.map(String);
  if (issue.code === "unrecognized_keys") {
    const field = [...path, issue.keys[0]].join(".");
    return new ConfigError(
      field,
      "unknown field; if it does not change what the model computes, remove it",
    );
  }
  const value = issue.path.reduce(
    (at: unknown, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key],
    json,
  );
  const found = value === undefined ? "is missing" : `is ${JSON.stringify(value).slice(0, 100)}`;
  return new ConfigError(path.join(".") || "config.json", `${found}: ${issue.message}`);
}

/**
 * The `config.json` that transformers, vLLM and SGLang read, with both spellings of the rotary
 * settings' fields where they can stand together.
 * @param dtype what the weights beside it are stored as
 */
export function toHuggingFaceConfig(
  c: ModelConfig,
  dtype: "float32" | "bfloat16" = "float32",
): Record<string, unknown> {
  const yarn = c.ropeScaling && {
    factor: c.ropeScaling.factor,
    original_max_position_embeddings: c.ropeScaling.originalMaxPositionEmbeddings,
    beta_fast: c.ropeScaling.betaFast,
    beta_slow: c.ropeScaling.betaSlow,
    mscale: c.ropeScaling.mscale,
    mscale_all_dim: c.ropeScaling.mscaleAllDim,
  };
  const v3 = c.modelType === "deepseek_v3";
  return {
    architectures: [v3 ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM"],
    model_type: c.modelType,
    attention_bias: false,
    attention_dropout: 0,
    bos_token_id: c.bosTokenId,
    eos_token_id: c.eosTokenIds.length > 1 ? c.eosTokenIds : (c.eosTokenIds[0] ?? null),
    first_k_dense_replace: c.firstKDenseReplace,
    hidden_act: "silu",
    hidden_size: c.hiddenSize,
    initializer_range: c.initializerRange,
    intermediate_size: c.intermediateSize,
    kv_lora_rank: c.kvLoraRank,
    max_position_embeddings: c.maxPositionEmbeddings,
    moe_intermediate_size: c.moeIntermediateSize,
    moe_layer_freq: 1,
    n_group: c.nGroup,
    n_routed_experts: c.nRoutedExperts,
    n_shared_experts: c.nSharedExperts,
    norm_topk_prob: c.normTopkProb,
    num_attention_heads: c.numAttentionHeads,
    num_experts_per_tok: c.numExpertsPerTok,
    num_hidden_layers: c.numHiddenLayers,
    num_key_value_heads: c.numAttentionHeads,
    num_nextn_predict_layers: c.numNextnPredictLayers,
    q_lora_rank: c.qLoraRank,
    qk_nope_head_dim: c.qkNopeHeadDim,
    qk_rope_head_dim: c.qkRopeHeadDim,
    rms_norm_eps: c.rmsNormEps,
    rope_interleave: c.ropeInterleave,
    rope_scaling: yarn && { type: "yarn", ...yarn },
    rope_theta: c.ropeTheta,
    routed_scaling_factor: c.routedScalingFactor,
    scoring_func: c.scoringFunc,
    tie_word_embeddings: false,
    topk_group: c.topkGroup,
    topk_method: c.topkMethod,
    torch_dtype: dtype,
    use_cache: true,
    v_head_dim: c.vHeadDim,
    vocab_size: c.vocabSize,
  };
}
