/** POST /v1/chat/completions. */
import type { Delta, Drawn, Format, GenerationRequest } from "@dsv3/serve";
import { type ChatMessage, type ChatToolCall, encodeChat, type Tokenizer } from "@dsv3/tokenizer";
import type { Context } from "hono";
import { badRequest } from "./errors.ts";
import { engineRequest, type Service, start, tokenText, usageBody } from "./generate.ts";
import { type ChatRequest, chatRequest, read } from "./schemas.ts";
import { streamRun } from "./stream.ts";

export async function chat(
  c: Context,
  service: Service,
  body: unknown,
  signal: AbortSignal,
  onError: (error: unknown) => void,
): Promise<Response> {
  const request = read(chatRequest, body);
  const { tokenizer, model } = service;
  const run = start(service, [toEngine(request, tokenizer)], signal);
  const head = {
    id: `chatcmpl-${crypto.randomUUID()}`,
    created: Math.floor(Date.now() / 1000),
    model,
  };
  const chosen = (delta: Drawn) =>
    request.logprobs ? { content: [logprobOf(tokenizer, delta)] } : null;

  if (request.stream) {
    const wantsUsage = request.stream_options?.include_usage === true;
    const chunk = (choices: readonly object[], usage: object | null = null) => ({
      ...head,
      object: "chat.completion.chunk",
      choices,
      ...(wantsUsage && { usage }),
    });
    const choice = (index: number, delta: object, logprobs: object | null, reason: string | null) =>
      chunk([{ index, delta, logprobs, finish_reason: reason }]);
    const greeting = { role: "assistant", content: "" };
    const parts = {
      first: Array.from({ length: request.n ?? 1 }, (_, i) => choice(i, greeting, null, null)),
      event(delta: Delta) {
        const logprobs = chosen(delta);
        if (delta.text === "" && !logprobs && !delta.finishReason) return null;
        const content = delta.text === "" ? {} : { content: delta.text };
        return choice(delta.choice, content, logprobs, delta.finishReason);
      },
      last: (usage: Parameters<typeof usageBody>[0]) =>
        wantsUsage ? [chunk([], usageBody(usage))] : [],
    };
    return streamRun(c, run, parts, onError);
  }

  const answers = Array.from({ length: request.n ?? 1 }, () => ({
    text: "",
    logprobs: [] as object[],
    reason: "stop" as string,
  }));
  const usage = await run.each((delta) => {
    const answer = answers[delta.choice]!;
    answer.text += delta.text;
    answer.logprobs.push(...(chosen(delta)?.content ?? []));
    answer.reason = delta.finishReason ?? answer.reason;
  });
  return c.json({
    ...head,
    object: "chat.completion",
    choices: answers.map(({ text, logprobs, reason }, index) => ({
      index,
      message: { role: "assistant", content: text, refusal: null },
      logprobs: request.logprobs ? { content: logprobs, refusal: null } : null,
      finish_reason: reason,
    })),
    usage: usageBody(usage),
  });
}

function toEngine(request: ChatRequest, tokenizer: Tokenizer): GenerationRequest {
  if (request.tools && request.tools.length > 0) {
    throw badRequest("tools", "this server does not parse tool calls", "unsupported_parameter");
  }
  const format = formatOf(request.response_format);
  if (format && request.structured_outputs) {
    throw badRequest("response_format", "is given beside structured_outputs; give one of them");
  }
  if (request.top_logprobs && !request.logprobs) {
    throw badRequest("top_logprobs", "needs logprobs: true");
  }
  return engineRequest(request, promptOf(request, tokenizer), {
    ...((request.max_completion_tokens ?? request.max_tokens) && {
      maxTokens: (request.max_completion_tokens ?? request.max_tokens)!,
    }),
    ...(format && { format }),
    ...(request.logprobs && { logprobs: request.top_logprobs ?? 0 }),
  });
}

function formatOf(format: ChatRequest["response_format"]): Format | null {
  if (format?.type === "json_object") return { type: "json" };
  if (format?.type !== "json_schema") return null;
  return { type: "schema", schema: format.json_schema.schema };
}

/** The conversation as ids, up to where the assistant goes on. */
function promptOf({ messages }: ChatRequest, tokenizer: Tokenizer): Uint32Array {
  const last = messages.at(-1)!;
  const goesOn = last.role === "assistant" && last.prefix === true;
  const conversation = messages.map((message): ChatMessage => {
    switch (message.role) {
      case "system":
      case "developer":
        return { role: "system", content: message.content };
      case "assistant":
        return {
          role: "assistant",
          content: message.content ?? null,
          tool_calls: (message.tool_calls ?? null) as readonly ChatToolCall[] | null,
        };
      default:
        return { role: message.role, content: message.content };
    }
  });
  try {
    const options = goesOn ? { continueFinalMessage: true } : { addGenerationPrompt: true };
    return encodeChat(tokenizer, conversation, options).ids;
  } catch (error) {
    throw badRequest("messages", (error as Error).message);
  }
}

function logprobOf(tokenizer: Tokenizer, { token, logprob, top }: Drawn): object {
  const one = (id: number, logprob: number) => ({ ...tokenText(tokenizer, id), logprob });
  return {
    ...one(token, logprob),
    top_logprobs: top.map((t) => one(t.token, t.logprob)),
  };
}
