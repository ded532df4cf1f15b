/** What POST /v1/responses answers, and the events of its streams. */
import { z } from "zod";

const count = z.int().min(0);

const status = z.enum(["in_progress", "completed", "incomplete"]);

const text = z.object({
  type: z.literal("output_text"),
  text: z.string(),
  annotations: z.array(z.unknown()).max(0),
  logprobs: z.array(z.unknown()).max(0),
});

const item = z.discriminatedUnion("type", [
  z.object({
    type: z.literal("message"),
    id: z.string(),
    status,
    role: z.literal("assistant"),
    content: z.array(text),
  }),
  z.object({
    type: z.literal("reasoning"),
    id: z.string(),
    status,
    summary: z.array(z.unknown()).max(0),
    content: z.array(z.object({ type: z.literal("reasoning_text"), text: z.string() })),
  }),
  z.object({
    type: z.literal("function_call"),
    id: z.string(),
    status,
    call_id: z.string(),
    name: z.string(),
    arguments: z.string().describe("JSON"),
  }),
]);

const usage = z.object({
  input_tokens: count,
  input_tokens_details: z.object({ cached_tokens: count, cache_write_tokens: count }),
  output_tokens: count,
  output_tokens_details: z.object({ reasoning_tokens: count }),
  total_tokens: count,
});

const asked = z.unknown().describe("as it was asked for");

const begun = z.object({
  id: z.string(),
  object: z.literal("response"),
  created_at: z.int(),
  status,
  model: z.string(),
  access_programs: z.null(),
  error: z.null(),
  incomplete_details: z.object({ reason: z.literal("max_output_tokens") }).nullable(),
  output: z.array(item),
  usage: usage.nullable(),
  instructions: asked,
  max_output_tokens: asked,
  metadata: asked,
  parallel_tool_calls: asked,
  temperature: asked,
  text: asked,
  tool_choice: asked,
  tools: asked,
  top_p: asked,
  previous_response_id: z.null(),
  store: z.literal(false),
  truncation: z.literal("disabled"),
});

export const responsesAnswer = begun.extend({
  status: z.enum(["completed", "incomplete"]),
  completed_at: z.int().nullable(),
  usage,
});

const event = <Type extends string, Shape extends z.ZodRawShape>(type: Type, shape: Shape) =>
  z.object({ type: z.literal(type), ...shape, sequence_number: count });

const place = { item_id: z.string(), output_index: count };
const inContent = { ...place, content_index: count };
const unscored = { logprobs: z.array(z.unknown()).max(0) };

export const responsesEvent = z.discriminatedUnion("type", [
  event("response.created", { response: begun }),
  event("response.in_progress", { response: begun }),
  event("response.output_item.added", { output_index: count, item }),
  event("response.content_part.added", { ...inContent, part: text }),
  event("response.output_text.delta", { ...inContent, delta: z.string(), ...unscored }),
  event("response.output_text.done", { ...inContent, text: z.string(), ...unscored }),
  event("response.content_part.done", { ...inContent, part: text }),
  event("response.reasoning_text.delta", { ...inContent, delta: z.string() }),
  event("response.reasoning_text.done", { ...inContent, text: z.string() }),
  event("response.function_call_arguments.delta", { ...place, delta: z.string() }),
  event("response.function_call_arguments.done", {
    ...place,
    name: z.string(),
    arguments: z.string(),
  }),
  event("response.output_item.done", { output_index: count, item }),
  event("response.completed", { response: responsesAnswer }),
  event("response.incomplete", { response: responsesAnswer }),
  event("error", {
    code: z.string().nullable(),
    message: z.string(),
    param: z.string().nullable(),
  }),
]);
