import { openCheckpoint } from "@dsv3/checkpoint";
import {
  cacheBytesPerToken,
  checkedConfig,
  countParameters,
  type ModelConfig,
  PRESETS,
  preset,
  sizedConfig,
} from "@dsv3/model";
import { type SizedRecipe, sizedRecipe } from "@dsv3/train";
import { type Command, defineCommand } from "../command.ts";
import { UsageError } from "../errors.ts";
import { formatBytes, formatCount } from "../ui/format.ts";
import { printJson } from "../ui/json.ts";
import { renderTable } from "../ui/table.ts";

export const inspect: Command = defineCommand({
  summary: "Prints the parameters, bytes and cache size of a model, reading no weights.",
  flags: {
    model: { type: "string", value: "DIR", help: "a Hugging Face folder" },
    preset: { type: "choice", choices: Object.keys(PRESETS), help: "a named configuration" },
    size: {
      type: "integer",
      value: "N",
      help: "DeepSeek-V3 scaled to width 128 N, and how it is trained, as train --size N does",
      min: 1,
      max: 56,
    },
    json: { type: "boolean", help: "print one JSON document with exact numbers" },
  },
  examples: [
    "inspect --preset deepseek-v3-671b",
    "inspect --size 4",
    "inspect --model my-model --json",
  ],
  async run({ model, preset: name, size, json }, io) {
    if ([model, name, size].filter((given) => given !== undefined).length > 1) {
      throw new UsageError("--model, --preset and --size are not given together; give one of them");
    }
    let report: Report;
    if (model !== undefined) report = await reportFolder(model);
    else if (name !== undefined) report = reportConfig(name, preset(name));
    else if (size !== undefined) {
      report = {
        ...reportConfig(`size ${size}`, sizedConfig(size)),
        recipe: sizedRecipe(size),
      };
    } else {
      throw new UsageError(
        "what to inspect is missing: give --model DIR, --preset NAME or --size N",
      );
    }
    if (json) printJson(io.stdout, report);
    else io.stdout.write(formatReport(report));
  },
});

/** What `--json` prints. */
interface Report {
  /** The folder or the preset. */
  name: string;
  modelType: ModelConfig["modelType"];
  parameters: {
    /** The main model, with embedding and head. */
    total: number;
    /** `total`, the MTP modules, and their copies of embedding and head. */
    totalWithMtp: number;
    /** Of `total`, those that one token's forward pass uses. */
    activePerToken: number;
    /** `activePerToken` without the input embedding, of which a token uses one row. */
    activePerTokenWithoutEmbedding: number;
  };
  /**
   * Of a folder, what its tensors take on disk, by the dtype they are stored in: the parts of a sum.
   * Of a preset, what all parameters with MTP take if kept in that dtype: alternatives.
   */
  bytesByDtype: Record<string, number>;
  cacheBytesPerToken: { bf16: number; f32: number };
  /** How a model of this size is trained. */
  recipe?: SizedRecipe;
  config: ModelConfig;
}

function reportConfig(name: string, config: ModelConfig): Report {
  const { stored } = countParameters(config);
  return reportOf(name, config, { bf16: 2 * stored, f32: 4 * stored });
}

async function reportFolder(dir: string): Promise<Report> {
  const checkpoint = await openCheckpoint(dir);
  // The counts come from the configuration: they hold only if the tensors are those that it makes.
  const config = checkedConfig(checkpoint);
  const bytes: Record<string, number> = {};
  for (const info of checkpoint.tensors.values()) {
    bytes[info.dtype] = (bytes[info.dtype] ?? 0) + info.bytes;
  }
  return reportOf(dir, config, bytes);
}

function reportOf(name: string, config: ModelConfig, bytesByDtype: Record<string, number>): Report {
  const count = countParameters(config);
  return {
    name,
    modelType: config.modelType,
    parameters: {
      total: count.total,
      totalWithMtp: count.stored,
      activePerToken: count.active,
      activePerTokenWithoutEmbedding: count.activeWithoutEmbedding,
    },
    bytesByDtype,
    cacheBytesPerToken: {
      bf16: cacheBytesPerToken(config, "bf16"),
      f32: cacheBytesPerToken(config, "f32"),
    },
    config,
  };
}

function formatReport({ name, modelType, ...report }: Report): string {
  const { parameters: count, bytesByDtype, cacheBytesPerToken: cache, config: c, recipe } = report;
  const parameters = (value: number) => [value.toLocaleString("en"), formatCount(value)];
  const bytes = (value: number) => [value.toLocaleString("en"), formatBytes(value)];
  const sizes = renderTable(
    [{ title: "size" }, { title: "exactly", align: "right" }, { title: "about", align: "right" }],
    [
      ["parameters", ...parameters(count.total)],
      ["  with MTP and its copies", ...parameters(count.totalWithMtp)],
      ["  active per token", ...parameters(count.activePerToken)],
      ["  … without embedding", ...parameters(count.activePerTokenWithoutEmbedding)],
      ...Object.entries(bytesByDtype).map(([dtype, value]) => [
        `bytes in ${dtype}`,
        ...bytes(value),
      ]),
      ["cache bytes per token in bf16", ...bytes(cache.bf16)],
      ["cache bytes per token in f32", ...bytes(cache.f32)],
    ],
  );
  const dense = Math.min(c.firstKDenseReplace, c.numHiddenLayers);
  const shapes = renderTable(
    [{ title: "shape" }, { title: "", align: "right" }],
    [
      ["vocabulary", `${c.vocabSize}`],
      ["context", `${c.maxPositionEmbeddings}`],
      ["hidden size", `${c.hiddenSize}`],
      ["layers, dense", `${dense}`],
      ["layers, mixture of experts", `${c.numHiddenLayers - dense}`],
      ["MTP modules", `${c.numNextnPredictLayers}`],
      ["attention heads", `${c.numAttentionHeads}`],
      ["rank of queries", `${c.qLoraRank ?? "full"}`],
      ["rank of keys and values", `${c.kvLoraRank}`],
      ["head: without position + rotary", `${c.qkNopeHeadDim} + ${c.qkRopeHeadDim}`],
      ["head: value", `${c.vHeadDim}`],
      ["dense width", `${c.intermediateSize}`],
      ["experts: visited of routed", `${c.numExpertsPerTok} of ${c.nRoutedExperts}`],
      ["experts: shared", `${c.nSharedExperts}`],
      ["expert groups: picked of all", `${c.topkGroup} of ${c.nGroup}`],
      ["expert width", `${c.moeIntermediateSize}`],
    ],
  );
  return `${name} (${modelType})\n\n${sizes}\n${shapes}${recipe ? `\n${formatRecipe(recipe)}` : ""}`;
}

function formatRecipe({ tokens, batch, length, learningRate }: SizedRecipe): string {
  return renderTable(
    [{ title: "training" }, { title: "", align: "right" }],
    [
      ["tokens", formatCount(tokens)],
      ["sequences of an update", `${batch}`],
      ["tokens of a sequence", `${length}`],
      ["learning rate at its peak", `${learningRate}`],
    ],
  );
}
