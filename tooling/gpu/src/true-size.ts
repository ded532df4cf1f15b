/**
 * One layer of DeepSeek-V3 at its own size on one GPU: the MLA block and the mixture of 256 experts,
 * weights in FP8 with 128 × 128 scales, activations in bf16. Prefill and decoding, and what they
 * would be for 61 such layers on several GPUs:
 *
 *     node src/true-size.ts [--profile]
 */
import { parseArgs } from "node:util";
import { cudaBackend } from "@dsv3/backend-cuda";
import {
  cacheStep,
  latentCache,
  type MlaParams,
  mla,
  mlaCached,
  mlaParamShapes,
  ropeTables,
} from "@dsv3/mla";
import { type ModelConfig, preset } from "@dsv3/model";
import { type MlpParams, type MoeParams, mlp, moe, moeParamShapes } from "@dsv3/moe";
import {
  broadcastTo,
  cast,
  compile,
  dequantize,
  disposeTree,
  full,
  getBackend,
  inFp8,
  key,
  mul,
  normal,
  reshape,
  setBackend,
  sliceAxis,
  type Tensor,
  tensor,
} from "@dsv3/tensor";
import { observed, printSteps } from "./observed.ts";

const CONFIG: ModelConfig = preset("deepseek-v3-671b");
const CONTEXT = 4096;
const PAGE = 64;
const REPEATS = 20;
/** Of the model; its three dense layers are counted as the others. */
const LAYERS = 61;

type Stored = { values: Tensor; scale: Tensor };
type Weights<P> = { [K in keyof P]: P[K] extends Tensor ? Tensor | Stored : Weights<P[K]> };

/** Normal numbers; as a program, since eagerly every step of the generator would be kept for a while. */
function drawn(
  seed: number,
  shape: readonly number[],
  deviation: number,
  dtype: "f32" | "bf16",
): Tensor {
  const draw = compile((k: Tensor) => cast(mul(normal(k, shape), deviation), dtype));
  using k = key(seed);
  const result = draw(k);
  draw.dispose();
  return result;
}

/** Standard normal numbers of 128 × 128 blocks, in E4M3: entries of a matrix [.., out, in] of deviation 1 / √in. */
function storedMatrix(shape: readonly number[], seed: number): Stored {
  const [rows, columns] = shape.slice(-2) as [number, number];
  const matrices = shape.length === 3 ? (shape[0] as number) : 1;
  // Sixteen experts' numbers serve all; drawing billions would take longer than the benchmark.
  const own = Math.min(16, matrices);
  const make = compile((k: Tensor) => {
    const one = cast(mul(normal(k, [1, own, rows, columns]), 64), "f8e4m3");
    const all = broadcastTo(one, [matrices / own, own, rows, columns]);
    return reshape(cast(mul(cast(all, "f32"), 1), "f8e4m3"), shape);
  });
  using k = key(seed);
  const values = make(k);
  make.dispose();
  const blocks = [...shape.slice(0, -2), Math.ceil(rows / 128), Math.ceil(columns / 128)];
  return { values, scale: full(blocks, 1 / (64 * Math.sqrt(columns))) };
}

/** Random weights of the given shapes: matrices in FP8, but the router in f32. */
function randomWeights<P>(shapes: object): Weights<P> {
  let seed = 1;
  const walk = (node: unknown, name: string): unknown => {
    if (node === null) return null;
    if (!Array.isArray(node)) {
      return Object.fromEntries(
        Object.entries(node as object).map(([key, inner]) => [key, walk(inner, key)]),
      );
    }
    const shape = node as number[];
    if (shape.length === 1) return full(shape, name === "eScoreCorrectionBias" ? 0 : 1);
    if (name !== "gate") return storedMatrix(shape, seed++);
    return drawn(seed++, shape, 1 / Math.sqrt(shape.at(-1) as number), "f32");
  };
  return walk(shapes, "") as Weights<P>;
}

/** The matrices that the stored ones stand for, to be multiplied in FP8. */
function expanded<P>(weights: Weights<P>): P {
  const walk = (node: unknown): unknown => {
    if (node === null || typeof node !== "object" || "dtype" in node) return node;
    if ("values" in node) {
      const { values, scale } = node as Stored;
      return inFp8(cast(dequantize(values, { scale, block: [128, 128] }), "bf16"));
    }
    return Object.fromEntries(Object.entries(node).map(([key, inner]) => [key, walk(inner)]));
  };
  return walk(weights) as P;
}

