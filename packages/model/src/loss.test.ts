import { compile, key, setBackend, type Tensor, tensor, valueAndGrad, zeros } from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { beforeAll, expect, test } from "vitest";
import { lossFn } from "./loss.ts";
import { forward } from "./model.ts";
import { initParams, type ModelParams } from "./params.ts";
import { denseVariant, PRESETS } from "./presets.ts";

const config = {
  ...PRESETS.tiny,
  vocabSize: 32,
  hiddenSize: 16,
  intermediateSize: 24,
  moeIntermediateSize: 8,
  numHiddenLayers: 2,
  numNextnPredictLayers: 2,
  numAttentionHeads: 2,
};
let params: ModelParams;
beforeAll(() => {
  setBackend(referenceBackend());
  params = initParams(config, key(3));
});

const rows = [
  [3, 14, 15, 9, 26, 5, 31],
  [2, 7, 18, 28, 1, 8, 2],
];
const ints = (values: number[][]) => tensor(values, { dtype: "i32" });
const inputIds = () => ints(rows.map((r) => r.slice(0, -1)));
const targets = () => ints(rows.map((r) => r.slice(1)));

/** Sum of −log p of targets where they count, from logits [B, T, V] on the host. */
function nll(logits: Tensor, wanted: number[][]): number {
  const V = logits.shape[2]!;
  const values = logits.dataSync();
  let sum = 0;
  for (const [i, id] of wanted.flat().entries()) {
    if (id < 0) continue;
    const row = [...values.subarray(i * V, (i + 1) * V)];
    sum += Math.log(row.reduce((s, x) => s + Math.exp(x), 0)) - row[id]!;
  }
  return sum;
}

test("main and MTP losses are equations 24 and 25, over a common divisor", async () => {
  const { logits, mtpLogits } = forward(params, inputIds(), config, { mtp: true });
  const main = nll(
    logits,
    rows.map((r) => r.slice(1)),
  );
  const mtp = mtpLogits.map((l, i) =>
    nll(
      l,
      rows.map((r) => r.slice(2 + i)),
    ),
  );
  const count = 12;
  const batch = { inputIds: inputIds(), targets: targets() };
  const [loss, parts] = lossFn(params, batch, config, { mtpWeight: 0.3, balanceWeight: 0.5 });
  const values = await Promise.all(
    [parts.main, parts.mtp, parts.balance, loss].map((t) => t.item()),
  );
  expect(values[0]).toBeCloseTo(main / count, 4);
  expect(values[1]).toBeCloseTo((mtp[0]! + mtp[1]!) / 2 / count, 4);
  expect(values[3]).toBeCloseTo(values[0]! + 0.3 * values[1]! + 0.5 * values[2]!, 4);
  // One routing layer of two, and two MTP modules; 3 experts for each of 12, 10 and 8 positions.
  const loads = await Promise.all(parts.loads.map((l) => l.data()));
  expect(loads.map((l) => [...l].reduce((a, b) => a + b))).toEqual([36, 30, 24]);
  expect(values[2]).toBeGreaterThan(2.5);
});

test("targets that do not count are left out, in the divisor too", async () => {
  const masked = rows.map((r) => r.slice(1).map((id, t) => (t < 3 ? -1 : id)));
  const batch = { inputIds: inputIds(), targets: ints(masked) };
  const [, parts] = lossFn(params, batch, config, { mtpWeight: 1, balanceWeight: 0 });
  const { logits, mtpLogits } = forward(params, inputIds(), config, { mtp: true });
  expect(await parts.main.item()).toBeCloseTo(nll(logits, masked) / 6, 4);
  const ahead = (k: number) =>
    nll(
      mtpLogits[k - 1]!,
      masked.map((r) => r.slice(k)),
    );
  expect(await parts.mtp.item()).toBeCloseTo((ahead(1) + ahead(2)) / 2 / 6, 4);

  const nothing = { inputIds: inputIds(), targets: ints(masked.map((r) => r.map(() => -1))) };
  const [zero] = lossFn(params, nothing, config, { mtpWeight: 1, balanceWeight: 0 });
  expect(await zero.item()).toBe(0);
});

