import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { ConfigError } from "./config.ts";
import { parseHuggingFaceConfig, toHuggingFaceConfig } from "./hugging-face.ts";
import { PRESETS } from "./presets.ts";

const read = (name: string) =>
  JSON.parse(readFileSync(new URL(`./__fixtures__/${name}/config.json`, import.meta.url), "utf8"));

/** config.json of deepseek-ai/DeepSeek-V3 as published. */
const published = {
  architectures: ["DeepseekV3ForCausalLM"],
  attention_bias: false,
  attention_dropout: 0.0,
  auto_map: { AutoConfig: "configuration_deepseek.DeepseekV3Config" },
  bos_token_id: 0,
  eos_token_id: 1,
  ep_size: 1,
  first_k_dense_replace: 3,
  hidden_act: "silu",
  hidden_size: 7168,
  initializer_range: 0.02,
  intermediate_size: 18432,
  kv_lora_rank: 512,
  max_position_embeddings: 163840,
  model_type: "deepseek_v3",
  moe_intermediate_size: 2048,
  moe_layer_freq: 1,
  n_group: 8,
  n_routed_experts: 256,
  n_shared_experts: 1,
  norm_topk_prob: true,
  num_attention_heads: 128,
  num_experts_per_tok: 8,
  num_hidden_layers: 61,
  num_key_value_heads: 128,
  num_nextn_predict_layers: 1,
  q_lora_rank: 1536,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  quantization_config: {
    activation_scheme: "dynamic",
    fmt: "e4m3",
    quant_method: "fp8",
    weight_block_size: [128, 128],
  },
  rms_norm_eps: 1e-6,
  rope_scaling: {
    beta_fast: 32,
    beta_slow: 1,
    factor: 40,
    mscale: 1.0,
    mscale_all_dim: 1.0,
    original_max_position_embeddings: 4096,
    type: "yarn",
  },
  rope_theta: 10000,
  routed_scaling_factor: 2.5,
  scoring_func: "sigmoid",
  tie_word_embeddings: false,
  topk_group: 4,
  topk_method: "noaux_tc",
  torch_dtype: "bfloat16",
  transformers_version: "4.33.1",
  use_cache: true,
  v_head_dim: 128,
  vocab_size: 129280,
};

test("the published configuration is the preset", () => {
  expect(parseHuggingFaceConfig(published)).toEqual(PRESETS["deepseek-v3-671b"]);
});

test("both rotary spellings mean the same", () => {
  const { rope_scaling, rope_theta, ...rest } = published;
  const { type, ...yarn } = rope_scaling;
  const rope_parameters = { rope_type: type, rope_theta, ...yarn };
  expect(parseHuggingFaceConfig({ ...rest, rope_parameters })).toEqual(
    parseHuggingFaceConfig(published),
  );
  expect(read("yarn").rope_scaling).toBeUndefined();
  expect(parseHuggingFaceConfig(read("yarn")).ropeScaling?.factor).toBe(4);
  expect(parseHuggingFaceConfig(read("base")).ropeScaling).toBeNull();
  expect(() =>
    parseHuggingFaceConfig({
      ...published,
      rope_parameters: { ...rope_parameters, factor: 41 },
    }),
  ).toThrow("rope_scaling: contradicts rope_parameters");
  expect(() => parseHuggingFaceConfig({ ...rest, rope_theta: 5, rope_parameters })).toThrow(
    "rope_theta: 5 contradicts rope_parameters' 10000",
  );
});

test.each(Object.entries(PRESETS))("%s survives writing and reading", (_, config) => {
  const json = JSON.parse(JSON.stringify(toHuggingFaceConfig(config)));
  expect(parseHuggingFaceConfig(json)).toEqual(config);
});

