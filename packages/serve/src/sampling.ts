/**
 * Drawing tokens from logits, on the device. A row of logits needs one uniform number from the host,
 * which depends on the request's seed and the place of the token alone: so the same tokens come out
 * whatever else is in the batch.
 *
 *   B rows, V vocabulary, N adjusted logits, K log-probabilities asked for
 */
import {
  add,
  and,
  argmax,
  bitcast,
  cast,
  cumsum,
  div,
  eq,
  exp,
  expandDims,
  full,
  ge,
  gt,
  iota,
  log,
  max,
  min,
  mul,
  ne,
  or,
  pad,
  rem,
  reshape,
  scatter,
  shr,
  squeeze,
  sub,
  sum,
  type Tensor,
  take,
  takeAlong,
  topK,
  where,
  zeros,
} from "@dsv3/tensor";

/** One row's part in a batch; what {@link sampleRows} makes tensors of. */
export type SampleInputs = {
  temperature: Tensor; // f32 [B], 0: the most likely token
  uniform: Tensor; //     f32 [B] in [0, 1)
  /** Null: no row asks for any of these. */
  filters: { topK: Tensor; topP: Tensor; minP: Tensor } | null; // i32 [B], f32 [B], f32 [B]
  /** Changes to single logits, at index row · V + token; indices outside are padding. Null: none. */
  adjust: { index: Tensor; repetition: Tensor; bias: Tensor } | null; // i32 [N], f32 [N], f32 [N]
  /** Tokens that may come, a bit each: i32 [B, ceil(V / 32)]. Null: all may. */
  mask: Tensor | null;
};

export type SampleResult = ScoreResult & {
  token: Tensor; // i32 [B]
};

export type ScoreResult = {
  logprob: Tensor; //    f32 [B], of the token, before any change to the logits
  topTokens: Tensor; //  i32 [B, K], the most likely first
  topLogprobs: Tensor; // f32 [B, K]
};

/** A token for each row of logits f32 [B, V], and `logprobs` log-probabilities, 1 at least. */
export function sampleRows(logits: Tensor, inputs: SampleInputs, logprobs: number): SampleResult {
  const { temperature, uniform, filters } = inputs;
  const x = masked(adjusted(logits, inputs.adjust), inputs.mask);
  const best = argmax(x, 1); // [B]

  const greedy = eq(temperature, 0);
  const scaled = div(x, expandDims(where(greedy, 1, temperature), 1)); // [B, V]
  let weights = exp(sub(scaled, max(scaled, 1, { keepDims: true }))); // 1 for the most likely
  if (filters) weights = filtered(weights, filters);
  const token = where(greedy, best, draw(weights, uniform));

  return { token, ...scoreRows(logits, token, logprobs) };
}

/** Log-probabilities of a token i32 [B] for each row of logits, and of the most likely ones. */
export function scoreRows(logits: Tensor, token: Tensor, logprobs: number): ScoreResult {
  const highest = max(logits, 1, { keepDims: true });
  const total = add(highest, log(rowSum(exp(sub(logits, highest))))); // [B, 1]
  const top = topK(logits, logprobs);
  return {
    logprob: squeeze(sub(takeAlong(logits, expandDims(token, 1)), total), 1),
    topTokens: top.indices,
    topLogprobs: sub(top.values, total),
  };
}

/** Logits with penalties and biases. Every index occurs once. */
function adjusted(logits: Tensor, adjust: SampleInputs["adjust"]): Tensor {
  if (adjust === null) return logits;
  const flat = [logits.size];
  const at = (base: Tensor, updates: Tensor) =>
    reshape(scatter(base, adjust.index, updates, "set"), logits.shape);
  const repetition = at(full(flat, 1), adjust.repetition);
  const bias = at(zeros(flat), adjust.bias);
  return add(where(gt(logits, 0), div(logits, repetition), mul(logits, repetition)), bias);
}

/** Far below any logit, but not infinite: differences stay numbers. */
const NEVER = -1e30;

function masked(logits: Tensor, mask: Tensor | null): Tensor {
  if (mask === null) return logits;
  const ids = iota(logits.shape[1]!);
  const words = take(mask, div(ids, 32), 1); // [B, V]
  return where(ne(and(shr(words, rem(ids, 32)), 1), 0), logits, NEVER);
}

/** Weights [B, V] with 0 for the tokens that min-p, then top-k, then top-p leave out. */
function filtered(weights: Tensor, f: NonNullable<SampleInputs["filters"]>): Tensor {
  let w = where(ge(weights, expandDims(f.minP, 1)), weights, 0);
  const k = expandDims(cast(f.topK, "f32"), 1);
  w = where(atLeast(w, threshold(w, full(w.shape, 1), k)), w, 0);
  const p = expandDims(f.topP, 1);
  const nucleus = atLeast(w, threshold(w, w, mul(p, rowSum(w))));
  // A row that asks for everything keeps what rounding would take from its tail.
  return where(or(nucleus, ge(p, 1)), w, 0);
}

/** Weights lie in [0, 1], where floats are ordered as their bits are: this is how 1 ends. */
const HIGHEST_BIT = 29;

/**
 * The largest bits t, u32 [B, 1], with Σ value[w ≥ t] ≥ target: found bit by bit, in as many sums
 * and without sorting. 0 where no such t is.
 */
function threshold(w: Tensor, value: Tensor, target: Tensor): Tensor {
  const bits = bitcast(w, "u32");
  let t = full([w.shape[0]!, 1], 0, "u32");
  for (let bit = HIGHEST_BIT; bit >= 0; bit--) {
    const candidate = or(t, 2 ** bit);
    const mass = rowSum(where(ge(bits, candidate), value, 0));
    t = where(ge(mass, target), candidate, t);
  }
  return t;
}

function atLeast(w: Tensor, t: Tensor): Tensor {
  return ge(bitcast(w, "u32"), t);
}

/**
 * Sums of rows [B, V] → [B, 1], added in an order that does not depend on B: `sum` alone cuts long
 * rows into as many parts as keep all threads busy.
 */
function rowSum(x: Tensor): Tensor {
  const [rows, width] = x.shape as [number, number];
  const parts = Math.ceil(width / PART);
  const even = pad(x, [
    [0, 0],
    [0, parts * PART - width],
  ]);
  return sum(sum(reshape(even, [rows, parts, PART]), 2), 1, { keepDims: true });
}
const PART = 64;

/**
 * The first token whose running sum of weights passes uniform · total. Only tokens with weight are
 * looked at, so that none without can be drawn, however the backend rounds its running sums.
 */
function draw(weights: Tensor, uniform: Tensor): Tensor {
  const running = cumsum(weights, 1); // [B, V]
  const possible = gt(weights, 0);
  const total = max(where(possible, running, 0), 1, { keepDims: true });
  const passed = and(possible, gt(running, mul(expandDims(uniform, 1), total)));
  const ids = iota(weights.shape, { axis: 1 });
  return min(where(passed, ids, weights.shape[1]! - 1), 1);
}

/**
 * A number in [0, 1) in steps of 2^−24 for the token at `place` of answer `choice`: a hash of the
 * three (the finaliser of splitmix32 after each word), not the next of a row of numbers, since after
 * a preemption or beside speculation tokens are not drawn one after another.
 */
export function uniformAt(seed: number, choice: number, place: number): number {
  let state = 0;
  for (const word of [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, choice, place]) {
    let z = (state ^ word) + 0x9e3779b9;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    state = z ^ (z >>> 16);
  }
  return (state >>> 8) / 2 ** 24;
}
