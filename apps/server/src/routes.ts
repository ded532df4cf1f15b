/** The routes that ask something of a model: what they take, and who answers. */
import type { z } from "zod";
import {
  chatAnswer,
  chatEvent,
  completionAnswer,
  completionEvent,
  detokenizeAnswer,
  embeddingsAnswer,
  tokenizeAnswer,
} from "./answer-schemas.ts";
import { chat } from "./chat.ts";
import { completions } from "./completions.ts";
import { embeddings } from "./embeddings.ts";
import type { ModelRoute } from "./exchange.ts";
import { countThere, passOn, talkerThere } from "./gateway/forward.ts";
import { countTokens, messages } from "./messages.ts";
import { countAnswer, messagesAnswer, messagesEvent } from "./messages-answers.ts";
import { countRequest, messagesRequest } from "./messages-schemas.ts";
import { responses } from "./responses.ts";
import { responsesAnswer, responsesEvent } from "./responses-answers.ts";
import { responsesRequest } from "./responses-schemas.ts";
import {
  chatRequest,
  completionRequest,
  detokenizeRequest,
  embeddingsRequest,
  read,
  tokenizeRequest,
} from "./schemas.ts";
import { talker } from "./talk.ts";
import { detokenize, tokenize } from "./tokenize.ts";

export interface DescribedRoute extends ModelRoute {
  /** The first is its own; the others are where DeepSeek has it. */
  readonly paths: readonly [string, ...string[]];
  readonly summary: string;
  /** What its schemas are called in the OpenAPI document: `ChatRequest`, `ChatAnswer`, `ChatEvent`. */
  readonly name: string;
  readonly answer: z.ZodType;
  /** The data of each event where `stream: true` has it answer with such; null: it has no streams. */
  readonly event: z.ZodType | null;
}

export const MODEL_ROUTES: readonly DescribedRoute[] = [
  {
    paths: ["/v1/chat/completions", "/chat/completions", "/beta/chat/completions"],
    summary: "Answers a conversation",
    name: "Chat",
    request: chatRequest,
    answer: chatAnswer,
    event: chatEvent,
    handle: chat,
    forward: passOn("/v1/chat/completions"),
  },
  {
    paths: ["/v1/completions", "/completions", "/beta/completions"],
    summary: "Continues a text, or fills its middle",
    name: "Completion",
    request: completionRequest,
    answer: completionAnswer,
    event: completionEvent,
    handle: completions,
    forward: passOn("/v1/completions"),
  },
  {
    paths: ["/v1/embeddings"],
    summary: "Texts as vectors",
    name: "Embeddings",
    request: embeddingsRequest,
    answer: embeddingsAnswer,
    event: null,
    handle: embeddings,
    forward: passOn("/v1/embeddings"),
  },
  {
    paths: ["/v1/responses"],
    summary: "Answers a conversation, in items",
    name: "Responses",
    request: responsesRequest,
    answer: responsesAnswer,
    event: responsesEvent,
    handle: (service, request, signal) => responses(talker(service), request, signal),
    forward: (remote, body) =>
      responses(talkerThere(remote), read(responsesRequest, body), remote.signal),
  },
  {
    paths: ["/v1/messages", "/anthropic/v1/messages"],
    summary: "Answers a conversation, in Anthropic's terms",
    name: "Messages",
    request: messagesRequest,
    answer: messagesAnswer,
    event: messagesEvent,
    handle: (service, request, signal) => messages(talker(service), request, signal),
    forward: (remote, body) =>
      messages(talkerThere(remote), read(messagesRequest, body), remote.signal),
  },
  {
    paths: ["/v1/messages/count_tokens", "/anthropic/v1/messages/count_tokens"],
    summary: "What a conversation costs, in Anthropic's terms",
    name: "Count",
    request: countRequest,
    answer: countAnswer,
    event: null,
    handle: countTokens,
    forward: countThere,
  },
  {
    paths: ["/tokenize"],
    summary: "Token ids of a text or a conversation",
    name: "Tokenize",
    request: tokenizeRequest,
    answer: tokenizeAnswer,
    event: null,
    handle: tokenize,
    forward: passOn("/tokenize"),
  },
  {
    paths: ["/detokenize"],
    summary: "The text of token ids",
    name: "Detokenize",
    request: detokenizeRequest,
    answer: detokenizeAnswer,
    event: null,
    handle: detokenize,
    forward: passOn("/detokenize"),
  },
];
