/** Steps in bf16 with working copies, against the same steps without. */
import { wasmBackend } from "@dsv3/backend-wasm";
import { initParams, lossFn, type ModelConfig, type ModelParams } from "@dsv3/model";
import {
  cast,
  compile,
  disposeTree,
  getBackend,
  key,
  setBackend,
  type Tensor,
  tensor,
  treeLeaves,
  treeMap,
  valueAndGrad,
} from "@dsv3/tensor";
import { referenceBackend } from "@dsv3/tensor/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ADAMW, adamw, clipByGlobalNorm, type Moments } from "./adamw.ts";
import { initTrainState, type TrainState, trainStep } from "./step.ts";
import { smallConfig } from "./testing.ts";
import { withCopies } from "./working.ts";

const config: ModelConfig = {
  ...smallConfig,
  qLoraRank: 4,
  numHiddenLayers: 2,
  firstKDenseReplace: 1,
};
const loss = { mtpWeight: 0.3, balanceWeight: 1e-2, computeDtype: "bf16" } as const;
const rates = { learningRate: 0.01, biasSpeed: 0 };
const options = { loss, optimizer: ADAMW, clip: 0.5 };

beforeAll(async () => setBackend(await wasmBackend()));
afterAll(() => getBackend().dispose());

function batch() {
  const values = (from: number) => Int32Array.from({ length: 12 }, (_, i) => (from + i * 5) % 16);
  const rows = (from: number) => tensor(values(from), { shape: [2, 6], dtype: "i32" });
  return { inputIds: rows(0), targets: rows(5) };
}

const initial = () => initTrainState(initParams(config, key(3)), { momentDtype: "bf16" });
const bits = (tree: unknown) => treeLeaves(tree).map((t) => Array.from(t.dataSync()));

/** A step as it is defined: matrices are rounded where they are used. */
const plainStep = compile((params: ModelParams, moments: Moments<ModelParams>, step: Tensor) => {
  const [[value], grads] = valueAndGrad((p: ModelParams) => lossFn(p, batch(), config, loss))(
    params,
  );
  const clipped = clipByGlobalNorm(grads, options.clip).grads;
  const rate = { step, learningRate: tensor(rates.learningRate) };
  return { loss: value, ...adamw(params, clipped, moments, rate, ADAMW) };
});

test("copies change no bit of losses, weights and moments, in one batch or several", {
  timeout: 60_000,
}, () => {
  const step = trainStep(config, options);
  const [one, two] = [initial(), initial()];
  let { params, moments }: Pick<TrainState, "params" | "moments"> = initial();
  let [single, halves]: TrainState[] = [one, two];
  for (let i = 1; i <= 3; i++) {
    const plain = plainStep(params, moments, tensor(i));
    ({ params, moments } = plain);
    const whole = step(single as TrainState, [batch()], rates);
    const twice = step(halves as TrainState, [batch(), batch()], rates);
    [single, halves] = [whole.state, twice.state];
    expect(bits(whole.metrics.loss)).toEqual(bits(plain.loss));
    expect(bits([single?.params, single?.moments])).toEqual(bits([params, moments]));
    expect(bits(halves?.params)).toEqual(bits(params));
  }
});

test("a state's copies are its masters rounded, and come back if they are missing", {
  timeout: 60_000,
}, () => {
  const step = trainStep(config, options);
  const { state } = step(initial(), [batch()], rates);
  const copies = withCopies.bind(null, state.params);
  const rounded = compile(() => {
    const working = copies(state.working as Tensor[]);
    return treeMap((m, c) => [cast(m, c.dtype), c], state.params, working);
  })();
  const pairs = treeLeaves(rounded).map((t) => Array.from(t.dataSync()));
  const narrow = treeLeaves(rounded).filter((t) => t.dtype === "bf16").length / 2;
  expect(narrow).toBeGreaterThan(20);
  for (let i = 0; i < pairs.length; i += 2) expect(pairs[i]).toEqual(pairs[i + 1]);

  const { working, ...without } = state;
  const saved = treeMap((t) => tensor(t.dataSync(), { shape: t.shape, dtype: t.dtype }), without);
  const again = step(saved as TrainState, [batch()], rates);
  const straight = step({ ...without, working: working as Tensor[] }, [batch()], rates);
  expect(bits(again.state)).toEqual(bits(straight.state));
});

test("the step multiplies by copies as they lie: gate and up as one matrix, and no master is read before", {
  timeout: 60_000,
}, () => {
  const program = (computeDtype: "bf16" | "f32") => {
    const compiled: { name: string; steps: readonly { label: string }[] }[] = [];
    const before = getBackend();
    const backend = referenceBackend();
    setBackend({
      ...backend,
      keepsRows: true,
      compile: (p) => {
        compiled.push(p);
        return backend.compile(p);
      },
    });
    const result = trainStep(config, { ...options, loss: { ...loss, computeDtype } })(
      initial(),
      [batch()],
      rates,
    );
    expect(result.state.working !== undefined).toBe(computeDtype === "bf16");
    disposeTree(result);
    setBackend(before);
    return compiled.find(({ name }) => name === "trainStep")?.steps.map((s) => s.label) ?? [];
  };
  const steps = program("bf16");
  const { intermediateSize, numAttentionHeads, vHeadDim, hiddenSize } = config;
  expect(steps).toContain(`matmul bf16[12, ${2 * intermediateSize}]`);
  // No weights are rounded on the way to the loss: of the output projection nothing has the shape.
  const forward = steps.slice(
    0,
    steps.findIndex((s) => s.startsWith("attentionGrad")),
  );
  const shape = `[${hiddenSize}, ${numAttentionHeads * vHeadDim}]`;
  expect(forward.filter((s) => s.startsWith("cast") && s.endsWith(shape))).toEqual([]);
  program("f32");
});
