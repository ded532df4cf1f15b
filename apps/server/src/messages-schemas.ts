/** What Anthropic's clients may send. Blocks that no text model can read are refused. */
import { z } from "zod";
import { modelName } from "./schemas.ts";

const text = z.object({ type: z.literal("text"), text: z.string() });

/** Text, or blocks of text. */
const texts = z.union([
  z.string(),
  z.array(text).transform((blocks) => blocks.map((block) => block.text).join("")),
]);

const block = z.discriminatedUnion("type", [
  text,
  z.object({
    type: z.literal("tool_use"),
    id: z.string(),
    name: z.string(),
    input: z.record(z.string(), z.unknown()),
  }),
  z.object({
    type: z.literal("tool_result"),
    tool_use_id: z.string(),
    content: texts.default(""),
  }),
  // Thoughts of earlier turns are not part of the prompt.
  z.object({ type: z.literal("thinking") }),
  z.object({ type: z.literal("redacted_thinking") }),
]);

const tool = z.object({
  name: z.string(),
  description: z.string().nullish(),
  input_schema: z.record(z.string(), z.unknown()),
});

const parallel = { disable_parallel_tool_use: z.boolean().nullish() };

export const countRequest = z.object({
  model: modelName,
  messages: z
    .array(
      z.object({
        role: z.enum(["user", "assistant"]),
        content: z.union([z.string(), z.array(block)]),
      }),
    )
    .min(1)
    .max(4096),
  system: texts.nullish(),
  tools: z.array(tool).max(128).nullish(),
  tool_choice: z
    .discriminatedUnion("type", [
      z.object({ type: z.enum(["auto", "any"]), ...parallel }),
      z.object({ type: z.literal("tool"), name: z.string(), ...parallel }),
      z.object({ type: z.literal("none"), disable_parallel_tool_use: z.undefined().optional() }),
    ])
    .nullish(),
  thinking: z.object({ type: z.enum(["enabled", "disabled", "adaptive"]) }).nullish(),
});

export const messagesRequest = countRequest.extend({
  max_tokens: z
    .int()
    .min(1)
    .max(2 ** 31),
  stop_sequences: z.array(z.string()).max(16).nullish(),
  stream: z.boolean().nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().min(0).max(1).nullish(),
  top_k: z
    .int()
    .min(-1)
    .max(2 ** 31)
    .nullish(),
  metadata: z.object({ user_id: z.string().max(512).nullish() }).nullish(),
});

export type CountRequest = z.infer<typeof countRequest>;
export type MessagesRequest = z.infer<typeof messagesRequest>;
