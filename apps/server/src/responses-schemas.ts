/** What clients of OpenAI's responses may send. What would need a store is refused. */
import { z } from "zod";
import { modelName } from "./schemas.ts";

const texts = z.union([
  z.string(),
  z
    .array(z.object({ type: z.enum(["input_text", "output_text"]), text: z.string() }))
    .transform((parts) => parts.map(({ text }) => text).join("")),
]);

const item = z.union([
  z.object({
    type: z.literal("message").optional(),
    role: z.enum(["system", "developer", "user", "assistant"]),
    content: texts,
  }),
  z.object({
    type: z.literal("function_call"),
    call_id: z.string(),
    name: z.string(),
    arguments: z.string(),
  }),
  z.object({ type: z.literal("function_call_output"), call_id: z.string(), output: texts }),
  // Thoughts of earlier turns are not part of the prompt.
  z.object({ type: z.literal("reasoning") }),
]);

const unstored = "is not kept here: send the whole conversation as input";

export const responsesRequest = z.object({
  model: modelName,
  input: z
    .union([z.string(), z.array(item).min(1).max(4096)])
    .describe("a question, or the whole conversation as items"),
  instructions: z.string().nullish().describe("what the model is told before all else"),
  max_output_tokens: z
    .int()
    .min(1)
    .max(2 ** 31)
    .nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().min(0).max(1).nullish(),
  stream: z.boolean().nullish(),
  metadata: z.record(z.string(), z.string()).nullish(),
  prompt_cache_key: z.string().max(512).nullish(),
  parallel_tool_calls: z.boolean().nullish(),
  tools: z
    .array(
      z.object({
        type: z.literal("function"),
        name: z.string(),
        description: z.string().nullish(),
        parameters: z.record(z.string(), z.unknown()).nullish(),
      }),
    )
    .max(128)
    .nullish(),
  tool_choice: z
    .union([
      z.enum(["none", "auto", "required"]),
      z.object({ type: z.literal("function"), name: z.string() }),
    ])
    .nullish(),
  text: z
    .object({
      format: z
        .discriminatedUnion("type", [
          z.object({ type: z.enum(["text", "json_object"]) }),
          z.object({ type: z.literal("json_schema"), name: z.string(), schema: z.unknown() }),
        ])
        .nullish(),
    })
    .nullish(),
  previous_response_id: z.null({ error: unstored }).optional(),
  conversation: z.null({ error: unstored }).optional(),
  background: z.literal(false, { error: "is not served here" }).nullish(),
});

export type ResponsesRequest = z.infer<typeof responsesRequest>;
