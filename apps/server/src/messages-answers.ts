/** What POST /v1/messages answers, and the events of its streams, as Anthropic has them. */
import { z } from "zod";

const count = z.int().min(0);

const usage = z.object({
  input_tokens: count.describe("tokens of the prompt that the cache did not have"),
  cache_read_input_tokens: count.describe("those that it had"),
  cache_creation_input_tokens: z.literal(0),
  output_tokens: count,
});

const text = z.object({ type: z.literal("text"), text: z.string() });
const thinking = z.object({
  type: z.literal("thinking"),
  thinking: z.string(),
  signature: z.literal(""),
});
const toolUse = z.object({
  type: z.literal("tool_use"),
  id: z.string(),
  name: z.string(),
  input: z
    .record(z.string(), z.unknown())
    .describe("empty where the arguments are no JSON, or were cut off"),
});
const block = z.discriminatedUnion("type", [text, thinking, toolUse]);

const end = {
  stop_reason: z.enum(["end_turn", "max_tokens", "stop_sequence", "tool_use"]),
  stop_sequence: z.string().nullable().describe("which of stop_sequences ended it"),
};

export const messagesAnswer = z.object({
  id: z.string(),
  type: z.literal("message"),
  role: z.literal("assistant"),
  model: z.string(),
  content: z.array(block),
  ...end,
  usage,
});

export const messagesError = z.object({
  type: z.literal("error"),
  error: z.object({ type: z.string(), message: z.string() }),
  request_id: z.string(),
});

const begun = messagesAnswer.extend({
  content: z.array(block).max(0),
  stop_reason: z.null(),
  stop_sequence: z.null(),
});

const delta = z.discriminatedUnion("type", [
  z.object({ type: z.literal("text_delta"), text: z.string() }),
  z.object({ type: z.literal("thinking_delta"), thinking: z.string() }),
  z.object({ type: z.literal("input_json_delta"), partial_json: z.string() }),
]);

export const messagesEvent = z.discriminatedUnion("type", [
  z.object({ type: z.literal("message_start"), message: begun }),
  z.object({ type: z.literal("content_block_start"), index: count, content_block: block }),
  z.object({ type: z.literal("content_block_delta"), index: count, delta }),
  z.object({ type: z.literal("content_block_stop"), index: count }),
  z.object({ type: z.literal("message_delta"), delta: z.object(end), usage }),
  z.object({ type: z.literal("message_stop") }),
]);

export const countAnswer = z.object({ input_tokens: count });
