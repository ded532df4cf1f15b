import { randomBytes } from "node:crypto";
import { lstat, mkdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { openCheckpoint, type Staging, type TensorSource, writeCheckpoint } from "@dsv3/checkpoint";
import {
  checkTokenIds,
  type ForwardOptions,
  forward,
  loadModel,
  type ModelConfig,
  type ModelParams,
  parseHuggingFaceConfig,
} from "@dsv3/model";
import { compile, disposeTree, setBackend, type Tensor, tensor } from "@dsv3/tensor";
import { backendFlag, openBackend } from "../backend.ts";
import { type Command, defineCommand } from "../command.ts";
import { UsageError } from "../errors.ts";
import { printJson } from "../ui/json.ts";

/** `--mtp-reading` and what `forward` calls it. */
const READINGS = { "pre-norm": "preNorm", "post-norm": "postNorm" } as const;

export const logits: Command = defineCommand({
  summary: "Writes a model's f32 logits of given token ids, to compare with other implementations.",
  flags: {
    model: { type: "string", value: "DIR", help: "a Hugging Face folder", required: true },
    inputIds: {
      type: "string",
      value: "FILE.json",
      help: "an array of rows of token ids, all of one length: [[1, 2], [3, 4]]",
      required: true,
    },
    out: {
      type: "string",
      value: "FILE.safetensors",
      help: "gets logits [B, T, V]; position t predicts token t + 1",
      required: true,
    },
    mtp: {
      type: "boolean",
      help: "also mtp_logits [B, T - 1, V]; position t predicts token t + 2 (deeper modules: mtp_logits_2 …)",
    },
    mtpReading: {
      type: "choice",
      choices: Object.keys(READINGS),
      help: "with --mtp: the hidden state that it reads, before the final norm (technical report, the default) or after (vLLM)",
    },
    overwrite: { type: "boolean", help: "replace the output file if it exists" },
    backend: backendFlag,
    json: { type: "boolean", help: "print the names and shapes of what was written as JSON" },
  },
  examples: [
    "logits --model my-model --input-ids ids.json --out logits.safetensors",
    "logits --model my-model --input-ids ids.json --out logits.safetensors --mtp --mtp-reading post-norm",
  ],
  async run({ model, inputIds, out, mtp, mtpReading, overwrite, backend: choice, json }, io) {
    if (mtpReading !== undefined && !mtp) throw new UsageError("--mtp-reading needs --mtp");
    // All that can be wrong is looked at before weights are read, which may take minutes.
    await checkOutput(out, overwrite);
    const rows = await readRows(inputIds);
    const { config: stored } = await openCheckpoint(model);
    if (stored) checkRows(parseHuggingFaceConfig(stored), rows, inputIds);

    const backend = await openBackend(choice);
    try {
      setBackend(backend);
      const { params, config } = await loadModel(model, { mtp });
      if (mtp) checkMtp(config, rows, model, inputIds);
      const mtpHidden = READINGS[(mtpReading ?? "pre-norm") as keyof typeof READINGS];
      const outputs = await computeLogits(params, config, rows, { mtp, mtpHidden }, io.signal);
      if (io.signal.aborted) return;
      await writeCheckpoint(stageFile(out, overwrite), outputs, { maxShardBytes: Infinity });
      const shapes = Object.fromEntries(outputs.map(({ name, shape }) => [name, shape]));
      if (json) printJson(io.stdout, { out, shapes });
      else {
        const list = Object.entries(shapes).map(([name, shape]) => `${name} [${shape.join(", ")}]`);
        io.stdout.write(`${out}: ${list.join(", ")}\n`);
      }
    } finally {
      backend.dispose();
    }
  },
});

/** The rows of ids in a JSON file. @throws Error naming the row that is not as it should be */
async function readRows(file: string): Promise<number[][]> {
  let rows: unknown;
  try {
    rows = JSON.parse(await readFile(file, "utf8"));
  } catch (cause) {
    throw new Error(`cannot read token ids from ${file}`, { cause });
  }
  const expected = "expected an array of rows of token ids, such as [[1, 2], [3, 4]]";
  if (!Array.isArray(rows) || rows.length === 0) throw new Error(`${file}: ${expected}`);
  for (const [i, row] of rows.entries()) {
    if (!Array.isArray(row)) throw new Error(`${file}: row ${i} is no array; ${expected}`);
    if (row.length === 0) throw new Error(`${file}: row ${i} is empty`);
    if (row.length !== rows[0].length) {
      throw new Error(
        `${file}: row ${i} has ${row.length} ids and row 0 has ${rows[0].length}; ` +
          "all rows must have one length",
      );
    }
    for (const [j, id] of row.entries()) {
      if (typeof id !== "number") {
        throw new Error(`${file}: row ${i}: token ${j} is ${JSON.stringify(id)}, not a number`);
      }
    }
  }
  return rows;
}

function checkRows(config: ModelConfig, rows: number[][], file: string): void {
  for (const [i, row] of rows.entries()) {
    checkTokenIds(config, row, `${file}: row ${i}`);
    if (row.length > config.maxPositionEmbeddings) {
      throw new Error(
        `${file}: rows of ${row.length} ids exceed the model's context of ${config.maxPositionEmbeddings}`,
      );
    }
  }
}

function checkMtp(config: ModelConfig, rows: number[][], model: string, file: string): void {
  const depth = config.numNextnPredictLayers;
  if (depth === 0) throw new Error(`${model} has no MTP modules; leave out --mtp`);
  const length = rows[0]?.length ?? 0;
  if (length <= depth) {
    throw new Error(
      `${file}: rows of ${length} ids are too short for --mtp, which needs at least ${depth + 1}`,
    );
  }
}

/** Runs row by row, so that activations take the memory of one; empty when interrupted. */
async function computeLogits(
  params: ModelParams,
  config: ModelConfig,
  rows: number[][],
  options: ForwardOptions,
  signal: AbortSignal,
): Promise<TensorSource[]> {
  const run = compile((p: ModelParams, ids: Tensor): Tensor[] => {
    const { logits, mtpLogits } = forward(p, ids, config, options);
    return [logits, ...mtpLogits];
  });
  /** By output, then by row. */
  const parts: Uint8Array[][] = [];
  let positions: number[] = [];
  for (const row of rows) {
    // Lets a Ctrl-C in, for which a busy thread has no ear.
    await new Promise((resolve) => setImmediate(resolve));
    if (signal.aborted) return [];
    const ids = tensor([row], { dtype: "i32" });
    const results = run(params, ids);
    positions = results.map(({ shape }) => shape[1] as number);
    for (const [i, result] of results.entries()) {
      const { buffer, byteOffset, byteLength } = await result.data();
      parts[i] ??= [];
      parts[i].push(new Uint8Array(buffer, byteOffset, byteLength));
    }
    disposeTree([ids, ...results]);
  }
  return parts.map((chunks, i) => ({
    name: ["logits", "mtp_logits"][i] ?? `mtp_logits_${i}`,
    dtype: "f32",
    shape: [rows.length, positions[i] as number, config.vocabSize],
    data: inOrder(chunks),
  }));
}

async function* inOrder(chunks: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* chunks;
}

/** Refuses an output that exists, or that is no file and so not to be replaced by one. */
async function checkOutput(path: string, overwrite: boolean): Promise<void> {
  const look = overwrite ? stat : lstat;
  const there = await look(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw new Error(`cannot write ${path}`, { cause: error });
  });
  if (!there) return;
  if (!overwrite) throw new Error(`${path} exists already; give another --out, or --overwrite`);
  if (!there.isFile()) {
    throw new Error(`${path} is no file, which --overwrite could replace; give another --out`);
  }
}

/** One file in the making, under a hidden name beside its place until it is whole. */
function stageFile(path: string, overwrite: boolean): Staging {
  const id = `${process.pid}-${randomBytes(4).toString("hex")}`;
  const partial = join(dirname(resolve(path)), `.${basename(path)}.partial-${id}`);
  return {
    path,
    async write(_file, chunks) {
      try {
        await mkdir(dirname(partial), { recursive: true });
        await writeFile(partial, chunks, { flag: "wx", flush: true });
      } catch (cause) {
        throw new Error(`cannot write ${path}`, { cause });
      }
    },
    async commit() {
      await checkOutput(path, overwrite);
      await rename(partial, path);
    },
    discard: () => rm(partial, { force: true }),
  };
}