/** One number of y, to wait for without copying the rest. */
function probe(y: Tensor): Tensor {
  return cast(sliceAxis(reshape(y, [-1]), 0, 0, 1), "f32");
}

/** Milliseconds of a run, whose probe tells when it is done. */
async function time(name: string, run: () => Tensor): Promise<number> {
  const drop = (t: Tensor) => t.dispose();
  for (let i = 0; i < 3; i++) drop(run());
  await done(run());
  const start = performance.now();
  for (let i = 1; i < REPEATS; i++) drop(run());
  await done(run());
  const ms = (performance.now() - start) / REPEATS;
  if (values.profile) await printSteps(name, async () => drop(run()), 14);
  return ms;
}

async function done(probe: Tensor): Promise<void> {
  const value = await probe.item();
  if (!Number.isFinite(value)) throw new Error(`the layer gave ${value}`);
  probe.dispose();
}

interface Timed {
  readonly what: string;
  readonly tokens: number;
  readonly mla: number;
  readonly moe: number;
}

function activations(batch: number, length: number): Tensor {
  return drawn(99, [batch, length, CONFIG.hiddenSize], 1, "bf16");
}

async function experts(
  weights: Weights<MoeParams>,
  batch: number,
  length: number,
): Promise<number> {
  const run = compile(
    (w: Weights<MoeParams>, x: Tensor) => probe(moe(expanded<MoeParams>(w), x, CONFIG).output),
    { name: "moe" },
  );
  const x = activations(batch, length);
  const ms = await time("moe", () => run(weights, x));
  disposeTree(x);
  run.dispose();
  return ms;
}

/**
 * What one of several GPUs does of the mixture when each has its share of the experts and brings
 * `batch` tokens: as many pairs of token and expert as on one GPU, but of that share alone; and the
 * shared expert for its own tokens.
 */
async function share(weights: Weights<MoeParams>, batch: number, gpus: number): Promise<number> {
  const E = CONFIG.nRoutedExperts / gpus;
  const config = { ...CONFIG, nRoutedExperts: E, numExpertsPerTok: 1, nGroup: 1, topkGroup: 1 };
  const first = (t: Tensor) => sliceAxis(t, 0, 0, E);
  const routed = compile(
    (w: Weights<MoeParams>, x: Tensor) => {
      const experts = Object.entries(w.experts as Record<string, Stored>).map(
        ([name, { values, scale }]) => [name, { values: first(values), scale: first(scale) }],
      );
      const part = {
        gate: first(w.gate as Tensor),
        eScoreCorrectionBias: first(w.eScoreCorrectionBias as unknown as Tensor),
        experts: Object.fromEntries(experts),
        sharedExperts: null,
      } as Weights<MoeParams>;
      return probe(moe(expanded<MoeParams>(part), x, config).output);
    },
    { name: "share" },
  );
  const shared = compile(
    (w: Weights<MlpParams>, x: Tensor) => probe(mlp(expanded<MlpParams>(w), x)),
    { name: "shared" },
  );
  const pairs = activations(batch * CONFIG.numExpertsPerTok, 1);
  const tokens = activations(batch, 1);
  const own = weights.sharedExperts as Weights<MlpParams>;
  const ms =
    (await time("share", () => routed(weights, pairs))) +
    (await time("shared", () => shared(own, tokens)));
  disposeTree([pairs, tokens]);
  routed.dispose();
  shared.dispose();
  return ms;
}

async function prefill(
  attention: Weights<MlaParams>,
  mixture: Weights<MoeParams>,
  batch: number,
  length: number,
): Promise<Timed> {
  const run = compile(
    (w: Weights<MlaParams>, x: Tensor) =>
      probe(mla(expanded<MlaParams>(w), x, ropeTables(CONFIG, length), CONFIG)),
    { name: "mla" },
  );
  const x = activations(batch, length);
  const ms = await time("mla", () => run(attention, x));
  disposeTree(x);
  run.dispose();
  const what = `prefill, ${batch} × ${length}`;
  return { what, tokens: batch * length, mla: ms, moe: await experts(mixture, batch, length) };
}

