/**
 * What OpenAI says its answers look like: names, types and what is required, of the components of its
 * openapi.json 2.3.0 (https://github.com/openai/openai-openapi, MIT) that our routes answer with. Parts
 * for pictures, sound, moderation and OpenAI's own tools are left out, and so are all texts.
 */
type Schema = object;

const text: Schema = { type: "string" };
const whole: Schema = { type: "integer" };
const number: Schema = { type: "number" };
const truth: Schema = { type: "boolean" };
const anything: Schema = {};
const one = (...values: (string | null)[]): Schema => ({ enum: values });
const list = (items: Schema): Schema => ({ type: "array", items });
const orNull = (schema: Schema): Schema => ({ anyOf: [schema, { type: "null" }] });
const record = (
  required: Readonly<Record<string, Schema>>,
  optional: Readonly<Record<string, Schema>> = {},
): Schema => ({
  type: "object",
  required: Object.keys(required),
  properties: { ...required, ...optional },
});

const CompletionUsage = record(
  { prompt_tokens: whole, completion_tokens: whole, total_tokens: whole },
  {
    completion_tokens_details: record({}, { reasoning_tokens: whole }),
    prompt_tokens_details: record({}, { cached_tokens: whole, cache_write_tokens: whole }),
  },
);

const logprob = { token: text, logprob: number, bytes: orNull(list(whole)) };
const ChatCompletionTokenLogprob = record({ ...logprob, top_logprobs: list(record(logprob)) });
const logprobs = orNull(
  record({
    content: orNull(list(ChatCompletionTokenLogprob)),
    refusal: orNull(list(ChatCompletionTokenLogprob)),
  }),
);
const REASONS = ["stop", "length", "tool_calls", "content_filter", "function_call"] as const;

const ChatCompletionMessageToolCall = record({
  id: text,
  type: one("function"),
  function: record({ name: text, arguments: text }),
});
const ChatCompletionResponseMessage = record(
  { role: one("assistant"), content: orNull(text) },
  { refusal: orNull(text), tool_calls: orNull(list(ChatCompletionMessageToolCall)) },
);
const CreateChatCompletionResponse = record(
  {
    id: text,
    object: one("chat.completion"),
    created: whole,
    model: text,
    choices: list(
      record({
        finish_reason: one(...REASONS),
        index: whole,
        message: ChatCompletionResponseMessage,
        logprobs,
      }),
    ),
  },
  { usage: CompletionUsage, system_fingerprint: text },
);

const ChatCompletionMessageToolCallChunk = record(
  { index: whole },
  { id: text, type: one("function"), function: record({}, { name: text, arguments: text }) },
);
const ChatCompletionStreamResponseDelta = record(
  {},
  {
    content: orNull(text),
    refusal: orNull(text),
    role: one("developer", "system", "user", "assistant", "tool"),
    tool_calls: list(ChatCompletionMessageToolCallChunk),
  },
);
const CreateChatCompletionStreamResponse = record(
  {
    id: text,
    object: one("chat.completion.chunk"),
    created: whole,
    model: text,
    choices: list(
      record(
        { delta: ChatCompletionStreamResponseDelta, index: whole },
        { logprobs, finish_reason: one(...REASONS, null) },
      ),
    ),
  },
  { usage: orNull(CompletionUsage), system_fingerprint: text },
);

const CreateCompletionResponse = record(
  {
    id: text,
    object: one("text_completion"),
    created: whole,
    model: text,
    choices: list(
      record({
        finish_reason: one("stop", "length", "content_filter", null),
        index: whole,
        text,
        logprobs: orNull(
          record(
            {},
            {
              text_offset: list(whole),
              token_logprobs: list(number),
              tokens: list(text),
              top_logprobs: list({ type: "object", additionalProperties: number }),
            },
          ),
        ),
      }),
    ),
  },
  // Null in streams with include_usage until the last event, as ChatCompletionStreamOptions has it.
  { usage: orNull(CompletionUsage), system_fingerprint: text },
);

