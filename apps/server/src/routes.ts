/** The routes that ask something of a model: what they take, and who answers. */
import { chat } from "./chat.ts";
import { completions } from "./completions.ts";
import { embeddings } from "./embeddings.ts";
import type { ModelRoute } from "./exchange.ts";
import { countThere, passOn, talkerThere } from "./gateway/forward.ts";
import { countTokens, messages } from "./messages.ts";
import { countRequest, messagesRequest } from "./messages-schemas.ts";
import { responses } from "./responses.ts";
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
  /** What its request is called in the OpenAPI document. */
  readonly name: string;
  /** Whether `stream: true` has it answer with events. */
  readonly streams: boolean;
}

export const MODEL_ROUTES: readonly DescribedRoute[] = [
  {
    paths: ["/v1/chat/completions", "/chat/completions", "/beta/chat/completions"],
    summary: "Answers a conversation",
    name: "ChatRequest",
    request: chatRequest,
    streams: true,
    handle: chat,
    forward: passOn("/v1/chat/completions"),
  },
  {
    paths: ["/v1/completions", "/completions", "/beta/completions"],
    summary: "Continues a text, or fills its middle",
    name: "CompletionRequest",
    request: completionRequest,
    streams: true,
    handle: completions,
    forward: passOn("/v1/completions"),
  },
  {
    paths: ["/v1/embeddings"],
    summary: "Texts as vectors",
    name: "EmbeddingsRequest",
    request: embeddingsRequest,
    streams: false,
    handle: embeddings,
    forward: passOn("/v1/embeddings"),
  },
  {
    paths: ["/v1/responses"],
    summary: "Answers a conversation, in items",
    name: "ResponsesRequest",
    request: responsesRequest,
    streams: true,
    handle: (service, request, signal) => responses(talker(service), request, signal),
    forward: (remote, body) =>
      responses(talkerThere(remote), read(responsesRequest, body), remote.signal),
  },
  {
    paths: ["/v1/messages", "/anthropic/v1/messages"],
    summary: "Answers a conversation, in Anthropic's terms",
    name: "MessagesRequest",
    request: messagesRequest,
    streams: true,
    handle: (service, request, signal) => messages(talker(service), request, signal),
    forward: (remote, body) =>
      messages(talkerThere(remote), read(messagesRequest, body), remote.signal),
  },
  {
    paths: ["/v1/messages/count_tokens", "/anthropic/v1/messages/count_tokens"],
    summary: "What a conversation costs, in Anthropic's terms",
    name: "CountRequest",
    request: countRequest,
    streams: false,
    handle: countTokens,
    forward: countThere,
  },
  {
    paths: ["/tokenize"],
    summary: "Token ids of a text or a conversation",
    name: "TokenizeRequest",
    request: tokenizeRequest,
    streams: false,
    handle: tokenize,
    forward: passOn("/tokenize"),
  },
  {
    paths: ["/detokenize"],
    summary: "The text of token ids",
    name: "DetokenizeRequest",
    request: detokenizeRequest,
    streams: false,
    handle: detokenize,
    forward: passOn("/detokenize"),
  },
];