async function decode(
  attention: Weights<MlaParams>,
  mixture: Weights<MoeParams>,
  batch: number,
): Promise<Timed> {
  const perSequence = CONTEXT / PAGE + 1;
  const run = compile(
    (w: Weights<MlaParams>, x: Tensor, cache: Tensor, lengths: Tensor, pages: Tensor) => {
      const step = cacheStep(CONFIG, cache, 1, lengths, pages);
      const { output, cache: next } = mlaCached(
        expanded<MlaParams>(w),
        x,
        cache,
        step,
        CONFIG,
        "absorbed",
      );
      return { probe: probe(output), cache: next };
    },
    { name: "mla", donate: [2] },
  );
  const x = activations(batch, 1);
  let cache = latentCache(CONFIG, batch * perSequence, PAGE, "bf16");
  const lengths = tensor(new Int32Array(batch).fill(CONTEXT), { dtype: "i32" });
  const pages = tensor(
    Int32Array.from({ length: batch * perSequence }, (_, i) => i),
    {
      shape: [batch, perSequence],
      dtype: "i32",
    },
  );
  const ms = await time("mla", () => {
    const result = run(attention, x, cache, lengths, pages);
    cache = result.cache;
    return result.probe;
  });
  disposeTree([x, cache, lengths, pages]);
  run.dispose();
  const what = `decoding, ${batch} at ${CONTEXT} tokens`;
  return { what, tokens: batch, mla: ms, moe: await experts(mixture, batch, 1) };
}

const { values } = parseArgs({ options: { profile: { type: "boolean" } } });
setBackend(observed(await cudaBackend()));
const began = performance.now();
// Expanded attention multiplies by kv_b_proj like any linear layer; absorbed attention takes it apart.
const attention = randomWeights<MlaParams>(mlaParamShapes(CONFIG));
const absorbed = { ...attention, kvBProj: await narrowed(attention.kvBProj as Stored) };
const mixture = randomWeights<MoeParams>(moeParamShapes(CONFIG));
console.log(`weights made in ${((performance.now() - began) / 1000).toFixed(1)} s`);

async function narrowed(stored: Stored): Promise<Tensor> {
  const make = compile(({ values, scale }: Stored) =>
    cast(dequantize(values, { scale, block: [128, 128] }), "bf16"),
  );
  const result = make(stored);
  make.dispose();
  return result;
}

const table: Timed[] = [];
for (const [batch, length] of [
  [1, 4096],
  [4, 4096],
] as const)
  table.push(await prefill(attention, mixture, batch, length));
for (const batch of [1, 32, 128]) table.push(await decode(absorbed, mixture, batch));

const rate = (tokens: number, ms: number) => ((tokens * 1000) / ms).toFixed(0);
console.log(
  "one layer at DeepSeek-V3's size              MLA ms   MoE ms  tokens/s of it   61 such",
);
for (const { what, tokens, mla, moe } of table) {
  const both = mla + moe;
  console.log(
    [
      what.padEnd(44),
      mla.toFixed(3).padStart(7),
      moe.toFixed(3).padStart(8),
      rate(tokens, both).padStart(15),
      rate(tokens, both * LAYERS).padStart(9),
    ].join(" "),
  );
}
// Tokens travel to the experts' GPUs in FP8 and back in bf16, over NVLink at 450 GB/s each way.
const NVLINK = 450e9;
console.log(
  "\ndecoding on several GPUs, a share of the experts on each (as computed from a layer's parts)",
);
console.log("GPUs  tokens each  MLA ms  experts ms  links ms  tokens/s of a GPU  of 8");
for (const gpus of [8, 16]) {
  for (const batch of [32, 128]) {
    const mla = (table.find((t) => t.what.startsWith(`decoding, ${batch} `)) as Timed).mla;
    const moe = await share(mixture, batch, gpus);
    const pairs = batch * CONFIG.numExpertsPerTok * (1 - 1 / gpus);
    const links = ((pairs * CONFIG.hiddenSize * 3) / NVLINK) * 1000;
    const each = (batch * 1000) / (LAYERS * (mla + moe + links));
    console.log(
      `${String(gpus).padStart(4)} ${String(batch).padStart(12)} ${mla.toFixed(3).padStart(7)} ${moe.toFixed(3).padStart(11)} ${links.toFixed(3).padStart(9)} ${each.toFixed(0).padStart(18)} ${(each * 8).toFixed(0).padStart(5)}`,
    );
  }
}
const peak = (getBackend().memory().peakBytes / 2 ** 30).toFixed(1);
console.log(`memory at its peak ${peak} GiB`);
getBackend().dispose();
process.exit(0);
