/** What clients may send. Unknown fields are let pass, as clients send many; wrong values are not. */
import { z } from "zod";
import { ApiError } from "./errors.ts";

/** OpenAI allows four; DeepSeek sixteen. */
const stop = z
  .union([z.string(), z.array(z.string()).max(16)])
  .nullish()
  .transform((value) => (value == null ? [] : typeof value === "string" ? [value] : value));

const number = (low: number, high: number) => z.number().min(low).max(high).nullish();
const whole = (low: number, high: number) => z.int().min(low).max(high).nullish();

/** The name of a model, as {@link Models} knows it. */
export const modelName = z.string({
  error: ({ input }) => (input === undefined ? "is missing" : "is no text"),
});

const common = {
  model: modelName,
  temperature: number(0, 2),
  top_p: number(0, 1),
  top_k: whole(-1, 2 ** 31),
  min_p: number(0, 1),
  n: whole(1, 16),
  presence_penalty: number(-2, 2),
  frequency_penalty: number(-2, 2),
  repetition_penalty: number(0.01, 100),
  logit_bias: z.record(z.string().regex(/^\d+$/), z.number().min(-100).max(100)).nullish(),
  seed: z.int().nullish(),
  stop,
  ignore_eos: z.boolean().nullish(),
  priority: z.int().nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
  /** vLLM's way to bind answers: one of these. */
  structured_outputs: z
    .union([
      z.strictObject({ json: z.unknown() }),
      z.strictObject({ regex: z.string().max(10_000) }),
      z.strictObject({ choice: z.array(z.string()).min(1).max(1000) }),
    ])
    .nullish(),
  /** Isolates cached prefixes: vLLM's name, and DeepSeek's. */
  cache_salt: z.string().max(512).nullish(),
  user_id: z.string().max(512).nullish(),
};

/** Text, or parts of text. */
const content = z.union([
  z.string(),
  z
    .array(z.object({ type: z.literal("text"), text: z.string() }))
    .transform((parts) => parts.map(({ text }) => text).join("")),
]);

const toolCall = z.object({
  id: z.string().optional(),
  type: z.literal("function").optional(),
  function: z.object({ name: z.string(), arguments: z.string() }),
});

const message = z.discriminatedUnion("role", [
  z.object({ role: z.enum(["system", "developer"]), content }),
  z.object({ role: z.literal("user"), content }),
  z.object({
    role: z.literal("assistant"),
    content: content.nullish(),
    tool_calls: z.array(toolCall).max(128).nullish(),
    /** Thoughts of earlier turns are left out of the prompt; those of a prefix are gone on from. */
    reasoning_content: z.string().nullish(),
    /** The answer goes on from this message, the last one (DeepSeek). */
    prefix: z.boolean().nullish(),
  }),
  z.object({ role: z.literal("tool"), content, tool_call_id: z.string().optional() }),
]);

const tool = z.object({
  type: z.literal("function"),
  function: z.object({
    name: z.string().regex(/^[\w-]{1,64}$/, "has letters, digits, _ and -, 64 at most"),
    description: z.string().nullish(),
    parameters: z.record(z.string(), z.unknown()).nullish(),
  }),
});

export const chatRequest = z.object({
  ...common,
  messages: z.array(message).min(1).max(4096),
  max_tokens: whole(1, 2 ** 31),
  max_completion_tokens: whole(1, 2 ** 31),
  logprobs: z.boolean().nullish(),
  top_logprobs: whole(0, 20),
  tools: z.array(tool).max(128).nullish(),
  tool_choice: z
    .union([
      z.enum(["none", "auto", "required"]),
      z.object({ type: z.literal("function"), function: z.object({ name: z.string() }) }),
    ])
    .nullish(),
  parallel_tool_calls: z.boolean().nullish(),
  /** Whether the model thinks first: DeepSeek's field, and vLLM's. */
  thinking: z.object({ type: z.enum(["enabled", "disabled"]) }).nullish(),
  chat_template_kwargs: z.object({ thinking: z.boolean().nullish() }).nullish(),
  response_format: z
    .discriminatedUnion("type", [
      z.object({ type: z.literal("text") }),
      z.object({ type: z.literal("json_object") }),
      z.object({ type: z.literal("json_schema"), json_schema: z.object({ schema: z.unknown() }) }),
    ])
    .nullish(),
});

const ids = z.array(z.int().min(0)).max(2 ** 20);

export const completionRequest = z.object({
  ...common,
  prompt: z.union([
    z.string(),
    z.array(z.string()).min(1).max(256),
    ids,
    z.array(ids).min(1).max(256),
  ]),
  suffix: z.string().nullish(),
  max_tokens: whole(1, 2 ** 31),
  logprobs: whole(0, 20),
  echo: z.boolean().nullish(),
});

export const embeddingsRequest = z.object({
  model: modelName,
  input: z.union([
    z.string(),
    z.array(z.string()).min(1).max(2048),
    ids.min(1),
    z.array(ids.min(1)).min(1).max(2048),
  ]),
  encoding_format: z.enum(["float", "base64"]).nullish(),
  /** The first so many numbers of each vector, brought to length 1 again. */
  dimensions: whole(1, 2 ** 31),
});

/** vLLM's: a text, or a conversation. */
export const tokenizeRequest = z.union([
  z.object({
    model: z.string().nullish(),
    prompt: z.string(),
    add_special_tokens: z.boolean().default(true),
  }),
  z.object({ model: z.string().nullish(), messages: z.array(message).min(1).max(4096) }),
]);

export const detokenizeRequest = z.object({ model: z.string().nullish(), tokens: ids });

export type ChatRequest = z.infer<typeof chatRequest>;
export type CompletionRequest = z.infer<typeof completionRequest>;
export type EmbeddingsRequest = z.infer<typeof embeddingsRequest>;
export type TokenizeRequest = z.infer<typeof tokenizeRequest>;
export type DetokenizeRequest = z.infer<typeof detokenizeRequest>;
export type CommonRequest = Pick<ChatRequest, keyof typeof common>;

/** Reads a body. @throws ApiError naming the first field that is wrong */
export function read<T>(schema: z.ZodType<T>, body: unknown): T {
  const { success, data, error } = schema.safeParse(body);
  if (success) return data;
  const issue = error.issues[0]!;
  const param = issue.path.join(".") || "body";
  throw new ApiError(400, `${param}: ${issue.message}`, { param, code: "invalid_value" });
}
