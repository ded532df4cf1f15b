/** POST /tokenize and /detokenize, as vLLM has them: what a prompt costs, without asking the model. */
import { promptOf } from "./conversation.ts";
import { badRequest } from "./errors.ts";
import type { Service } from "./generate.ts";
import { detokenizeRequest, read, tokenizeRequest } from "./schemas.ts";

export function tokenize({ tokenizer, engine }: Service, body: unknown): object {
  const request = read(tokenizeRequest, body);
  const ids =
    "prompt" in request
      ? tokenizer.encode(request.prompt, { addSpecial: request.add_special_tokens })
      : promptOf(request, null, tokenizer);
  return { count: ids.length, max_model_len: engine.maxContext, tokens: Array.from(ids) };
}

export function detokenize({ tokenizer }: Service, body: unknown): object {
  const { tokens } = read(detokenizeRequest, body);
  try {
    return { prompt: tokenizer.decode(tokens) };
  } catch (error) {
    if (error instanceof RangeError) throw badRequest("tokens", error.message);
    throw error;
  }
}