test("packed samples neither see nor predict each other", async () => {
  const segments = ints([
    [0, 0, 0, 0, 1, 1],
    [0, 0, 0, 0, 0, 0],
  ]);
  const wanted = rows.map((r) => r.slice(1));
  wanted[0]![3] = -1; // the first sample's last token has no next
  const options = { mtpWeight: 1, balanceWeight: 0 };
  const batch = { inputIds: inputIds(), targets: ints(wanted), segments };
  const [, packed] = lossFn(params, batch, config, options);

  // The same three samples apart.
  let main = 0;
  const mtp = [0, 0];
  for (const sample of [rows[0]!.slice(0, 4), rows[0]!.slice(4), rows[1]!]) {
    const input = ints([sample.slice(0, sample.length === 4 ? 4 : -1)]);
    const next = sample.length === 4 ? [...sample.slice(1), -1] : sample.slice(1);
    const { logits, mtpLogits } = forward(params, input, config, { mtp: true });
    main += nll(logits, [next]);
    for (const [i, l] of mtpLogits.entries()) {
      if (l.shape[1]! > 0) mtp[i]! += nll(l, [next.slice(i + 1)]);
    }
  }
  expect(await packed.main.item()).toBeCloseTo(main / 11, 4);
  expect(await packed.mtp.item()).toBeCloseTo((mtp[0]! + mtp[1]!) / 2 / 11, 4);
});

test("gradients reach every module, the same with recomputation", async () => {
  const batch = { inputIds: inputIds(), targets: targets() };
  const losses: number[] = [];
  for (const remat of [false, true]) {
    const step = compile(
      valueAndGrad((p: ModelParams) =>
        lossFn(p, batch, config, { mtpWeight: 0.3, balanceWeight: 0.01, remat }),
      ),
    );
    const [[loss], grads] = step(params);
    losses.push(await loss.item());
    const gate = grads.mtp[1]!.layer.mlp;
    if (!("experts" in gate)) throw new Error("MTP modules route");
    const values = (await gate.gate.data()) as Float32Array;
    expect(values.some((g) => g !== 0)).toBe(true);
  }
  expect(losses[1]).toBe(losses[0]);
});

test("the dense variant has nothing to balance", async () => {
  const dense = denseVariant(config);
  const params = initParams(dense, key(3));
  const batch = { inputIds: inputIds(), targets: targets() };
  const [, parts] = lossFn(params, batch, dense, { mtpWeight: 0.3, balanceWeight: 1 });
  expect(parts.loads).toEqual([]);
  expect(await parts.balance.item()).toBe(0);
});

test("a loss in bf16 keeps no f32 logits, nor anything of their size, with its gradient", () => {
  const reference = referenceBackend();
  // The program is made, not run, as for a backend that keeps rows (a GPU).
  setBackend({ ...reference, keepsRows: true });
  const large = { ...config, vocabSize: 5000 };
  const step = (computeDtype: "f32" | "bf16") => {
    const fn = compile((p: ModelParams, inputIds: Tensor, targets: Tensor) =>
      valueAndGrad(
        (p: ModelParams) =>
          lossFn(p, { inputIds, targets }, large, {
            mtpWeight: 0.3,
            balanceWeight: 0,
            computeDtype,
          })[0],
      )(p),
    );
    // Few rows are summed in parts.
    const ids = zeros([2, 40], "i32");
    const { program } = fn.program(initParams(large, key(1)), ids, ids);
    const logits = ids.size * large.vocabSize;
    return program.buffers.filter((b) => b.elements === logits).map((b) => b.dtype);
  };
  expect(step("f32")).toContain("f32");
  expect(new Set(step("bf16"))).toEqual(new Set(["bf16"]));
  setBackend(reference);
});
