/** What requests ask of sampling, as the tensors that sampling takes: a row for each draw. */
import { type Tensor, tensor } from "@dsv3/tensor";
import { type SampleInputs, uniformAt } from "./sampling.ts";
import type { Sequence } from "./sequence.ts";

/** A row of logits to draw from: after the sequence's tokens and those of `after`. */
export interface DrawRow {
  readonly sequence: Sequence;
  readonly after: readonly number[];
}

/** What the rows' requests ask of sampling, filled up to `batch` rows with greedy ones. */
export function sampleInputs(
  rows: readonly (DrawRow | null)[],
  batch: number,
  vocabSize: number,
): SampleInputs {
  const temperature = new Float32Array(batch);
  const uniform = new Float32Array(batch);
  const topK = new Int32Array(batch).fill(vocabSize);
  const topP = new Float32Array(batch).fill(1);
  const minP = new Float32Array(batch);
  const adjustments: Adjustment[] = [];
  const words = Math.ceil(vocabSize / 32);
  let mask: Int32Array | null = null;
  let filters = false;
  for (const [row, drawRow] of rows.entries()) {
    if (drawRow === null) continue;
    const { request, seed, choice, generatedCount } = drawRow.sequence;
    // The one most likely token needs no drawing.
    temperature[row] = request.topK === 1 ? 0 : (request.temperature ?? 1);
    uniform[row] = uniformAt(seed, choice, generatedCount + drawRow.after.length);
    topK[row] = Math.min(vocabSize, request.topK ?? vocabSize);
    topP[row] = request.topP ?? 1;
    minP[row] = request.minP ?? 0;
    filters ||=
      temperature[row]! > 0 && (topK[row]! < vocabSize || topP[row]! < 1 || minP[row]! > 0);
    const allowed = drawRow.sequence.mask(drawRow.after);
    if (allowed !== null) {
      mask ??= new Int32Array(batch * words).fill(-1);
      mask.set(allowed, row * words);
    }
    for (const adjustment of adjust(drawRow)) {
      adjustments.push({ ...adjustment, index: row * vocabSize + adjustment.index });
    }
  }
  return {
    temperature: tensor(temperature),
    uniform: tensor(uniform),
    filters: filters ? { topK: i32(topK, [batch]), topP: tensor(topP), minP: tensor(minP) } : null,
    adjust: adjustments.length > 0 ? adjustTensors(adjustments) : null,
    mask: mask && i32(mask, [batch, words]),
  };
}

interface Adjustment {
  index: number;
  repetition: number;
  bias: number;
}

/** Changes to the logits of single tokens: each token once. */
function* adjust({ sequence, after }: DrawRow): Generator<Adjustment> {
  const { request, generated, tokens } = sequence;
  const { presencePenalty = 0, frequencyPenalty = 0, repetitionPenalty = 1, logitBias } = request;
  const times = (token: number) =>
    (generated.get(token) ?? 0) + after.filter((t) => t === token).length;
  const touched = new Set<number>(logitBias?.keys());
  if (presencePenalty !== 0 || frequencyPenalty !== 0) {
    for (const token of [...generated.keys(), ...after]) touched.add(token);
  }
  const repeated = repetitionPenalty === 1 ? null : new Set([...tokens, ...after]);
  for (const token of repeated ?? []) touched.add(token);
  for (const index of touched) {
    const n = times(index);
    const penalty = n > 0 ? presencePenalty + frequencyPenalty * n : 0;
    const bias = (logitBias?.get(index) ?? 0) - penalty;
    yield { index, repetition: repeated?.has(index) ? repetitionPenalty : 1, bias };
  }
}

/** Padded to a power of two with changes of no token. */
function adjustTensors(adjustments: readonly Adjustment[]): NonNullable<SampleInputs["adjust"]> {
  const length = Math.max(16, powerOfTwo(adjustments.length));
  const index = new Int32Array(length).fill(-1);
  const repetition = new Float32Array(length).fill(1);
  const bias = new Float32Array(length);
  for (const [i, a] of adjustments.entries()) {
    index[i] = a.index;
    repetition[i] = a.repetition;
    bias[i] = a.bias;
  }
  return { index: i32(index, [length]), repetition: tensor(repetition), bias: tensor(bias) };
}

/** The least power of two that is not below n. */
export function powerOfTwo(n: number): number {
  return 2 ** Math.ceil(Math.log2(n));
}

export function i32(values: Int32Array, shape: readonly number[]): Tensor {
  return tensor(values, { shape, dtype: "i32" });
}
