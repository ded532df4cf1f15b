/** POST /v1/embeddings: texts as vectors of length 1. */
import type { Tokenizer } from "@dsv3/tokenizer";
import type { Embedder } from "./embedder.ts";
import { badRequest } from "./errors.ts";
import type { Service } from "./generate.ts";
import type { EmbeddingsRequest } from "./schemas.ts";
import type { Reply } from "./stream.ts";

export async function embeddings(
  { embedder, tokenizer, model, record }: Service,
  request: EmbeddingsRequest,
  signal: AbortSignal,
): Promise<Reply> {
  if (embedder === null) throw badRequest("model", "gives no embeddings", "unsupported_parameter");
  const dimensions = request.dimensions ?? embedder.dimensions;
  if (dimensions > embedder.dimensions) {
    const problem = `${dimensions} is more than the ${embedder.dimensions} that this model has`;
    throw badRequest("dimensions", problem);
  }
  const texts = textsOf(request, tokenizer, embedder);
  const vectors = await embedder.embed(texts, signal);
  const promptTokens = texts.reduce((sum, { length }) => sum + length, 0);
  record.usage = { promptTokens, cachedTokens: 0, completionTokens: 0 };
  const encoded = request.encoding_format === "base64" ? base64 : Array.from<number>;
  const data = vectors.map((vector, index) => {
    const embedding = encoded(unit(vector.subarray(0, dimensions)));
    return { object: "embedding", index, embedding };
  });
  const usage = { prompt_tokens: promptTokens, total_tokens: promptTokens };
  return { body: { object: "list", data, model, usage } };
}

/** Every text as ids, of which each is in the vocabulary. */
function textsOf(
  { input }: EmbeddingsRequest,
  tokenizer: Tokenizer,
  { maxContext }: Embedder,
): ArrayLike<number>[] {
  const list: readonly unknown[] = typeof input === "string" ? [input] : input;
  const many = (typeof list[0] === "number" ? [list] : list) as readonly (string | number[])[];
  return many.map((one, i) => {
    const ids = typeof one === "string" ? tokenizer.encode(one, { addSpecial: true }) : one;
    const fail = (problem: string, code?: string) => badRequest(`input.${i}`, problem, code);
    if (one.length === 0) throw fail("is empty");
    if (ids.length > maxContext) {
      const problem = `${ids.length} tokens are more than the context of ${maxContext}`;
      throw fail(problem, "context_length_exceeded");
    }
    const strange = Array.from(ids).find((id) => id >= tokenizer.vocabSize);
    if (strange !== undefined) {
      throw fail(`token ${strange} is not in the vocabulary of ${tokenizer.vocabSize}`);
    }
    return ids;
  });
}

/** The vector with length 1, so that products of two are cosines. A vector of zeros stays. */
function unit(vector: Float32Array): Float32Array {
  const length = Math.hypot(...vector);
  return vector.map((x) => x / (length || 1));
}

/** f32, little-endian: what OpenAI's client asks for unless told otherwise. */
function base64(vector: Float32Array): string {
  const bytes = Buffer.alloc(4 * vector.length);
  for (const [i, x] of vector.entries()) bytes.writeFloatLE(x, 4 * i);
  return bytes.toString("base64");
}
