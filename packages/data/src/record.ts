/** What one record of a dataset says: a text, or a conversation in any of the usual spellings. */
import type { ChatMessage } from "@dsv3/tokenizer";

/** A document to learn whole, or a conversation to learn the assistant's part of. */
export type Sample =
  | { readonly text: string; readonly source?: string }
  | { readonly messages: readonly ChatMessage[]; readonly source?: string };

type Role = ChatMessage["role"];

/** ShareGPT's names, and the names that its descendants use. */
const ROLES: Readonly<Record<string, Role>> = {
  system: "system",
  developer: "system",
  user: "user",
  human: "user",
  assistant: "assistant",
  gpt: "assistant",
  model: "assistant",
  tool: "tool",
  observation: "tool",
};

/** The fields that `readRecord` looks at. */
export const RECORD_FIELDS = [
  "text",
  "content",
  "messages",
  "conversations",
  "instruction",
  "input",
  "output",
  "prompt",
  "completion",
  "source",
] as const;

/**
 * Reads a record: `{ text }` or `{ content }`; OpenAI's `{ messages }`; ShareGPT's
 * `{ conversations: [{ from, value }] }`; Alpaca's `{ instruction, input, output }`;
 * `{ prompt, completion }`, each a text or a list of messages. `source`, where given, is kept.
 * @throws TypeError that names the field which is not as it should be
 */
export function readRecord(record: unknown): Sample {
  if (!isObject(record)) throw new TypeError(`expected an object, found ${kind(record)}`);
  const source = typeof record.source === "string" ? { source: record.source } : {};
  if ("messages" in record)
    return { messages: messageList(record.messages, "messages"), ...source };
  if ("conversations" in record) {
    return { messages: messageList(record.conversations, "conversations"), ...source };
  }
  if ("instruction" in record) {
    const input = record.input === undefined ? "" : text(record.input, "input");
    const instruction = text(record.instruction, "instruction");
    const user = input === "" ? instruction : `${instruction}\n\n${input}`;
    const output = text(record.output, "output");
    return { messages: exchange(user, output), ...source };
  }
  if ("prompt" in record) return { messages: promptAndCompletion(record), ...source };
  if ("text" in record) return { text: text(record.text, "text"), ...source };
  if ("content" in record) return { text: text(record.content, "content"), ...source };
  throw new TypeError(
    `expected text, content, messages, conversations, instruction or prompt; found ${
      Object.keys(record).slice(0, 8).join(", ") || "no fields"
    }`,
  );
}

function promptAndCompletion(record: Record<string, unknown>): ChatMessage[] {
  const prompt = Array.isArray(record.prompt)
    ? messageList(record.prompt, "prompt")
    : [{ role: "user" as const, content: text(record.prompt, "prompt") }];
  const completion = Array.isArray(record.completion)
    ? messageList(record.completion, "completion")
    : [{ role: "assistant" as const, content: text(record.completion, "completion") }];
  return [...prompt, ...completion];
}

function exchange(user: string, assistant: string): ChatMessage[] {
  return [
    { role: "user", content: user },
    { role: "assistant", content: assistant },
  ];
}

function messageList(value: unknown, field: string): ChatMessage[] {
  if (!Array.isArray(value)) throw new TypeError(`${field}: expected a list, found ${kind(value)}`);
  if (value.length === 0) throw new TypeError(`${field}: the list is empty`);
  return value.map((entry, i) => message(entry, `${field}[${i}]`));
}

function message(value: unknown, field: string): ChatMessage {
  if (!isObject(value)) throw new TypeError(`${field}: expected an object, found ${kind(value)}`);
  const name = value.role ?? value.from;
  const role = typeof name === "string" ? lookup(name) : undefined;
  if (role === undefined) {
    throw new TypeError(
      `${field}: unknown role ${JSON.stringify(name)}; known are ${Object.keys(ROLES).join(", ")}`,
    );
  }
  const calls = value.tool_calls;
  const content = value.content ?? value.value;
  if (role === "assistant" && Array.isArray(calls) && calls.length > 0) {
    const said = content === undefined || content === null ? null : words(content, field);
    const toolCalls = calls.map((call, i) => toolCall(call, `${field}.tool_calls[${i}]`));
    return { role, content: said, tool_calls: toolCalls };
  }
  return { role, content: words(content, field) };
}

const lookup = (name: string): Role | undefined =>
  Object.hasOwn(ROLES, name) ? ROLES[name] : undefined;

function toolCall(value: unknown, field: string) {
  const called = isObject(value) ? value.function : undefined;
  if (!isObject(called)) throw new TypeError(`${field}: expected an object with "function"`);
  const args = called.arguments;
  return {
    type: "function",
    function: {
      name: text(called.name, `${field}.function.name`),
      // Some datasets keep the arguments parsed.
      arguments: isObject(args) ? JSON.stringify(args) : text(args, `${field}.function.arguments`),
    },
  };
}

/** A content: a text, or OpenAI's list of text parts. */
function words(value: unknown, field: string): string {
  if (!Array.isArray(value)) return text(value, `${field}.content`);
  return value
    .map((part, i) => {
      if (isObject(part) && part.type === "text") return text(part.text, `${field}.content[${i}]`);
      throw new TypeError(`${field}.content[${i}]: only parts of type "text" can be learned`);
    })
    .join("");
}

function text(value: unknown, field: string): string {
  if (typeof value !== "string") {
    throw new TypeError(`${field}: expected a text, found ${kind(value)}`);
  }
  return value;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function kind(value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  return Array.isArray(value) ? "a list" : `a ${typeof value}`;
}
