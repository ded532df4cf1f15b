/** POST /v1/responses: OpenAI's newer interface to conversations. Nothing is stored. */
import type { AnswerEvent, Usage } from "@dsv3/serve";
import type { ApiError } from "./errors.ts";
import type { ResponsesRequest } from "./responses-schemas.ts";
import { type ChatRequest, chatRequest, read } from "./schemas.ts";
import type { Reply } from "./stream.ts";
import type { Said, Talker } from "./talk.ts";

export async function responses(
  talker: Talker,
  request: ResponsesRequest,
  signal: AbortSignal,
): Promise<Reply> {
  const { answer, run } = await talker.talk(toChat(request), signal);
  const items = new Items(answer);
  const head = {
    id: id("resp"),
    object: "response",
    created_at: Math.floor(Date.now() / 1000),
    model: talker.model,
    access_programs: null,
    error: null,
    instructions: request.instructions ?? null,
    max_output_tokens: request.max_output_tokens ?? null,
    metadata: request.metadata ?? {},
    parallel_tool_calls: request.parallel_tool_calls ?? true,
    previous_response_id: null,
    store: false,
    temperature: request.temperature ?? 1,
    text: request.text ?? { format: { type: "text" } },
    tool_choice: request.tool_choice ?? "auto",
    tools: request.tools ?? [],
    top_p: request.top_p ?? 1,
    truncation: "disabled",
  };
  const end = () => (answer.reason === "length" ? "incomplete" : "completed");
  const whole = (usage: Usage) => ({
    ...head,
    status: end(),
    completed_at: end() === "completed" ? Math.floor(Date.now() / 1000) : null,
    incomplete_details: answer.reason === "length" ? { reason: "max_output_tokens" } : null,
    output: items.list,
    usage: usageOf(usage, answer),
  });
  if (request.stream) {
    const begun = { ...head, status: "in_progress", incomplete_details: null, output: [] };
    let sequence_number = 0;
    const numbered = (events: readonly object[]) =>
      events.map((event) => ({ ...event, sequence_number: sequence_number++ }));
    const parts = {
      named: true,
      first: numbered([
        { type: "response.created", response: { ...begun, usage: null } },
        { type: "response.in_progress", response: { ...begun, usage: null } },
      ]),
      event: (said: readonly AnswerEvent[]) => numbered(items.take(said)),
      last: (usage: Usage) => {
        const closed = items.close(end());
        const response = whole(usage);
        return numbered([...closed, { type: `response.${response.status}`, response }]);
      },
      failed: ({ code, message, param }: ApiError) =>
        numbered([{ type: "error", code, message, param }])[0]!,
    };
    return { run, ...parts };
  }
  const usage = await run.each((said) => {
    items.take(said);
  });
  items.close(end());
  return { body: whole(usage) };
}

/** The same request in the terms of chat completions, checked by the same rules. */
function toChat(request: ResponsesRequest): ChatRequest {
  const { instructions, input, text, tools, tool_choice: choice } = request;
  const format = text?.format;
  return read(chatRequest, {
    model: request.model,
    messages: [
      ...(instructions ? [{ role: "system", content: instructions }] : []),
      ...(typeof input === "string" ? [{ role: "user", content: input }] : messagesOf(input)),
    ],
    max_tokens: request.max_output_tokens,
    temperature: request.temperature,
    top_p: request.top_p,
    user_id: request.prompt_cache_key,
    parallel_tool_calls: request.parallel_tool_calls,
    tools: tools?.map(({ type, name, description, parameters }) => {
      return { type, function: { name, description, parameters } };
    }),
    tool_choice:
      typeof choice === "object" && choice !== null
        ? { type: "function", function: { name: choice.name } }
        : choice,
    response_format:
      format?.type === "json_schema" ? { type: format.type, json_schema: format } : format,
  });
}

function messagesOf(input: Exclude<ResponsesRequest["input"], string>): object[] {
  const messages: {
    role: string;
    content: string | null;
    tool_call_id?: string;
    tool_calls?: object[];
  }[] = [];
  for (const item of input) {
    if ("role" in item) messages.push({ role: item.role, content: item.content });
    else if (item.type === "function_call_output") {
      messages.push({ role: "tool", tool_call_id: item.call_id, content: item.output });
    } else if (item.type === "function_call") {
      const { call_id, name, arguments: args } = item;
      const call = { id: call_id, type: "function", function: { name, arguments: args } };
      // Calls that follow each other were made at once.
      const last = messages.at(-1);
      if (last?.tool_calls) last.tool_calls.push(call);
      else messages.push({ role: "assistant", content: null, tool_calls: [call] });
    }
  }
  return messages;
}

