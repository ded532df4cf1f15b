/** Parameters by their names in a Hugging Face folder: where each tensor of the record lies on disk. */
import type { ModelConfig } from "./config.ts";
import { paramShapes, type Shape } from "./params.ts";

/** Names outside the layers. */
const MODEL_NAMES: Readonly<Record<string, string>> = {
  embedTokens: "model.embed_tokens.weight",
  norm: "model.norm.weight",
  lmHead: "lm_head.weight",
};

/** Names within `model.layers.{n}.`; `{e}` counts experts, stacked in memory and apart on disk. */
const LAYER_NAMES: Readonly<Record<string, string>> = {
  inputLayernorm: "input_layernorm.weight",
  postAttentionLayernorm: "post_attention_layernorm.weight",
  "selfAttn.qProj": "self_attn.q_proj.weight",
  "selfAttn.qAProj": "self_attn.q_a_proj.weight",
  "selfAttn.qALayernorm": "self_attn.q_a_layernorm.weight",
  "selfAttn.qBProj": "self_attn.q_b_proj.weight",
  "selfAttn.kvAProjWithMqa": "self_attn.kv_a_proj_with_mqa.weight",
  "selfAttn.kvALayernorm": "self_attn.kv_a_layernorm.weight",
  "selfAttn.kvBProj": "self_attn.kv_b_proj.weight",
  "selfAttn.oProj": "self_attn.o_proj.weight",
  "mlp.gateProj": "mlp.gate_proj.weight",
  "mlp.upProj": "mlp.up_proj.weight",
  "mlp.downProj": "mlp.down_proj.weight",
  "mlp.gate": "mlp.gate.weight",
  "mlp.eScoreCorrectionBias": "mlp.gate.e_score_correction_bias",
  "mlp.experts.gateProj": "mlp.experts.{e}.gate_proj.weight",
  "mlp.experts.upProj": "mlp.experts.{e}.up_proj.weight",
  "mlp.experts.downProj": "mlp.experts.{e}.down_proj.weight",
  "mlp.sharedExperts.gateProj": "mlp.shared_experts.gate_proj.weight",
  "mlp.sharedExperts.upProj": "mlp.shared_experts.up_proj.weight",
  "mlp.sharedExperts.downProj": "mlp.shared_experts.down_proj.weight",
};

/** Names of an MTP module, stored as the layer after the last: within its `model.layers.{n}.` too. */
const MTP_NAMES: Readonly<Record<string, string>> = {
  enorm: "enorm.weight",
  hnorm: "hnorm.weight",
  ehProj: "eh_proj.weight",
  sharedHeadNorm: "shared_head.norm.weight",
};

/** What each MTP layer holds a copy of on disk, by the parameter's path in memory. */
const MTP_COPIES: Readonly<Record<string, string>> = {
  embedTokens: "embed_tokens.weight",
  lmHead: "shared_head.head.weight",
};

/** One tensor of the record, or with several names a stack along its first axis. */
export interface NamedParam {
  /** In memory: "layers.3.mlp.experts.gateProj", as `treePaths` spells it. */
  readonly path: string;
  readonly shape: Shape;
  /** On disk: one name, or one per expert. */
  readonly names: readonly string[];
  /** Further names that hold the same values (the shared embedding and head of MTP layers). */
  readonly copies: readonly string[];
}

/** Every parameter of a model, in the order of the record. */
export function namedParams(c: ModelConfig): NamedParam[] {
  return shapePaths(paramShapes(c)).map(([path, shape]) => {
    const name = nameOf(path, c);
    const names = name.includes("{e}")
      ? Array.from({ length: shape[0]! }, (_, e) => name.replace("{e}", String(e)))
      : [name];
    const copy = MTP_COPIES[path];
    const copies = Array.from(
      { length: copy === undefined ? 0 : c.numNextnPredictLayers },
      (_, k) => layerName(c.numHiddenLayers + k, copy!),
    );
    return { path, shape, names, copies };
  });
}

function layerName(layer: number, rest: string): string {
  return `model.layers.${layer}.${rest}`;
}

function nameOf(path: string, c: ModelConfig): string {
  const [stack, index, rest] = splitPath(path);
  const mtp = stack === "mtp" && !rest.startsWith("layer.");
  const name =
    stack === ""
      ? MODEL_NAMES[rest]
      : (mtp ? MTP_NAMES : LAYER_NAMES)[rest.replace(/^layer\./, "")];
  if (name === undefined) throw new Error(`parameter ${path} has no name on disk`);
  if (stack === "") return name;
  return layerName(stack === "mtp" ? c.numHiddenLayers + index : index, name);
}

/** "layers.3.mlp.gate" → ["layers", 3, "mlp.gate"]; "norm" → ["", 0, "norm"]. */
function splitPath(path: string): [stack: string, index: number, rest: string] {
  const match = /^(layers|mtp)\.(\d+)\.(.*)$/.exec(path);
  return match === null ? ["", 0, path] : [match[1]!, Number(match[2]), match[3]!];
}

/** Leaves of a record of shapes with their paths; a shape is an array of numbers, null is none. */
export function shapePaths(shapes: unknown, prefix = ""): [path: string, shape: Shape][] {
  if (shapes === null) return [];
  if (Array.isArray(shapes) && typeof shapes[0] === "number") return [[prefix, shapes]];
  return Object.entries(shapes as object).flatMap(([key, child]) =>
    shapePaths(child, prefix === "" ? key : `${prefix}.${key}`),
  );
}
