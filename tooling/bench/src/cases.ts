/** The work that every contender is given: names, sizes, inputs and the operations they cost. */

export type Op = "matmul" | "softmax" | "rmsNorm" | "attention" | "trainStep";

export interface Case {
  readonly name: string;
  readonly op: Op;
  /**
   * `matmul`: [m, k, n]. `softmax`, `rmsNorm`: [rows, columns]. `attention`: [time, heads, width].
   * `trainStep`: [layers, width, heads, hidden, vocabulary, batch, time].
   */
  readonly sizes: readonly number[];
  /** Floating-point operations of one run, where they limit it. */
  readonly flops?: number;
  /** Bytes read and written by one run, where they limit it. */
  readonly bytes?: number;
}

function matmul(m: number, k: number, n: number): Case {
  const streams = Math.min(m, n) === 1;
  const cost = streams ? { bytes: 4 * (m * k + k * n + m * n) } : { flops: 2 * m * k * n };
  const name = !streams ? `matmul ${m}³` : m === 1 ? `vector · ${k}×${n}` : `${m}×${k} · vector`;
  return { name, op: "matmul", sizes: [m, k, n], ...cost };
}

function rows(op: "softmax" | "rmsNorm", count: number, columns: number): Case {
  return {
    name: `${op} ${count}×${columns}`,
    op,
    sizes: [count, columns],
    bytes: 8 * count * columns,
  };
}

/** A pre-norm transformer with rotary-free attention; see {@link Case.sizes}. */
function trainStep(sizes: readonly [number, number, number, number, number, number, number]): Case {
  const [layers, width, , hidden, vocab, batch, time] = sizes;
  const weights = layers * (4 * width * width + 2 * width * hidden) + width * vocab;
  const attention = layers * 2 * time * width; // both products, per token
  return {
    name: `training step, ${layers} layers of ${width}, ${batch}×${time} tokens`,
    op: "trainStep",
    sizes,
    flops: 6 * batch * time * (weights + attention),
  };
}

export const CASES: readonly Case[] = [
  ...[64, 128, 256, 512, 1024, 2048].map((n) => matmul(n, n, n)),
  matmul(4096, 4096, 1),
  matmul(1, 4096, 4096),
  rows("softmax", 4096, 1024),
  rows("rmsNorm", 4096, 1024),
  {
    name: "attention 1024×8×64",
    op: "attention",
    sizes: [1024, 8, 64],
    flops: 4 * 1024 ** 2 * 512,
  },
  trainStep([4, 256, 4, 1024, 1024, 8, 128]),
];

/** Numbers in [-½, ½), the same for every contender. */
export function inputs(count: number, seed: number): Float32Array {
  const out = new Float32Array(count);
  let state = (seed * 0x9e3779b9 + 1) >>> 0;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    out[i] = state / 2 ** 32 - 0.5;
  }
  return out;
}

/** Shapes of the weights of `trainStep`, by name, and of its inputs: features and one-hot targets. */
export function trainShapes(sizes: readonly number[]) {
  const [layers, width, , hidden, vocab, batch, time] = sizes as [
    number,
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const weights: Record<string, readonly number[]> = {};
  for (let i = 0; i < layers; i++) {
    weights[`norm1.${i}`] = [width];
    weights[`qkv.${i}`] = [width, 3 * width];
    weights[`out.${i}`] = [width, width];
    weights[`norm2.${i}`] = [width];
    weights[`up.${i}`] = [width, hidden];
    weights[`down.${i}`] = [hidden, width];
  }
  weights.norm = [width];
  weights.head = [width, vocab];
  return { weights, features: [batch * time, width], targets: [batch * time, vocab] };
}

/** Starting weights: ones for norms, and small numbers. */
export function startWeights(name: string, shape: readonly number[], seed: number): Float32Array {
  const size = shape.reduce((a, b) => a * b, 1);
  if (shape.length === 1) return new Float32Array(size).fill(1);
  return inputs(size, seed + name.length).map((x) => x * 0.08);
}

/** Rows with a single 1 each. */
export function oneHot(rowCount: number, columns: number): Float32Array {
  const out = new Float32Array(rowCount * columns);
  for (let i = 0; i < rowCount; i++) out[i * columns + ((i * 7919) % columns)] = 1;
  return out;
}

/** The Adam that every contender's training step ends with. */
export const ADAM = { rate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8 } as const;

export const NORM_EPSILON = 1e-6;
