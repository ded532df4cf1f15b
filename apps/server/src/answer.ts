/** An answer to a conversation as it grows: what the model says, as OpenAI's messages have it. */
import type { AnswerEvent, AnswerParser, Delta } from "@dsv3/serve";
import type { Said } from "./talk.ts";

/** One call of a function, as it grows. */
export interface Call {
  readonly id: string;
  readonly name: string;
  arguments: string;
}

/** An answer to a conversation, as it grows: its words, thoughts and calls. */
export class ChatAnswer implements Said {
  readonly #parser: AnswerParser;
  readonly calls: Call[] = [];
  content = "";
  reasoning = "";
  reasoningTokens = 0;
  /** Null until the answer ends. */
  reason: "stop" | "length" | "tool_calls" | null = null;
  /** The stop string or id that ended it. */
  stopped: string | number | null = null;

  constructor(parser: AnswerParser) {
    this.#parser = parser;
  }

  /** Whether the next token is one of its thoughts. */
  get thinking(): boolean {
    return this.#parser.reasoning;
  }

  /** Takes a token; what it adds to the answer. */
  take({ text, finishReason, stopped }: Delta): AnswerEvent[] {
    if (this.thinking) this.reasoningTokens++;
    const said = [...this.#parser.push(text), ...(finishReason ? this.#parser.end() : [])];
    for (const event of said) {
      if (event.type === "content") this.content += event.text;
      else if (event.type === "reasoning") this.reasoning += event.text;
      else if (event.type === "arguments") this.calls[event.call]!.arguments += event.text;
      else this.calls.push({ id: `call_${crypto.randomUUID()}`, name: event.name, arguments: "" });
    }
    if (finishReason) {
      this.reason = finishReason === "stop" && this.calls.length > 0 ? "tool_calls" : finishReason;
      this.stopped = stopped;
    }
    return said;
  }

  /** What was said last, as OpenAI's streams have it. */
  changed(said: readonly AnswerEvent[]): object {
    const delta: { content?: string; reasoning_content?: string; tool_calls?: object[] } = {};
    const calls = new Map<number, { begins: boolean; text: string }>();
    for (const event of said) {
      if (event.type === "content") delta.content = (delta.content ?? "") + event.text;
      else if (event.type === "reasoning") {
        delta.reasoning_content = (delta.reasoning_content ?? "") + event.text;
      } else if (event.type === "call") calls.set(event.call, { begins: true, text: "" });
      else {
        const { begins = false, text = "" } = calls.get(event.call) ?? {};
        calls.set(event.call, { begins, text: text + event.text });
      }
    }
    if (calls.size > 0) {
      delta.tool_calls = Array.from(calls, ([index, { begins, text }]) => {
        const { id, name } = this.calls[index]!;
        if (!begins) return { index, function: { arguments: text } };
        return { index, id, type: "function", function: { name, arguments: text } };
      });
    }
    return delta;
  }

  message(): object {
    const { calls, content, reasoning } = this;
    return {
      role: "assistant",
      content: calls.length > 0 && content === "" ? null : content,
      ...(reasoning !== "" && { reasoning_content: reasoning }),
      refusal: null,
      ...(calls.length > 0 && {
        tool_calls: calls.map(({ id, name, arguments: args }, index) => {
          return { index, id, type: "function", function: { name, arguments: args } };
        }),
      }),
    };
  }
}