type Status = "in_progress" | "completed" | "incomplete";
type Kind = "reasoning" | "message" | "function_call";

/** An item of an answer: its text, thought or arguments grow until another begins. */
interface Item {
  readonly kind: Kind;
  readonly id: string;
  readonly call: { readonly id: string; readonly name: string } | null;
  text: string;
}

/** The items of an answer, one after another, and the events that tell of them. */
class Items {
  readonly #answer: Said;
  readonly list: object[] = [];
  #open: Item | null = null;

  constructor(answer: Said) {
    this.#answer = answer;
  }

  take(said: readonly AnswerEvent[]): object[] {
    return said.flatMap((event) => {
      if (event.type === "call") {
        return [...this.close(), ...this.#begin("function_call", this.#answer.calls[event.call]!)];
      }
      const kinds = { content: "message", reasoning: "reasoning", arguments: "function_call" };
      const kind = kinds[event.type] as Kind;
      const begun = this.#open?.kind === kind ? [] : [...this.close(), ...this.#begin(kind, null)];
      return [...begun, this.#grow(event.text)];
    });
  }

  /** Ends the item that grows. */
  close(status: Status = "completed"): object[] {
    const item = this.#open;
    if (item === null) return [];
    this.#open = null;
    const place = this.#place(item);
    const full = bodyOf(item, status);
    this.list.push(full);
    const { kind, text } = item;
    const done = {
      type: "response.output_item.done",
      output_index: place.output_index,
      item: full,
    };
    if (kind === "function_call") {
      const args = { name: item.call!.name, arguments: text };
      return [{ type: "response.function_call_arguments.done", ...place, ...args }, done];
    }
    const at = { ...place, content_index: 0 };
    if (kind === "reasoning") return [{ type: "response.reasoning_text.done", ...at, text }, done];
    return [
      { type: "response.output_text.done", ...at, text, logprobs: [] },
      { type: "response.content_part.done", ...at, part: textPart(text) },
      done,
    ];
  }

  #begin(kind: Kind, call: Item["call"]): object[] {
    const prefix = { reasoning: "rs", message: "msg", function_call: "fc" }[kind];
    const item: Item = { kind, id: id(prefix), call, text: "" };
    this.#open = item;
    const place = this.#place(item);
    const added = {
      type: "response.output_item.added",
      output_index: place.output_index,
      item: bodyOf(item, "in_progress"),
    };
    if (kind !== "message") return [added];
    const part = { ...place, content_index: 0, part: textPart("") };
    return [added, { type: "response.content_part.added", ...part }];
  }

  #grow(delta: string): object {
    const item = this.#open!;
    item.text += delta;
    const place = this.#place(item);
    if (item.kind === "function_call") {
      return { type: "response.function_call_arguments.delta", ...place, delta };
    }
    const at = { ...place, content_index: 0, delta };
    if (item.kind === "reasoning") return { type: "response.reasoning_text.delta", ...at };
    return { type: "response.output_text.delta", ...at, logprobs: [] };
  }

  #place(item: Item): { item_id: string; output_index: number } {
    return { item_id: item.id, output_index: this.list.length };
  }
}

function bodyOf({ kind, id, call, text }: Item, status: Status): object {
  const head = { id, type: kind, status };
  if (kind === "function_call") {
    return { ...head, call_id: call!.id, name: call!.name, arguments: text };
  }
  const begun = text === "" && status === "in_progress";
  if (kind === "reasoning") {
    return { ...head, summary: [], content: begun ? [] : [{ type: "reasoning_text", text }] };
  }
  return { ...head, role: "assistant", content: begun ? [] : [textPart(text)] };
}

function textPart(text: string): object {
  return { type: "output_text", text, annotations: [], logprobs: [] };
}

function usageOf(usage: Usage, { reasoningTokens }: Said): object {
  const { promptTokens, cachedTokens, completionTokens } = usage;
  return {
    input_tokens: promptTokens,
    input_tokens_details: { cached_tokens: cachedTokens, cache_write_tokens: 0 },
    output_tokens: completionTokens,
    output_tokens_details: { reasoning_tokens: reasoningTokens },
    total_tokens: promptTokens + completionTokens,
  };
}

function id(prefix: string): string {
  return `${prefix}_${crypto.randomUUID().replaceAll("-", "")}`;
}
