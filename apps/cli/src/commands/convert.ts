import { convertCheckpoint, openCheckpoint } from "@dsv3/checkpoint";
import { TRAINING_FILES } from "@dsv3/train";
import { type Command, defineCommand } from "../command.ts";
import { UsageError } from "../errors.ts";
import { freeFolder } from "../free-folder.ts";
import { formatBytes } from "../ui/format.ts";
import { printJson } from "../ui/json.ts";

export const convert: Command = defineCommand({
  summary: "Writes a model in another precision: a folder that transformers, vLLM and dsv3 load.",
  flags: {
    model: {
      type: "string",
      value: "DIR",
      help: "a Hugging Face folder, a checkpoint of a run too",
    },
    out: { type: "string", value: "DIR", help: "the new folder, which must not exist yet" },
    dtype: {
      type: "choice",
      choices: ["f32", "bf16", "f16", "fp8"],
      help: "of the weights; fp8: DeepSeek's blocks of 128 × 128, what it keeps wider in bf16",
      default: "bf16",
    },
    shardMegabytes: {
      type: "integer",
      value: "N",
      help: "most of a file, in millions of bytes",
      default: 5000,
      min: 1,
    },
    json: { type: "boolean", help: "print what was written as JSON" },
  },
  examples: [
    "convert --model runs/books/checkpoints/step-1000 --out my-model",
    "convert --model my-model --out my-model-fp8 --dtype fp8",
  ],
  async run({ model, out, dtype, shardMegabytes, json }, io) {
    if (model === undefined) throw new UsageError("--model is missing: what to convert");
    if (out === undefined) throw new UsageError("--out is missing: where the new folder goes");
    await convertCheckpoint(model, await freeFolder(out, out), {
      dtype,
      maxShardBytes: shardMegabytes * 1e6,
      leaveOut: TRAINING_FILES,
    }).catch((cause) => {
      throw new Error(`cannot convert ${model} to ${out}`, { cause });
    });
    const { tensors } = await openCheckpoint(out);
    const bytes = [...tensors.values()].reduce((sum, t) => sum + t.bytes, 0);
    if (json) printJson(io.stdout, { out, dtype, tensors: tensors.size, bytes });
    else io.stdout.write(`${out}: ${tensors.size} tensors, ${formatBytes(bytes)} in ${dtype}\n`);
  },
});
