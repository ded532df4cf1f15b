/**
 * What a narrower latent cache costs: log-probabilities that the engine gives a text's tokens with a cache
 * in bf16 and in FP8, beside those with one in f32.
 *
 *     node src/cache-dtype.ts runs/demo/model TEXT
 */
import { readFile } from "node:fs/promises";
import { wasmBackend } from "@dsv3/backend-wasm";
import { cacheBytesPerToken, loadModel } from "@dsv3/model";
import { Engine, type EngineOptions } from "@dsv3/serve";
import { disposeTree, setBackend } from "@dsv3/tensor";
import { loadTokenizer } from "@dsv3/tokenizer/node";
import { markdown } from "./experiment.ts";

/** Windows of the text, spread over it, and their tokens. */
const WINDOWS = 12;
const LENGTH = 512;

type Options = Pick<EngineOptions, "params" | "config" | "cacheDtype">;

/** Log-probabilities of all tokens of the windows but their first. */
async function scores(options: Options, windows: readonly number[][]): Promise<number[]> {
  const engine = new Engine({ ...options, maxContext: LENGTH + 1 });
  const result: number[] = [];
  for (const prompt of windows) {
    const generation = engine.submit({ prompt, maxTokens: 1, promptLogprobs: 0 });
    await generation.collect();
    for (const score of generation.promptLogprobs!.slice(1)) result.push(score!.logprob);
  }
  await engine.dispose();
  return result;
}

const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

/** A row for each kind of cache; the first names the columns. */
async function compareCaches(folder: string, textFile: string): Promise<string[][]> {
  const { params, config } = await loadModel(folder);
  const tokenizer = await loadTokenizer(folder);
  const ids = Array.from(tokenizer.encode(await readFile(textFile, "utf8")));
  const stride = Math.floor((ids.length - LENGTH) / (WINDOWS - 1));
  if (!(stride > 0)) throw new Error(`${textFile} has ${ids.length} tokens; ${2 * LENGTH} are few`);
  const windows = Array.from({ length: WINDOWS }, (_, i) =>
    ids.slice(i * stride, i * stride + LENGTH),
  );
  const exact = await scores({ params, config, cacheDtype: "f32" }, windows);
  const table = [["cache", "bytes a token", "mean log-probability", "mean |Δ|", "largest |Δ|"]];
  for (const cacheDtype of ["f32", "bf16", "fp8"] as const) {
    const found = await scores({ params, config, cacheDtype }, windows);
    const errors = found.map((score, i) => Math.abs(score - exact[i]!));
    const figures = [mean(found), mean(errors), Math.max(...errors)].map((x) => x.toFixed(4));
    table.push([cacheDtype, `${cacheBytesPerToken(config, cacheDtype)}`, ...figures]);
  }
  disposeTree(params);
  return table;
}

if (import.meta.main) {
  const [folder, text] = process.argv.slice(2);
  if (!folder || !text) throw new Error("usage: node src/cache-dtype.ts MODEL-FOLDER TEXT-FILE");
  const backend = await wasmBackend();
  setBackend(backend);
  console.log(markdown(await compareCaches(folder, text)));
  backend.dispose();
}
