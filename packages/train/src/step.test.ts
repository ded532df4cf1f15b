/** The 30-step case computed with transformers 5.17 and torch 2.11; case.json says how. */
import { readFile } from "node:fs/promises";
import { wasmBackend } from "@dsv3/backend-wasm";
import { parseHeader, type TensorInfo } from "@dsv3/checkpoint";
import { loadModel, namedParams } from "@dsv3/model";
import { getBackend, setBackend, tensor, treePaths } from "@dsv3/tensor";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ADAMW } from "./adamw.ts";
import { initTrainState, trainStep } from "./step.ts";

beforeAll(async () => setBackend(await wasmBackend()));
afterAll(() => getBackend().dispose());

const dir = new URL("./__fixtures__/train", import.meta.url).pathname;

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

test("30 steps: every loss within 1e-4, gradient norm within 1e-3, final weights within 1e-4", {
  timeout: 300_000,
}, async () => {
  const { names, read } = await expectedCase();
  const { config, params } = await loadModel(dir);
  const step = trainStep(config, {
    loss: { mtpWeight: 0, balanceWeight: 0 },
    optimizer: ADAMW,
    clip: 1,
  });
  const [ids, losses, norms, rates] = [
    read("input_ids"),
    read("loss"),
    read("grad_norm"),
    read("lr"),
  ];
  const [B, T] = [4, 32];
  let state = initTrainState(params);
  for (let s = 0; s < 30; s++) {
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
    expect(Math.abs(loss - 1), `loss of step ${s}`).toBeLessThan(1e-4);
    expect(Math.abs(norm - 1), `gradient norm of step ${s}`).toBeLessThan(1e-3);
  }
  const weights = new Map(treePaths(state.params));
  let checked = 0;
  for (const { path, names: stored } of namedParams(config)) {
    for (const name of stored) {
      if (!names.includes(`final.${name}`)) continue;
      const want = read(`final.${name}`);
      const have = (await weights.get(path)?.data()) as Float32Array;
      const worst = Math.max(...want.map((x, i) => Math.abs(x - (have[i] as number))));
      expect(worst, name).toBeLessThan(1e-4);
      checked++;
    }
  }
  expect(checked).toBe(names.filter((n) => n.startsWith("final.")).length);
});
