import type { SpecialRole } from "./special.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** One call of a tool by the assistant, spelt as in OpenAI's interface. */
export interface ChatToolCall {
  id?: string;
  /** Default "function". */
  type?: string;
  /** `arguments` is JSON, as the model wrote it. */
  function: { name: string; arguments: string };
}

/** One message of a conversation, spelt as in OpenAI's interface. */
export type ChatMessage =
  | { role: "system" | "user"; content: string }
  | { role: "tool"; content: string; tool_call_id?: string }
  /** Without content it calls tools; beside content, DeepSeek-V3's template drops `tool_calls`. */
  | { role: "assistant"; content?: string | null; tool_calls?: readonly ChatToolCall[] | null };

export interface ChatOptions {
  /** End with the token that asks the assistant to speak. Default false. */
  addGenerationPrompt?: boolean;
  /**
   * Leave the last message, which must be the assistant's, open, so that the model goes on from
   * where it stops ("prefix completion"). Default false.
   */
  continueFinalMessage?: boolean;
}

/** A conversation as token ids. */
export interface EncodedChat {
  ids: Uint32Array;
  /**
   * 1 where the assistant said the token: its words, its tool calls, its end of sentence; 0 where
   * it was given. This is what a loss is taken over. [ids.length]
   */
  mask: Uint8Array;
}

/** A control token or a stretch of text. Only the template makes control tokens. */
type Piece = ({ special: SpecialRole } | { text: string }) & { said: boolean };

/**
 * A conversation in DeepSeek-V3's format as ids, with the mask of what the assistant said. Control
 * tokens come from the template alone: whatever stands in a message becomes ordinary tokens.
 * @throws for a message that is not one, with its index; for a vocabulary without a token needed
 */
export function encodeChat(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): EncodedChat {
  const pieces = render(messages, options).map((piece) => ({
    said: piece.said,
    ids: "special" in piece ? [tokenizer.specialId(piece.special)] : tokenizer.encode(piece.text),
  }));
  const length = pieces.reduce((sum, { ids }) => sum + ids.length, 0);
  const ids = new Uint32Array(length);
  const mask = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    ids.set(piece.ids, at);
    mask.fill(piece.said ? 1 : 0, at, at + piece.ids.length);
    at += piece.ids.length;
  }
  return { ids, mask };
}

/**
 * A conversation in DeepSeek-V3's format as text, to be read. Do not encode it: a control token
 * that somebody wrote into a message looks here like one of the template's. See {@link encodeChat}.
 */
export function formatChat(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): string {
  return render(messages, options)
    .map((piece) =>
      "special" in piece ? tokenizer.decode([tokenizer.specialId(piece.special)]) : piece.text,
    )
    .join("");
}

/**
 * The template of DeepSeek-V3's tokenizer_config.json, to the letter. It has quirks, which the
 * released weights have seen, so we keep them: system messages gather at the front; the calls of a
 * message are closed only after its second and each later one; only the first calls, and the first
 * outputs, of a conversation are opened.
 */