test("routing defaults are those of the model type", () => {
  const { scoring_func: _, topk_method: __, norm_topk_prob: ___, ...rest } = published;
  expect(parseHuggingFaceConfig(rest)).toMatchObject({
    scoringFunc: "sigmoid",
    topkMethod: "noaux_tc",
    normTopkProb: true,
  });
  expect(
    parseHuggingFaceConfig({ ...rest, model_type: "deepseek_v2", n_group: null, topk_group: null }),
  ).toMatchObject({
    scoringFunc: "softmax",
    topkMethod: "greedy",
    normTopkProb: false,
    nGroup: 1,
  });
});

test.each([
  ["a kind", { hidden_size: "7168" }, "hidden_size", 'is "7168": '],
  ["a range", { num_hidden_layers: 0 }, "num_hidden_layers", "is 0: "],
  ["a fraction", { vocab_size: 1.5 }, "vocab_size", "is 1.5: "],
  ["an activation", { hidden_act: "gelu" }, "hidden_act", 'is "gelu": '],
  ["tied embeddings", { tie_word_embeddings: true }, "tie_word_embeddings", "is true: "],
  ["sparse MoE layers", { moe_layer_freq: 2 }, "moe_layer_freq", "is 2: "],
  ["another model", { model_type: "llama" }, "model_type", 'is "llama": '],
  [
    "another scaling",
    { rope_scaling: { type: "linear", factor: 2 } },
    "rope_scaling.type",
    "linear",
  ],
  [
    "YaRN's unknown field",
    { rope_scaling: { ...published.rope_scaling, attention_factor: 1 } },
    "rope_scaling.attention_factor",
    "unknown field",
  ],
  [
    "other blocks",
    { quantization_config: { quant_method: "gptq" } },
    "quantization_config.quant_method",
    "gptq",
  ],
  ["an unknown field", { sliding_window: 4096 }, "sliding_window", "unknown field"],
  [
    "heads",
    { num_key_value_heads: 8 },
    "num_key_value_heads",
    "is 8, but the other fields make it 128",
  ],
  ["head_dim", { head_dim: 128 }, "head_dim", "is 128, but the other fields make it 64"],
  ["groups picked", { topk_group: 9 }, "topk_group", "9 groups of n_group = 8 cannot be picked"],
  ["uneven groups", { n_group: 7 }, "n_group", "7 does not divide n_routed_experts = 256"],
  ["single groups", { n_group: 256 }, "n_group", "groups of 1 expert have no two best"],
  [
    "too many experts",
    { num_experts_per_tok: 129 },
    "num_experts_per_tok",
    "129 cannot be picked: only 128 of n_routed_experts = 256 are eligible",
  ],
  ["odd rotation", { qk_rope_head_dim: 63 }, "qk_rope_head_dim", "must be even"],
  ["dense layers", { first_k_dense_replace: 63 }, "first_k_dense_replace", "63 of 62 layers"],
  ["a mixed router", { scoring_func: "softmax" }, "topk_method", "goes with scoring_func sigmoid"],
  ["an end outside", { eos_token_id: [1, 129280] }, "eos_token_id", "outside the vocabulary"],
])("refuses %s, by name", (_, change, field, text) => {
  const parse = () => parseHuggingFaceConfig({ ...published, ...change });
  expect(parse).toThrow(ConfigError);
  expect(parse).toThrow(`config: ${field}: `);
  expect(parse).toThrow(text);
});

test("names a missing field", () => {
  const { kv_lora_rank: _, ...rest } = published;
  expect(() => parseHuggingFaceConfig(rest)).toThrow("config: kv_lora_rank: is missing");
});

test("answers any JSON with a config or a ConfigError", () => {
  const keys = fc.constantFrom(...Object.keys(published));
  fc.assert(
    fc.property(fc.oneof(fc.jsonValue(), fc.dictionary(keys, fc.jsonValue())), (json) => {
      const merged =
        typeof json === "object" && !Array.isArray(json) ? { ...published, ...json } : json;
      try {
        parseHuggingFaceConfig(merged);
      } catch (error) {
        expect(error).toBeInstanceOf(ConfigError);
      }
    }),
  );
});