const Embedding = record({ object: one("embedding"), index: whole, embedding: list(number) });
const CreateEmbeddingResponse = record({
  object: one("list"),
  model: text,
  data: list(Embedding),
  usage: record({ prompt_tokens: whole, total_tokens: whole }),
});

const Model = record({ id: text, object: one("model"), created: whole, owned_by: text });
const ListModelsResponse = record({ object: one("list"), data: list(Model) });

const ErrorResponse = record({
  error: record({ message: text, type: text, param: orNull(text), code: orNull(text) }),
});

const STATUS = one("in_progress", "completed", "incomplete");
const OutputTextContent = record({
  type: one("output_text"),
  text,
  annotations: list(anything),
  logprobs: list(anything),
});
const OutputItem: Schema = {
  anyOf: [
    record({
      type: one("message"),
      id: text,
      role: one("assistant"),
      status: STATUS,
      content: list(OutputTextContent),
    }),
    record(
      { type: one("function_call"), call_id: text, name: text, arguments: text },
      { id: text, status: STATUS },
    ),
    record(
      { type: one("reasoning"), id: text, summary: list(anything) },
      { content: list(record({ type: one("reasoning_text"), text })), status: STATUS },
    ),
  ],
};
const ResponseUsage = record({
  input_tokens: whole,
  input_tokens_details: record({ cached_tokens: whole, cache_write_tokens: whole }),
  output_tokens: whole,
  output_tokens_details: record({ reasoning_tokens: whole }),
  total_tokens: whole,
});
const Response = record(
  {
    access_programs: orNull(anything),
    id: text,
    object: one("response"),
    created_at: number,
    error: orNull(record({ code: text, message: text })),
    incomplete_details: orNull(
      record({}, { reason: one("max_output_tokens", "max_messages", "content_filter", "steered") }),
    ),
    instructions: orNull(text),
    model: text,
    tools: list(anything),
    output: list(OutputItem),
    parallel_tool_calls: truth,
    metadata: orNull({ type: "object", additionalProperties: text }),
    tool_choice: anything,
    temperature: orNull(number),
    top_p: orNull(number),
  },
  {
    status: one("completed", "failed", "in_progress", "cancelled", "queued", "incomplete"),
    completed_at: orNull(number),
    max_output_tokens: orNull(whole),
    previous_response_id: orNull(text),
    truncation: one("auto", "disabled", null),
    usage: orNull(ResponseUsage),
  },
);

const event = (type: string, fields: Readonly<Record<string, Schema>>): Schema =>
  record({ type: one(type), sequence_number: whole, ...fields });
const place = { item_id: text, output_index: whole };
const within = { ...place, content_index: whole };
const ResponseStreamEvent: Schema = {
  oneOf: [
    event("response.created", { response: Response }),
    event("response.in_progress", { response: Response }),
    event("response.completed", { response: Response }),
    event("response.incomplete", { response: Response }),
    event("response.output_item.added", { output_index: whole, item: OutputItem }),
    event("response.output_item.done", { output_index: whole, item: OutputItem }),
    event("response.content_part.added", { ...within, part: OutputTextContent }),
    event("response.content_part.done", { ...within, part: OutputTextContent }),
    event("response.output_text.delta", { ...within, delta: text, logprobs: list(anything) }),
    event("response.output_text.done", { ...within, text, logprobs: list(anything) }),
    event("response.reasoning_text.delta", { ...within, delta: text }),
    event("response.reasoning_text.done", { ...within, text }),
    event("response.function_call_arguments.delta", { ...place, delta: text }),
    event("response.function_call_arguments.done", { ...place, name: text, arguments: text }),
    event("error", { code: orNull(text), message: text, param: orNull(text) }),
  ],
};

/** By the names that the document has. */
export const OPENAI: Readonly<Record<string, Schema>> = {
  CreateChatCompletionResponse,
  CreateChatCompletionStreamResponse,
  CreateCompletionResponse,
  CreateEmbeddingResponse,
  ErrorResponse,
  ListModelsResponse,
  Model,
  Response,
  ResponseStreamEvent,
};
