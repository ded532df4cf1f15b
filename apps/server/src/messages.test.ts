import { expect, test } from "vitest";
import { post, tiny, tokenizer } from "./testing/tiny.ts";

const make = tiny();
const path = "/v1/messages";

// biome-ignore lint/suspicious/noExplicitAny: what a client sees is what is tested
const json = async (response: Response): Promise<any> => response.json();

const base = {
  model: "tiny",
  max_tokens: 6,
  messages: [{ role: "user", content: "some words" }],
  temperature: 0,
};
const tools = [
  {
    name: "weather",
    description: "tells it",
    input_schema: {
      type: "object",
      properties: { city: { type: "string", maxLength: 6 } },
      required: ["city"],
    },
  },
];

test("a conversation means the same in Anthropic's words and in OpenAI's", async () => {
  const { app } = make();
  const call = { type: "tool_use", id: "1", name: "weather", input: { city: "Rome" } };
  const result = {
    type: "tool_result",
    tool_use_id: "1",
    content: [{ type: "text", text: "sun" }],
  };
  const body = {
    ...base,
    tools,
    system: [{ type: "text", text: "be brief" }],
    messages: [
      ...base.messages,
      { role: "assistant", content: [{ type: "thinking", thinking: "hm", signature: "" }, call] },
      { role: "user", content: [result, { type: "text", text: "and?" }] },
    ],
  };
  const args = JSON.stringify(call.input);
  const same = {
    ...base,
    tools: [
      {
        type: "function",
        function: { name: "weather", description: "tells it", parameters: tools[0]!.input_schema },
      },
    ],
    messages: [
      { role: "system", content: "be brief" },
      ...base.messages,
      {
        role: "assistant",
        tool_calls: [{ id: "1", function: { name: "weather", arguments: args } }],
      },
      { role: "tool", tool_call_id: "1", content: "sun" },
      { role: "user", content: "and?" },
    ],
  };
  const theirs = await json(await post(app, "/v1/chat/completions", same));
  const ours = await json(await post(app, path, body));
  expect(ours.content).toEqual([{ type: "text", text: theirs.choices[0].message.content }]);
  const { input_tokens, cache_read_input_tokens, output_tokens } = ours.usage;
  expect([input_tokens + cache_read_input_tokens, output_tokens]).toEqual([
    theirs.usage.prompt_tokens,
    theirs.usage.completion_tokens,
  ]);
  expect(cache_read_input_tokens).toBeGreaterThan(0);
  const { max_tokens, temperature, ...counted } = body;
  const count = await json(await post(app, `${path}/count_tokens`, counted));
  expect(count).toEqual({ input_tokens: theirs.usage.prompt_tokens });
});

test("an answer goes on from the assistant's words, and ends for a reason", async () => {
  const { app } = make();
  const opened = [...base.messages, { role: "assistant", content: "well," }];
  const plain = await json(await post(app, path, base));
  const goesOn = await json(await post(app, path, { ...base, messages: opened }));
  const tokens = (body: { usage: { input_tokens: number; cache_read_input_tokens: number } }) =>
    body.usage.input_tokens + body.usage.cache_read_input_tokens;
  expect(tokens(goesOn)).toBe(tokens(plain) + tokenizer.encode("well,").length);
  expect([plain.type, plain.stop_reason, plain.stop_sequence]).toEqual([
    "message",
    "max_tokens",
    null,
  ]);
  const stop = plain.content[0].text.slice(2, 4);
  const stopped = await json(await post(app, path, { ...base, stop_sequences: [stop] }));
  expect([stopped.stop_reason, stopped.stop_sequence]).toEqual(["stop_sequence", stop]);
});

test("streams are blocks within a message", async () => {
  const { app } = make();
  const body = {
    ...base,
    max_tokens: 80,
    tools,
    tool_choice: { type: "any" },
    seed: 1,
    stream: true,
  };
  const text = await (await post(app, path, body)).text();
  const events = text
    .trim()
    .split("\n\n")
    .map((event) => {
      const [, name, data] = /^event: (\w+)\ndata: (.*)$/.exec(event)!;
      expect(JSON.parse(data!).type).toBe(name);
      return JSON.parse(data!);
    });
  const types = events.map(({ type }) => type);
  expect(types.slice(0, 2)).toEqual(["message_start", "content_block_start"]);
  expect(types.slice(-3)).toEqual(["content_block_stop", "message_delta", "message_stop"]);
  expect(events[1].content_block).toMatchObject({ type: "tool_use", name: "weather", input: {} });
  const input = events.map(({ delta }) => delta?.partial_json ?? "").join("");
  expect(Object.keys(JSON.parse(input))).toEqual(["city"]);
  expect(events.at(-2).delta.stop_reason).toBe("tool_use");

  const thinking = { type: "enabled", budget_tokens: 1024 };
  const thought = await (await post(app, path, { ...base, thinking, stream: true })).text();
  expect(thought).toContain('"content_block":{"type":"thinking"');
  expect(thought).not.toContain("[DONE]");
});

test.each<[string, object, number, string]>([
  ["no max_tokens", { max_tokens: undefined }, 400, "invalid_request_error"],
  ["max_tokens of 0", { max_tokens: 0 }, 400, "invalid_request_error"],
  ["another model", { model: "x" }, 404, "not_found_error"],
  [
    "a picture",
    { messages: [{ role: "user", content: [{ type: "image", source: {} }] }] },
    400,
    "invalid_request_error",
  ],
  ["a call of nothing", { tool_choice: { type: "any" } }, 400, "invalid_request_error"],
  ["an empty conversation", { messages: [] }, 400, "invalid_request_error"],
])("%s is refused as Anthropic does", async (_, more, status, type) => {
  const { app } = make();
  const response = await post(app, path, { ...base, ...more });
  expect(response.status).toBe(status);
  expect(await json(response)).toEqual({
    type: "error",
    error: { type, message: expect.any(String) },
    request_id: response.headers.get("request-id"),
  });
});
