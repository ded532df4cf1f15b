/** POST /v1/messages and /v1/messages/count_tokens: Anthropic's interface to conversations. */
import type { AnswerEvent, Usage } from "@dsv3/serve";
import { converse } from "./conversation.ts";
import type { Service } from "./generate.ts";
import type { CountRequest, MessagesRequest } from "./messages-schemas.ts";
import { type ChatRequest, chatRequest, read } from "./schemas.ts";
import type { Reply } from "./stream.ts";
import type { Said, Talker } from "./talk.ts";

export async function messages(
  talker: Talker,
  request: MessagesRequest,
  signal: AbortSignal,
): Promise<Reply> {
  const { answer, promptTokens, run } = await talker.talk(toChat(request), signal);
  const head = {
    id: `msg_${crypto.randomUUID().replaceAll("-", "")}`,
    type: "message",
    role: "assistant",
    model: talker.model,
  };
  if (request.stream) {
    const blocks = new Blocks(answer);
    const message = {
      ...head,
      content: [],
      stop_reason: null,
      stop_sequence: null,
      usage: usageOf({ promptTokens: promptTokens ?? 0, cachedTokens: 0, completionTokens: 0 }),
    };
    const parts = {
      named: true,
      first: [{ type: "message_start", message }],
      event: (said: readonly AnswerEvent[]) => blocks.events(said),
      last: (usage: Usage) => [
        ...blocks.close(),
        { type: "message_delta", delta: endOf(answer), usage: usageOf(usage) },
        { type: "message_stop" },
      ],
    };
    return { run, ...parts };
  }
  const usage = await run.each(() => {});
  return { body: { ...head, content: contentOf(answer), ...endOf(answer), usage: usageOf(usage) } };
}

/** What a conversation's prompt costs. */
export function countTokens({ tokenizer }: Service, request: CountRequest): Reply {
  const { prompt } = converse(toChat(request), tokenizer).request;
  return { body: { input_tokens: prompt.length } };
}

/** The same request in OpenAI's terms, checked by the same rules. */
export function toChat(request: CountRequest & Partial<MessagesRequest>): ChatRequest {
  const { system, messages, tools, tool_choice: choice, thinking } = request;
  const last = messages.at(-1);
  return read(chatRequest, {
    model: request.model,
    messages: [
      ...(system ? [{ role: "system", content: system }] : []),
      ...messages.flatMap(({ role, content }) =>
        role === "user" ? userMessages(content) : [assistantMessage(content)],
      ),
    ].map((message, i, all) => {
      // Anthropic's way to have an answer go on from given words.
      return i === all.length - 1 && last?.role === "assistant"
        ? { ...message, prefix: true }
        : message;
    }),
    max_tokens: request.max_tokens,
    stop: request.stop_sequences,
    stream: request.stream,
    temperature: request.temperature,
    top_p: request.top_p,
    top_k: request.top_k,
    user_id: request.metadata?.user_id,
    tools: tools?.map(({ name, description, input_schema }) => ({
      type: "function",
      function: { name, description, parameters: input_schema },
    })),
    tool_choice: choice && toolChoice(choice),
    ...(choice?.disable_parallel_tool_use && { parallel_tool_calls: false }),
    thinking: thinking && { type: thinking.type === "disabled" ? "disabled" : "enabled" },
  });
}

type Content = CountRequest["messages"][number]["content"];

/** Results stand beside words in Anthropic's messages; OpenAI has a message for each. */
function userMessages(content: Content): object[] {
  if (typeof content === "string") return [{ role: "user", content }];
  return content.flatMap((block): object[] => {
    if (block.type === "text") return [{ role: "user", content: block.text }];
    if (block.type !== "tool_result") return [];
    return [{ role: "tool", tool_call_id: block.tool_use_id, content: block.content }];
  });
}

function assistantMessage(content: Content): object {
  if (typeof content === "string") return { role: "assistant", content };
  const texts = content.filter((block) => block.type === "text");
  const calls = content.filter((block) => block.type === "tool_use");
  return {
    role: "assistant",
    content: texts.map(({ text }) => text).join(""),
    tool_calls: calls.map(({ id, name, input }) => {
      return { id, type: "function", function: { name, arguments: JSON.stringify(input) } };
    }),
  };
}

function toolChoice(choice: NonNullable<MessagesRequest["tool_choice"]>): unknown {
  if (choice.type === "tool") return { type: "function", function: { name: choice.name } };
  return choice.type === "any" ? "required" : choice.type;
}

/** The parts of an answer, as the events of Anthropic's streams: one block after another. */
class Blocks {
  readonly #answer: Said;
  /** What the open block holds, or which call; null: none is open. */
  #open: "text" | "thinking" | number | null = null;
  #index = -1;

  constructor(answer: Said) {
    this.#answer = answer;
  }

  events(said: readonly AnswerEvent[]): object[] {
    return said.flatMap((event) => this.#event(event));
  }

  #event(event: AnswerEvent): object[] {
    switch (event.type) {
      case "content":
        return [
          ...this.#enter("text", { type: "text", text: "" }),
          this.#delta({ type: "text_delta", text: event.text }),
        ];
      case "reasoning":
        return [
          ...this.#enter("thinking", { type: "thinking", thinking: "", signature: "" }),
          this.#delta({ type: "thinking_delta", thinking: event.text }),
        ];
      case "call": {
        const { id, name } = this.#answer.calls[event.call]!;
        return this.#enter(event.call, { type: "tool_use", id, name, input: {} });
      }
      case "arguments":
        return [this.#delta({ type: "input_json_delta", partial_json: event.text })];
    }
  }

  close(): object[] {
    if (this.#open === null) return [];
    this.#open = null;
    return [{ type: "content_block_stop", index: this.#index }];
  }

  #enter(block: "text" | "thinking" | number, content_block: object): object[] {
    if (this.#open === block) return [];
    const closed = this.close();
    this.#open = block;
    return [...closed, { type: "content_block_start", index: ++this.#index, content_block }];
  }

  #delta(delta: object): object {
    return { type: "content_block_delta", index: this.#index, delta };
  }
}

function contentOf({ reasoning, content, calls }: Said): object[] {
  return [
    ...(reasoning ? [{ type: "thinking", thinking: reasoning, signature: "" }] : []),
    ...(content ? [{ type: "text", text: content }] : []),
    ...calls.map(({ id, name, arguments: args }) => {
      return { type: "tool_use", id, name, input: objectOf(args) };
    }),
  ];
}

/** Arguments that were cut off, or are no JSON, cannot be told here: streams show them as they are. */
function objectOf(args: string): unknown {
  try {
    return JSON.parse(args);
  } catch (error) {
    if (error instanceof SyntaxError) return {};
    throw error;
  }
}

function endOf({ reason, stopped }: Said): object {
  const sequence = typeof stopped === "string" ? stopped : null;
  const reasons = { stop: "end_turn", length: "max_tokens", tool_calls: "tool_use" } as const;
  return {
    stop_reason: sequence === null ? reasons[reason!] : "stop_sequence",
    stop_sequence: sequence,
  };
}

/** Anthropic counts what was found in the cache beside the rest, not within it. */
function usageOf({ promptTokens, cachedTokens, completionTokens }: Usage): object {
  return {
    input_tokens: promptTokens - cachedTokens,
    cache_read_input_tokens: cachedTokens,
    cache_creation_input_tokens: 0,
    output_tokens: completionTokens,
  };
}
