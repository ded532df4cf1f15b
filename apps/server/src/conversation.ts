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
  const thought = thoughtOf(request, tokenizer);
  if (tools?.forced && thought?.begins) {
    throw badRequest("tool_choice", "a call cannot be forced while the model thinks");
  }
  const prompt = [
    ...promptOf(request, tools, tokenizer),
    ...(thought ? [thought.id] : []),
    ...(tools?.forced?.ids ?? []),
  ];
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
      const thinking = thought?.begins ?? false;
      const parser = new AnswerParser({ tools: tools !== null, thinking });
      if (tools?.forced) parser.push(tools.forced.text);
      return new ChatAnswer(parser);
    },
  };
}

/** How the answer begins if thinking was asked for, or forbidden: models that think know both tokens. */
function thoughtOf(
  { thinking, chat_template_kwargs: kwargs }: ChatRequest,
  tokenizer: Tokenizer,
): { readonly id: number; readonly begins: boolean } | null {
  const begins = thinking ? thinking.type === "enabled" : kwargs?.thinking;
  if (begins === undefined || begins === null) return null;
  const id = tokenizer.special[begins ? "thinkBegin" : "thinkEnd"];
  if (id !== undefined) return { id, begins };
  if (!begins) return null;
  throw badRequest("thinking", "this model's vocabulary has no <think>", "unsupported_parameter");
}

function formatOf(format: ChatRequest["response_format"]): Format | null {
  if (format?.type === "json_object") return { type: "json" };
  if (format?.type !== "json_schema") return null;
  return { type: "schema", schema: format.json_schema.schema };
}

/** The conversation as ids, up to where the assistant goes on. */
export function promptOf(
  { messages }: Pick<ChatRequest, "messages">,
  tools: Tools | null,
  tokenizer: Tokenizer,
): Uint32Array {
  const last = messages.at(-1)!;
  const goesOn = last.role === "assistant" && last.prefix === true;
  const conversation = messages.flatMap((message): ChatMessage[] => {
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
  });
  if (tools) conversation.unshift({ role: "system", content: tools.description });
  try {
    const options = goesOn ? { continueFinalMessage: true } : { addGenerationPrompt: true };
    return encodeChat(tokenizer, conversation, options).ids;
  } catch (error) {
    throw badRequest("messages", (error as Error).message);
  }
}
