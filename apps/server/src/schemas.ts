/** What clients may send. Unknown fields are let pass, as clients send many; wrong values are not. */
import { z } from "zod";
import { ApiError } from "./errors.ts";

/** OpenAI allows four; DeepSeek sixteen. */
const stop = z
  .union([z.string(), z.array(z.string()).max(16)])
  .nullish()
  .transform((value) => (value == null ? [] : typeof value === "string" ? [value] : value))
  .describe("texts that end an answer, which stops before them");

const number = (low: number, high: number) => z.number().min(low).max(high).nullish();
const whole = (low: number, high: number) => z.int().min(low).max(high).nullish();

/** The name of a model, as {@link Models} knows it. */
export const modelName = z
  .string({ error: ({ input }) => (input === undefined ? "is missing" : "is no text") })
  .describe("one of /v1/models");

const common = {
  model: modelName,
  temperature: number(0, 2).describe(
    "how wild answers are; 0 takes the likeliest token, 1 is the model as it is",
  ),
  top_p: number(0, 1).describe("draws from the fewest tokens that together have this probability"),
  top_k: whole(-1, 2 ** 31).describe("draws from so many likeliest tokens; 0 and -1 from all"),
  min_p: number(0, 1).describe(
    "draws from tokens at least this many times as likely as the likeliest",
  ),
  n: whole(1, 16).describe("answers to the same request"),
  presence_penalty: number(-2, 2).describe(
    "taken from the logits of tokens that were said already",
  ),
  frequency_penalty: number(-2, 2).describe("taken for each time that they were said"),
  repetition_penalty: number(0.01, 100).describe(
    "divides the logits of tokens of prompt and answer",
  ),
  logit_bias: z
    .record(z.string().regex(/^\d+$/), z.number().min(-100).max(100))
    .nullish()
    .describe("added to the logits of tokens, by their ids"),
  seed: z.int().nullish().describe("the same seed gives the same answer, whoever else is served"),
  stop,
  ignore_eos: z.boolean().nullish().describe("goes on after the model has ended"),
  priority: z.int().nullish().describe("lower is served first"),
  stream: z.boolean().nullish().describe("answers come as events, while they are made"),
  stream_options: z
    .object({ include_usage: z.boolean().nullish() })
    .nullish()
    .describe("with include_usage, a last event counts tokens"),
  structured_outputs: z
    .union([
      z.strictObject({ json: z.unknown() }),
      z.strictObject({ regex: z.string().max(10_000) }),
      z.strictObject({ choice: z.array(z.string()).min(1).max(1000) }),
      z.strictObject({ grammar: z.string().max(100_000) }),
    ])
    .nullish()
    .describe("binds answers to a schema, an expression, one of some texts or a grammar (vLLM)"),
  cache_salt: z
    .string()
    .max(512)
    .nullish()
    .describe("requests share cached prefixes only with those of the same salt (vLLM)"),
  user_id: z.string().max(512).nullish().describe("the same, by DeepSeek's name"),
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
  messages: z
    .array(message)
    .min(1)
    .max(4096)
    .describe("the conversation; a last message with prefix: true is gone on from"),
  max_tokens: whole(1, 2 ** 31).describe("the longest answer; to the context's end if not given"),
  max_completion_tokens: whole(1, 2 ** 31).describe("the same"),
  logprobs: z.boolean().nullish().describe("log-probabilities of the tokens of the answer"),
  top_logprobs: whole(0, 20).describe("and of so many likeliest in their places; needs logprobs"),
  tools: z.array(tool).max(128).nullish().describe("functions that the model may call"),
  tool_choice: z
    .union([
      z.enum(["none", "auto", "required"]),
      z.object({ type: z.literal("function"), function: z.object({ name: z.string() }) }),
    ])
    .nullish(),
  parallel_tool_calls: z.boolean().nullish().describe("false ends after the first call"),
  thinking: z
    .object({ type: z.enum(["enabled", "disabled", "adaptive"]) })
    .nullish()
    .describe("whether the model thinks first (DeepSeek)"),
  chat_template_kwargs: z
    .object({ thinking: z.boolean().nullish() })
    .nullish()
    .describe("the same (vLLM)"),
  response_format: z
    .discriminatedUnion("type", [
      z.object({ type: z.literal("text") }),
      z.object({ type: z.literal("json_object") }),
      z.object({ type: z.literal("json_schema"), json_schema: z.object({ schema: z.unknown() }) }),
    ])
    .nullish()
    .describe("binds the answer to JSON, or to a schema"),
});

const ids = z.array(z.int().min(0)).max(2 ** 20);

export const completionRequest = z.object({
  ...common,
  prompt: z
    .union([z.string(), z.array(z.string()).min(1).max(256), ids, z.array(ids).min(1).max(256)])
    .describe("a text or token ids, or several of either"),
  suffix: z.string().nullish().describe("what follows the answer: the model fills the middle"),
  max_tokens: whole(1, 2 ** 31).describe("the longest answer; 16 if not given"),
  logprobs: whole(0, 20).describe(
    "log-probabilities of tokens, and of so many likeliest in their places",
  ),
  echo: z
    .boolean()
    .nullish()
    .describe("begins with the prompt; with logprobs, its tokens have theirs too"),
});

export const embeddingsRequest = z.object({
  model: modelName,
  input: z
    .union([
      z.string(),
      z.array(z.string()).min(1).max(2048),
      ids.min(1),
      z.array(ids.min(1)).min(1).max(2048),
    ])
    .describe("a text or token ids, or several of either"),
  encoding_format: z
    .enum(["float", "base64"])
    .nullish()
    .describe("numbers, or base64 of their f32 in little-endian"),
  dimensions: whole(1, 2 ** 31).describe("the first so many numbers of each vector alone"),
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
