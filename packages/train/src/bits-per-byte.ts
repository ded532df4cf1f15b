/** Bits per byte: how well a model predicts text, comparable between tokenizers. */
import { type Batch, forward, type ModelConfig, type ModelParams } from "@dsv3/model";
import { compile, crossEntropy, disposeTree, reshape, sum, type Tensor } from "@dsv3/tensor";
import { nextBatch, type RowSource } from "./batches.ts";

export interface BitsPerByteOptions {
  /** How much is read: `batches` of `batch` sequences of `length` tokens. */
  readonly batches: number;
  readonly batch: number;
  readonly length: number;
  /** Stops, and the part that was read counts. */
  readonly signal?: AbortSignal;
}

export interface BitsPerByte {
  readonly bitsPerByte: number;
  /** Targets that counted, and their UTF-8 bytes. */
  readonly tokens: number;
  readonly bytes: number;
}

/**
 * −Σ log₂ p(target) / Σ bytes(target). Targets without bytes (control tokens) do not count, which is
 * nanochat's definition; the first token of each sequence is predicted from what came before it in
 * its row alone.
 * @param byteLengths UTF-8 bytes of each token id: `byteLengths` of @dsv3/tokenizer's Tokenizer
 * @throws RangeError when no target has bytes
 */
export async function bitsPerByte(
  params: ModelParams,
  config: ModelConfig,
  data: RowSource,
  byteLengths: ArrayLike<number>,
  { batches, signal, ...size }: BitsPerByteOptions,
): Promise<BitsPerByte> {
  const nats = compile(
    (p: ModelParams, { inputIds, targets }: Batch): Tensor => {
      const { logits } = forward(p, inputIds, config);
      return sum(crossEntropy(reshape(logits, [-1, config.vocabSize]), reshape(targets, [-1])));
    },
    { name: "bitsPerByte" },
  );
  let [total, tokens, bytes] = [0, 0, 0];
  try {
    for (let i = 0; i < batches && !signal?.aborted; i++) {
      const batch = nextBatch(data, size, (target) => {
        const length = byteLengths[target] ?? 0;
        if (length === 0) return -1;
        tokens++;
        bytes += length;
        return target;
      });
      using loss = nats(params, batch);
      total += await loss.item();
      disposeTree(batch);
    }
  } finally {
    nats.dispose();
  }
  if (bytes === 0) throw new RangeError("no target has bytes, so that bits per byte mean nothing");
  return { bitsPerByte: total / Math.LN2 / bytes, tokens, bytes };
}
