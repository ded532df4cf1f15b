/**
 * A llama model with random weights as a GGUF file, for engines that read those: version 3 of
 * https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, all weights f32.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import { inputs } from "./cases.ts";

export interface LlamaSizes {
  readonly vocab: number;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly feedForward: number;
  readonly context: number;
}

/** Sizes with as many parameters as `active` (within the 32 columns that `feedForward` moves by). */
export function llamaOfSize(active: number, sizes: Omit<LlamaSizes, "feedForward">): LlamaSizes {
  const { vocab, hidden, layers } = sizes;
  const rest = active - 2 * vocab * hidden - layers * 4 * hidden ** 2;
  return { ...sizes, feedForward: 32 * Math.round(rest / (3 * hidden * layers * 32)) };
}

export function parameterCount(sizes: LlamaSizes): number {
  return tensorsOf(sizes).reduce((sum, { shape }) => sum + product(shape), 0);
}

const U32 = 4;
const F32 = 6;
const STRING = 8;
const ARRAY = 9;
const I32 = 5;
const ALIGNMENT = 32;

/** Text and kind of a token; a vocabulary of this kind needs one for each byte. */
function tokenOf(id: number): { text: string; kind: number } {
  if (id === 0) return { text: "<unk>", kind: 2 };
  if (id < 3) return { text: id === 1 ? "<s>" : "</s>", kind: 3 };
  const byte = id - 3;
  if (byte > 255) return { text: `▁${id}`, kind: 1 };
  return { text: `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`, kind: 6 };
}

export function writeLlama(path: string, sizes: LlamaSizes): void {
  const { vocab, hidden, layers, heads, feedForward, context } = sizes;
  const tensors = tensorsOf(sizes);
  const head = new Bytes();
  const entry = (key: string, type: number, write: () => void) => {
    head.text(key);
    head.u32(type);
    write();
  };
  const numbers = {
    context_length: context,
    embedding_length: hidden,
    block_count: layers,
    feed_forward_length: feedForward,
    "attention.head_count": heads,
    "attention.head_count_kv": heads,
    "rope.dimension_count": hidden / heads,
    vocab_size: vocab,
  };
  head.raw(new TextEncoder().encode("GGUF"));
  head.u32(3);
  head.u64(tensors.length);
  head.u64(3 + Object.keys(numbers).length + 6);
  entry("general.architecture", STRING, () => head.text("llama"));
  entry("general.alignment", U32, () => head.u32(ALIGNMENT));
  for (const [name, value] of Object.entries(numbers)) {
    entry(`llama.${name}`, U32, () => head.u32(value));
  }
  entry("llama.attention.layer_norm_rms_epsilon", F32, () => head.f32(1e-6));
  const array = (key: string, type: number, write: (id: number) => void) =>
    entry(`tokenizer.ggml.${key}`, ARRAY, () => {
      head.u32(type);
      head.u64(vocab);
      for (let id = 0; id < vocab; id++) write(id);
    });
  entry("tokenizer.ggml.model", STRING, () => head.text("llama"));
  array("tokens", STRING, (id) => head.text(tokenOf(id).text));
  array("scores", F32, (id) => head.f32(-id));
  array("token_type", I32, (id) => head.u32(tokenOf(id).kind));
  entry("tokenizer.ggml.bos_token_id", U32, () => head.u32(1));
  entry("tokenizer.ggml.eos_token_id", U32, () => head.u32(2));
  let offset = 0;
  for (const { name, shape } of tensors) {
    head.text(name);
    head.u32(shape.length);
    for (const size of shape) head.u64(size);
    head.u32(0); // f32
    head.u64(offset);
    offset += aligned(4 * product(shape));
  }
  const file = openSync(path, "w");
  try {
    writeSync(file, head.padded());
    for (const [i, { shape }] of tensors.entries()) {
      const values = shape.length === 1 ? new Float32Array(shape[0]!).fill(1) : weights(shape, i);
      const bytes = new Uint8Array(aligned(values.byteLength));
      bytes.set(new Uint8Array(values.buffer));
      writeSync(file, bytes);
    }
  } finally {
    closeSync(file);
  }
}

/** Names as llama.cpp has them; the first size of a shape is the one that is read along. */
function tensorsOf({ vocab, hidden, layers, feedForward }: LlamaSizes) {
  const block = (n: number): [string, number[]][] => [
    [`blk.${n}.attn_norm.weight`, [hidden]],
    ...["attn_q", "attn_k", "attn_v", "attn_output"].map((name): [string, number[]] => [
      `blk.${n}.${name}.weight`,
      [hidden, hidden],
    ]),
    [`blk.${n}.ffn_norm.weight`, [hidden]],
    [`blk.${n}.ffn_gate.weight`, [hidden, feedForward]],
    [`blk.${n}.ffn_up.weight`, [hidden, feedForward]],
    [`blk.${n}.ffn_down.weight`, [feedForward, hidden]],
  ];
  const all: [string, number[]][] = [
    ["token_embd.weight", [hidden, vocab]],
    ...Array.from({ length: layers }, (_, n) => block(n)).flat(),
    ["output_norm.weight", [hidden]],
    ["output.weight", [hidden, vocab]],
  ];
  return all.map(([name, shape]) => ({ name, shape }));
}

function weights(shape: readonly number[], seed: number): Float32Array {
  return inputs(product(shape), seed).map((x) => x * 0.07); // deviation 0.02
}

function product(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

function aligned(bytes: number): number {
  return ALIGNMENT * Math.ceil(bytes / ALIGNMENT);
}

/** Little-endian numbers and texts, one after another. */
class Bytes {
  readonly #parts: Uint8Array[] = [];

  raw(bytes: Uint8Array): void {
    this.#parts.push(bytes);
  }

  u32(value: number): void {
    this.raw(new Uint8Array(Uint32Array.of(value).buffer));
  }

  f32(value: number): void {
    this.raw(new Uint8Array(Float32Array.of(value).buffer));
  }

  u64(value: number): void {
    this.raw(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
  }

  text(value: string): void {
    const bytes = new TextEncoder().encode(value);
    this.u64(bytes.length);
    this.raw(bytes);
  }

  padded(): Uint8Array {
    const bytes = Buffer.concat(this.#parts);
    return Buffer.concat([bytes, new Uint8Array(aligned(bytes.length) - bytes.length)]);
  }
}
