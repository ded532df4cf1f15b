/** POST /tokenize and /detokenize, as vLLM has them: what a prompt costs, without asking the model. */
import { promptOf } from "./conversation.ts";
import { badRequest } from "./errors.ts";
import type { Service } from "./generate.ts";
import type { DetokenizeRequest, TokenizeRequest } from "./schemas.ts";
import type { Reply } from "./stream.ts";

export function tokenize({ tokenizer, engine }: Service, request: TokenizeRequest): Reply {
  const ids =
    "prompt" in request
      ? tokenizer.encode(request.prompt, { addSpecial: request.add_special_tokens })
      : promptOf(request, null, tokenizer).ids;
  const tokens = Array.from(ids);
  return { body: { count: tokens.length, max_model_len: engine.maxContext, tokens } };
}

export function detokenize({ tokenizer }: Service, { tokens }: DetokenizeRequest): Reply {
  try {
    return { body: { prompt: tokenizer.decode(tokens) } };
  } catch (error) {
    if (error instanceof RangeError) throw badRequest("tokens", error.message);
    throw error;
  }
}
