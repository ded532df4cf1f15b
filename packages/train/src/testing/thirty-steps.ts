/** The 30-step case computed with transformers 5.17 and torch 2.11; its case.json says how. */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { parseHeader, type TensorInfo } from "@dsv3/checkpoint";
import { loadModel, namedParams } from "@dsv3/model";
import { disposeTree, tensor, treePaths } from "@dsv3/tensor";
import { ADAMW } from "../adamw.ts";
import { initTrainState, trainStep } from "../step.ts";

/** How far one number of the run, or one weight after it, is from the published implementation's. */
export interface StepError {
  readonly of: "loss" | "gradient norm" | "final weight";
  /** The step, or the weight's name. */
  readonly at: string;
  /** Relative for losses and norms, the largest of a tensor for weights. */
  readonly error: number;
  readonly bound: number;
}

const STEPS = 30;
const [B, T] = [4, 32];
const dir = fileURLToPath(new URL("../__fixtures__/train", import.meta.url));

/**
 * Trains the case's model in f32 on the backend that is set, and compares every loss, every gradient
 * norm and every weight after the last step.
 */
export async function thirtySteps(): Promise<StepError[]> {
  const { names, read } = await expectedCase();
  const { config, params } = await loadModel(dir);
  const step = trainStep(config, {
    loss: { mtpWeight: 0, balanceWeight: 0 },
    optimizer: ADAMW,
    clip: 1,
  });
  const [ids, losses, norms, rates] = ["input_ids", "loss", "grad_norm", "lr"].map(read) as [
    number[],
    number[],
    number[],
    number[],
  ];
  const errors: StepError[] = [];
  let state = initTrainState(params);
  for (let s = 0; s < STEPS; s++) {
    const rows = Array.from({ length: B }, (_, b) =>
      ids.slice((s * B + b) * T, (s * B + b + 1) * T),
    );
    const batch = {
      inputIds: tensor(rows.flat(), { shape: [B, T], dtype: "i32" }),
      targets: tensor(
        rows.flatMap((r) => [...r.slice(1), -1]),
        { shape: [B, T], dtype: "i32" },
      ),
    };
    const result = step(state, [batch], { learningRate: rates[s] as number, biasSpeed: 0 });
    state = result.state;
    const loss = (await result.metrics.loss.item()) / (losses[s] as number);
    const norm = (await result.metrics.gradNorm.item()) / (norms[s] as number);
    const at = `step ${s}`;
    errors.push({ of: "loss", at, error: Math.abs(loss - 1), bound: 1e-4 });
    errors.push({ of: "gradient norm", at, error: Math.abs(norm - 1), bound: 1e-3 });
    disposeTree([batch, result.metrics]);
  }
  const weights = new Map(treePaths(state.params));
  const wanted = new Set(names.filter((name) => name.startsWith("final.")));
  for (const { path, names: stored } of namedParams(config)) {
    for (const at of stored) {
      if (!wanted.delete(`final.${at}`)) continue;
      const have = (await weights.get(path)?.data()) as Float32Array;
      const differences = read(`final.${at}`).map((x, i) => Math.abs(x - (have[i] as number)));
      errors.push({ of: "final weight", at, error: Math.max(...differences), bound: 1e-4 });
    }
  }
  disposeTree(state);
  step.dispose();
  if (wanted.size > 0) throw new Error(`the model has no ${[...wanted].join(", ")} to compare`);
  return errors;
}

async function expectedCase() {
  const file = await readFile(`${dir}/expected.safetensors`);
  const { tensors } = parseHeader(file, file.length, "expected.safetensors");
  const read = (name: string): number[] => {
    const { offset, bytes, dtype } = tensors.get(name) as TensorInfo;
    const buffer = file.buffer.slice(file.byteOffset + offset, file.byteOffset + offset + bytes);
    if (dtype === "i64") return Array.from(new BigInt64Array(buffer), Number);
    return Array.from(dtype === "f64" ? new Float64Array(buffer) : new Float32Array(buffer));
  };
  return { names: [...tensors.keys()], read };
}
