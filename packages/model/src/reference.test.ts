/**
 * Against transformers 5.17 (float32, CPU): folders of random weights with logits, hidden states,
 * gradients and greedy continuations. What each holds stands in its case.json.
 */
import { readFile } from "node:fs/promises";
import { parseHeader, type TensorInfo } from "@dsv3/checkpoint";
import { setBackend, sliceAxis, type Tensor, tensor, treePaths, valueAndGrad } from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { beforeAll, describe, expect, test } from "vitest";
import { generate } from "./generate.ts";
import { lossFn } from "./loss.ts";
import { forward } from "./model.ts";
import { namedParams } from "./names.ts";
import { type LoadedModel, loadModel } from "./weights.ts";

const SLOW = { timeout: 60_000 };

beforeAll(() => setBackend(referenceBackend()));

type Expected = Map<string, { shape: readonly number[]; data: Float32Array | Int32Array }>;

async function loadCase(name: string): Promise<LoadedModel & { expected: Expected }> {
  const dir = new URL(`./__fixtures__/${name}`, import.meta.url).pathname;
  const file = await readFile(`${dir}/expected.safetensors`);
  const { tensors } = parseHeader(file, file.length, "expected.safetensors");
  const read = ({ offset, bytes, dtype }: TensorInfo) => {
    const buffer = file.buffer.slice(file.byteOffset + offset, file.byteOffset + offset + bytes);
    return dtype === "i64"
      ? Int32Array.from(new BigInt64Array(buffer), Number)
      : new Float32Array(buffer);
  };
  const expected = new Map(
    [...tensors].map(([key, info]) => [key, { shape: info.shape, data: read(info) }]),
  );
  return { ...(await loadModel(dir)), expected };
}

function idsOf(expected: Expected): Tensor {
  const { shape, data } = expected.get("input_ids")!;
  return tensor(data, { shape, dtype: "i32" });
}

async function maxError(actual: Tensor, expected: Expected, name: string): Promise<number> {
  const { shape, data } = expected.get(name)!;
  expect(actual.shape).toEqual(shape);
  const values = await actual.data();
  let worst = 0;
  for (const [i, x] of data.entries()) worst = Math.max(worst, Math.abs(x - values[i]!));
  return worst;
}

describe.each(["base", "no-q-lora", "yarn", "two-dense"])("%s", (name) => {
  let model: Awaited<ReturnType<typeof loadCase>>;
  beforeAll(async () => {
    model = await loadCase(name);
  });

  test("logits and hidden states", async () => {
    const { config, params, expected } = model;
    const { logits, hiddenStates } = forward(params, idsOf(expected), config);
    for (const [i, h] of hiddenStates.entries()) {
      expect(await maxError(h, expected, `hidden_states.${i}`)).toBeLessThan(2e-4);
    }
    expect(await maxError(logits, expected, "logits")).toBeLessThan(2e-4);
  });

  const recomputation = name === "base" ? [false, true] : [false];
  test.each(recomputation)("loss and every gradient (remat %s)", SLOW, async (remat) => {
    const { config, params, expected } = model;
    const ids = idsOf(expected);
    const T = ids.shape[1]!;
    const batch = { inputIds: sliceAxis(ids, 1, 0, T - 1), targets: sliceAxis(ids, 1, 1, T) };
    const options = { mtpWeight: 0, balanceWeight: 0, remat };
    const step = valueAndGrad((p: typeof params, b: typeof batch) => lossFn(p, b, config, options));
    const [[loss], grads] = step(params, batch);
    expect(Math.abs((await loss.item()) - expected.get("loss")!.data[0]!)).toBeLessThan(1e-5);

    const gradients = new Map(treePaths(grads));
    let compared = 0;
    for (const { path, names } of namedParams(config)) {
      const values = (await gradients.get(path)!.data()) as Float32Array;
      const size = values.length / names.length;
      for (const [i, key] of names.entries()) {
        const want = expected.get(`grad.${key}`)?.data;
        const part = values.subarray(i * size, (i + 1) * size);
        if (want === undefined) {
          expect(key).toMatch(/e_score_correction_bias$/);
          expect(part.every((x) => x === 0)).toBe(true);
        } else {
          expect.soft(relativeError(part, want as Float32Array), key).toBeLessThan(1e-3);
          compared++;
        }
      }
    }
    expect(compared).toBe([...expected.keys()].filter((k) => k.startsWith("grad.")).length);
  });

  test("greedy continuation over the latent cache", async () => {
    const { config, params, expected } = model;
    const whole = [...expected.get("greedy")!.data];
    const prompt = whole.slice(0, 8);
    const options = { maxNewTokens: whole.length - 8, stopIds: [] };
    // A second row of another length must not disturb the first.
    const [row] = await generate(params, config, [prompt, prompt.slice(0, 3)], options);
    expect([...prompt, ...row!]).toEqual(whole);
  });

  test("greedy continuation by full recomputation", async () => {
    const { config, params, expected } = model;
    const whole = [...expected.get("greedy")!.data];
    const { logits } = forward(params, tensor([whole], { dtype: "i32" }), config);
    const values = (await logits.data()) as Float32Array;
    for (let t = 7; t + 1 < whole.length; t++) {
      const row = values.subarray(t * config.vocabSize, (t + 1) * config.vocabSize);
      expect(row.indexOf(Math.max(...row))).toBe(whole[t + 1]);
    }
  });
});

test("fp8: weights in scaled blocks", async () => {
  const { config, params, expected } = await loadCase("fp8");
  const { logits } = forward(params, idsOf(expected), config);
  expect(await maxError(logits, expected, "logits")).toBeLessThan(2e-3);
});

describe("mtp", () => {
  test.each([
    ["preNorm", "mtp_logits"],
    ["postNorm", "mtp_logits_from_normed"],
  ] as const)("hidden state %s", async (mtpHidden, name) => {
    const { config, params, expected } = await loadCase("mtp");
    const { logits, mtpLogits } = forward(params, idsOf(expected), config, {
      mtp: true,
      mtpHidden,
    });
    const T = logits.shape[1]! - 1; // the last column is read by MTP alone
    expect(await maxError(sliceAxis(logits, 1, 0, T), expected, "logits")).toBeLessThan(2e-4);
    expect(mtpLogits).toHaveLength(1);
    expect(await maxError(mtpLogits[0]!, expected, name)).toBeLessThan(2e-4);
  });
});

function relativeError(actual: Float32Array, expected: Float32Array): number {
  let difference = 0;
  let norm = 0;
  for (const [i, x] of expected.entries()) {
    difference += (x - actual[i]!) ** 2;
    norm += x ** 2;
  }
  return norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm);
}
