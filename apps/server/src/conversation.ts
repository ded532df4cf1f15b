/** A conversation with its tools, as a request of the engine. */
import { AnswerParser, type Format, type GenerationRequest } from "@dsv3/serve";
import { type ChatMessage, type ChatToolCall, encodeChat, type Tokenizer } from "@dsv3/tokenizer";
import { ChatAnswer } from "./answer.ts";
import { badRequest } from "./errors.ts";
import { engineRequest } from "./generate.ts";
import type { ChatRequest } from "./schemas.ts";
import { type Tools, toolsOf } from "./tools.ts";

/** A conversation as the engine takes it, and readers of its answers. */
export function converse(
  request: ChatRequest,
  tokenizer: Tokenizer,
): { readonly request: GenerationRequest; answer(): ChatAnswer } {
  const tools = toolsOf(request, tokenizer);
  const asked = formatOf(request.response_format);
  if (asked && request.structured_outputs) {
    throw badRequest("response_format", "is given beside structured_outputs; give one of them");
  }
  if (tools?.forced && (asked || request.structured_outputs)) {
    throw badRequest("tool_choice", "an answer cannot be a call and in a format; give one of them");
  }
  if (request.top_logprobs && !request.logprobs) {
    throw badRequest("top_logprobs", "needs logprobs: true");
  }
  const { ids, thinking } = promptOf(request, tools, tokenizer);
  if (tools?.forced && thinking) {
    throw badRequest("tool_choice", "a call cannot be forced while the model thinks");
  }
  const prompt = [...ids, ...(tools?.forced?.ids ?? [])];
  const format = tools?.forced?.format ?? asked;
  const maxTokens = request.max_completion_tokens ?? request.max_tokens;
  const single = tools !== null && request.parallel_tool_calls === false;
  return {
    request: engineRequest(request, prompt, {
      ...(maxTokens && { maxTokens }),
      ...(format && { format }),
      ...(tools && { showIds: tools.ids }),
      ...(single && { stopIds: [tokenizer.specialId("toolCallEnd")] }),
      ...(request.logprobs && { logprobs: request.top_logprobs ?? 0 }),
    }),
    answer() {
      const parser = new AnswerParser({ tools: tools !== null, thinking });
      if (tools?.forced) parser.push(tools.forced.text);
      return new ChatAnswer(parser);
    },
  };
}

function formatOf(format: ChatRequest["response_format"]): Format | null {
  if (format?.type === "json_object") return { type: "json" };
  if (format?.type !== "json_schema") return null;
  return { type: "schema", schema: format.json_schema.schema };
}

type Spoken = Pick<ChatRequest, "messages" | "thinking" | "chat_template_kwargs">;

/** The conversation as ids, up to where the assistant goes on, and whether it thinks there. */
export function promptOf(
  request: Spoken,
  tools: Tools | null,
  tokenizer: Tokenizer,
): { readonly ids: readonly number[]; readonly thinking: boolean } {
  const last = request.messages.at(-1)!;
  const opened = last.role === "assistant" && last.prefix === true ? last : null;
  if (opened?.tool_calls?.length) {
    throw badRequest("messages", "an answer can go on from words and thoughts, not from calls");
  }
  if (opened && !opened.content && !opened.reasoning_content) {
    throw badRequest("messages", "the last one has prefix: true, but nothing to go on from");
  }
  const before = opened ? request.messages.slice(0, -1) : request.messages;
  const conversation = before.flatMap(templateMessages);
  if (tools) conversation.unshift({ role: "system", content: tools.description });
  let ids: ArrayLike<number>;
  try {
    ids = encodeChat(tokenizer, conversation, { addGenerationPrompt: true }).ids;
  } catch (error) {
    throw badRequest("messages", (error as Error).message);
  }
  const thought = thoughtOf(request, opened?.reasoning_content ?? "", tokenizer);
  const words = tokenizer.encode(opened?.content ?? "");
  return { ids: [...Array.from(ids), ...thought.ids, ...words], thinking: thought.open };
}

/** A message as the template takes it. */
function templateMessages(message: ChatRequest["messages"][number]): ChatMessage[] {
  switch (message.role) {
    case "system":
    case "developer":
      return [{ role: "system", content: message.content }];
    case "assistant": {
      const calls = (message.tool_calls ?? []) as readonly ChatToolCall[];
      const content = message.content ?? null;
      if (calls.length === 0) return [{ role: "assistant", content }];
      // The template would drop calls that stand beside words.
      const words: ChatMessage[] = content ? [{ role: "assistant", content }] : [];
      return [...words, { role: "assistant", content: null, tool_calls: calls }];
    }
    default:
      return [{ role: message.role, content: message.content }];
  }
}

/**
 * How the answer begins: with thoughts that were `given`, or where thinking was asked for or forbidden.
 * Models that think know both tokens.
 */
function thoughtOf(
  { thinking, chat_template_kwargs: kwargs }: Spoken,
  given: string,
  tokenizer: Tokenizer,
): { readonly ids: readonly number[]; readonly open: boolean } {
  const asked = thinking ? thinking.type !== "disabled" : kwargs?.thinking;
  const { thinkBegin, thinkEnd } = tokenizer.special;
  if ((asked || given !== "") && (thinkBegin === undefined || thinkEnd === undefined)) {
    throw badRequest("thinking", "this model's vocabulary has no <think>", "unsupported_parameter");
  }
  if (given !== "") {
    return { ids: [thinkBegin!, ...tokenizer.encode(given), thinkEnd!], open: false };
  }
  if (asked) return { ids: [thinkBegin!], open: true };
  return { ids: asked === false && thinkEnd !== undefined ? [thinkEnd] : [], open: false };
}