function render(messages: readonly ChatMessage[], options: ChatOptions): Piece[] {
  for (const [index, message] of messages.entries()) checkMessage(message, index);
  const pieces = new Pieces();
  const system = messages.filter(({ role }) => role === "system");
  pieces.special("bos");
  pieces.text(system.map(({ content }) => content).join("\n\n"));

  let callsOpened = false;
  let outputsOpened = false;
  let afterOutputs = false;
  for (const message of messages) {
    if (message.role === "user") {
      afterOutputs = false;
      pieces.special("user");
      pieces.text(message.content);
    } else if (message.role === "tool") {
      if (!outputsOpened) pieces.special("toolOutputsBegin");
      else pieces.text("\n");
      pieces.special("toolOutputBegin");
      pieces.text(message.content);
      pieces.special("toolOutputEnd");
      outputsOpened = true;
      afterOutputs = true;
    } else if (message.role === "assistant" && typeof message.content === "string") {
      pieces.special(afterOutputs ? "toolOutputsEnd" : "assistant");
      pieces.text(message.content, true);
      pieces.special("eos", true);
      afterOutputs = false;
    } else if (message.role === "assistant") {
      afterOutputs = false;
      for (const [index, call] of (message.tool_calls ?? []).entries()) {
        const later = callsOpened;
        if (later) {
          // Before a message's first call the template wrote the line break, not the assistant.
          pieces.text("\n", index > 0);
        } else {
          pieces.special("assistant");
          pieces.special("toolCallsBegin", true);
        }
        pushCall(pieces, call);
        if (later) {
          pieces.special("toolCallsEnd", true);
          pieces.special("eos", true);
        }
        callsOpened = true;
      }
    }
  }
  if (options.continueFinalMessage) openFinalMessage(pieces, messages, options);
  if (afterOutputs) pieces.special("toolOutputsEnd");
  else if (options.addGenerationPrompt) pieces.special("assistant");
  return pieces.list;
}

function pushCall(pieces: Pieces, call: ChatToolCall): void {
  pieces.special("toolCallBegin", true);
  pieces.text(call.type ?? "function", true);
  pieces.special("toolSep", true);
  pieces.text(`${call.function.name}\n\`\`\`json\n${call.function.arguments}\n\`\`\``, true);
  pieces.special("toolCallEnd", true);
}

/** Takes the end of sentence away from a last message of the assistant's. */
function openFinalMessage(
  pieces: Pieces,
  messages: readonly ChatMessage[],
  options: ChatOptions,
): void {
  if (options.addGenerationPrompt) {
    throw new Error(
      "continueFinalMessage and addGenerationPrompt are both given: the assistant either goes on or starts anew",
    );
  }
  const last = messages.at(-1);
  if (last?.role !== "assistant" || typeof last.content !== "string") {
    throw new Error(
      "continueFinalMessage: the last message is not the assistant's with a text to go on from",
    );
  }
  pieces.list.pop();
}

/** Grows by tokens and texts. Texts that touch become one, for they are merged over the border. */
class Pieces {
  readonly list: Piece[] = [];

  special(special: SpecialRole, said = false): void {
    this.list.push({ special, said });
  }

  text(text: string, said = false): void {
    if (text === "") return;
    const last = this.list.at(-1);
    if (last !== undefined && "text" in last && last.said === said) last.text += text;
    else this.list.push({ text, said });
  }
}

/** Conversations come from files and from the network, so the types promise nothing. */
function checkMessage(message: ChatMessage, index: number): void {
  const where = `message ${index}`;
  const raw = message as { role?: unknown; content?: unknown; tool_calls?: unknown } | null;
  if (typeof raw !== "object" || raw === null) throw new Error(`${where} is not an object`);
  const { role, content } = raw;
  if (role !== "system" && role !== "user" && role !== "assistant" && role !== "tool") {
    throw new Error(
      `${where} has the role ${JSON.stringify(role)}; expected system, user, assistant or tool`,
    );
  }
  if (typeof content === "string") return;
  if (role !== "assistant" || (content !== null && content !== undefined)) {
    throw new Error(
      `${where} (${role}): content is ${Array.isArray(content) ? "an array" : typeof content}, expected a string`,
    );
  }
  const calls = raw.tool_calls;
  if (!Array.isArray(calls) || calls.length === 0) {
    throw new Error(`${where} (assistant) has neither content nor tool_calls`);
  }
  for (const [k, call] of calls.entries()) {
    const { type = "function", function: fn } = (call ?? {}) as Partial<ChatToolCall>;
    if (
      typeof type !== "string" ||
      typeof fn?.name !== "string" ||
      typeof fn.arguments !== "string"
    ) {
      throw new Error(
        `${where} (assistant): tool_calls[${k}] needs function.name and function.arguments, both strings (arguments as JSON text)`,
      );
    }
  }
}
