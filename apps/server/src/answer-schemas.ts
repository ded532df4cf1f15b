/** What routes answer, for those who read of it; the tests hold every answer against it. */
import { z } from "zod";

const count = z.int().min(0);

const usage = z
  .object({
    prompt_tokens: count,
    completion_tokens: count,
    total_tokens: count,
    prompt_tokens_details: z.object({ cached_tokens: count }),
    prompt_cache_hit_tokens: count.describe("tokens of the prompt found in the cache (DeepSeek)"),
    prompt_cache_miss_tokens: count.describe("the rest of the prompt (DeepSeek)"),
    completion_tokens_details: z
      .object({ reasoning_tokens: count.describe("tokens of thoughts") })
      .optional(),
  })
  .describe("tokens of prompt and answers");

const streamedUsage = usage
  .nullable()
  .optional()
  .describe("with stream_options.include_usage alone: null, but in the last event before [DONE]");

const reason = (...reasons: [string, ...string[]]) =>
  z.enum(reasons).describe("why the answer ended");

const head = { id: z.string(), created: z.int().describe("seconds since 1970"), model: z.string() };

const logprob = z.object({
  token: z.string().describe("its text; bytes that are no character alone are shown as U+FFFD"),
  bytes: z.array(z.int().min(0).max(255)),
  logprob: z.number(),
});
const scored = z.array(logprob.extend({ top_logprobs: z.array(logprob) }));
const logprobs = z
  .object({
    content: scored.nullable(),
    refusal: z.null(),
    reasoning_content: scored.optional().describe("those of thoughts (DeepSeek)"),
  })
  .nullable()
  .describe("log-probabilities of the answer's tokens, if asked for");

const chatReason = reason("stop", "length", "tool_calls");

const toolCall = z.object({
  index: count,
  id: z.string(),
  type: z.literal("function"),
  function: z.object({ name: z.string(), arguments: z.string().describe("JSON") }),
});

export const chatAnswer = z.object({
  ...head,
  object: z.literal("chat.completion"),
  choices: z.array(
    z.object({
      index: count,
      message: z.object({
        role: z.literal("assistant"),
        content: z.string().nullable().describe("null of an answer that is calls alone"),
        reasoning_content: z.string().optional().describe("its thoughts"),
        refusal: z.null(),
        tool_calls: z.array(toolCall).optional().describe("functions that it calls"),
      }),
      logprobs,
      finish_reason: chatReason,
    }),
  ),
  usage,
});

export const chatEvent = z.object({
  ...head,
  object: z.literal("chat.completion.chunk"),
  choices: z
    .array(
      z.object({
        index: count,
        delta: z.object({
          role: z.literal("assistant").optional().describe("of the first one alone"),
          content: z.string().optional(),
          reasoning_content: z.string().optional(),
          tool_calls: z
            .array(
              z.object({
                index: count,
                id: z.string().optional().describe("where a call begins, as are type and name"),
                type: z.literal("function").optional(),
                function: z.object({ name: z.string().optional(), arguments: z.string() }),
              }),
            )
            .optional(),
        }),
        logprobs,
        finish_reason: chatReason.nullable(),
      }),
    )
    .describe("none in the event that counts tokens"),
  usage: streamedUsage,
});

const completionChoice = z.object({
  index: count.describe("that of the prompt times n, and then that of the answer"),
  text: z.string(),
  logprobs: z
    .object({
      tokens: z.array(z.string()),
      token_logprobs: z.array(z.number().nullable()).describe("null of a prompt's first token"),
      top_logprobs: z.array(z.record(z.string(), z.number()).nullable()),
      text_offset: z.array(count).describe("characters before each token"),
    })
    .nullable(),
  finish_reason: reason("stop", "length"),
});

const completionHead = { ...head, object: z.literal("text_completion") };

export const completionAnswer = z.object({
  ...completionHead,
  choices: z.array(completionChoice),
  usage,
});

export const completionEvent = z.object({
  ...completionHead,
  choices: z.array(
    completionChoice.extend({ finish_reason: completionChoice.shape.finish_reason.nullable() }),
  ),
  usage: streamedUsage,
});

export const embeddingsAnswer = z.object({
  object: z.literal("list"),
  data: z.array(
    z.object({
      object: z.literal("embedding"),
      index: count.describe("that of the text"),
      embedding: z
        .union([z.array(z.number()), z.string()])
        .describe("a vector of length 1, or base64 of its f32 in little-endian"),
    }),
  ),
  model: z.string(),
  usage: z.object({ prompt_tokens: count, total_tokens: count }),
});

export const tokenizeAnswer = z.object({
  count,
  max_model_len: count.describe("tokens of prompt and answer together"),
  tokens: z.array(count),
});

export const detokenizeAnswer = z.object({ prompt: z.string() });

export const modelAnswer = z.object({
  id: z.string().describe("the name that requests call it by"),
  object: z.literal("model"),
  created: z.int(),
  owned_by: z.string().describe("dsv3, or whose engine elsewhere has it"),
  max_model_len: count.nullable().describe("tokens of prompt and answer together, if known"),
  loaded: z
    .boolean()
    .describe("whether it is in memory; of one elsewhere, whether an engine that has it is well"),
});

export const modelsAnswer = z.object({ object: z.literal("list"), data: z.array(modelAnswer) });

export const stateAnswer = z.object({
  status: z.enum(["ok", "stopping", "no upstream"]),
  upstreams: z
    .object({ healthy: count, total: count })
    .optional()
    .describe("of a gateway, how many engines elsewhere are well"),
});

export const errorAnswer = z.object({
  error: z.object({
    message: z.string(),
    type: z.string(),
    param: z.string().nullable().describe("the field of the request at fault"),
    code: z.string().nullable(),
  }),
});
