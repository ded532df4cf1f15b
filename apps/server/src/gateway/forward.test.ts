/** What engines are sent, and what is made of their answers. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { chunk, json, says, stream, usage } from "../testing/fake-upstream.ts";
import { chat, eventsIn, fronts, messages } from "../testing/gateway.ts";
import { post } from "../testing/tiny.ts";

const front = fronts();

// biome-ignore lint/suspicious/noExplicitAny: what a client sees is what is tested
const told = async (response: Response): Promise<any> => response.json();

test("usage comes at the end of a stream for who asks for it, and with every answer in one piece", async () => {
  const { app, fakes } = await front([says("a")]);
  const ask = async (more: object) =>
    (await post(app, chat, { model: "m", messages, ...more })).text();
  const counted = {
    ...usage,
    prompt_tokens_details: { cached_tokens: 0 },
    prompt_cache_hit_tokens: 0,
  };
  expect(JSON.parse(await ask({}))).toMatchObject({ usage: counted });
  const plain = await ask({ stream: true });
  expect(plain).not.toContain("usage");
  expect(eventsIn(plain)).toHaveLength(3);
  const asked = eventsIn(await ask({ stream: true, stream_options: { include_usage: true } }));
  expect(asked.slice(-2)).toMatchObject([{ choices: [], usage: counted }, "[DONE]"]);
  expect(fakes[0]!.asked.map(({ body }) => body.stream_options)).toEqual([
    undefined,
    { include_usage: true },
    { include_usage: true },
  ]);
});

test("thoughts and what a cache gave have both names, whoever answers", async () => {
  const cached = { ...usage, prompt_tokens_details: { cached_tokens: 8 } };
  const { app, fakes } = await front([
    (response) =>
      stream(response, [
        chunk({ role: "assistant", content: "" }),
        chunk({ reasoning: "hm" }),
        chunk({ content: "so" }, "stop"),
        { ...chunk({}), choices: [], usage: cached },
      ]),
  ]);
  const body = { model: "m", messages, stream: true, stream_options: { include_usage: true } };
  expect(eventsIn(await (await post(app, chat, body)).text())).toMatchObject([
    { choices: [{ delta: { content: "" } }] },
    { choices: [{ delta: { reasoning_content: "hm" } }] },
    { choices: [{ delta: { content: "so" }, finish_reason: "stop" }] },
    { usage: { prompt_cache_hit_tokens: 8, prompt_cache_miss_tokens: 2 } },
    "[DONE]",
  ]);
  const metrics = await (await app.fetch(new Request("http://server/metrics"))).text();
  const labels = `{server="${fakes[0]!.url}",model_name="m"}`;
  for (const [name, value] of [
    ["prompt_tokens_total", 10],
    ["generation_tokens_total", 2],
    ["prefix_cache_hits_total", 8],
    ["e2e_request_latency_seconds_count", 1],
    ["time_to_first_token_seconds_count", 1],
    ["inter_token_latency_seconds_count", 2],
  ]) {
    expect(metrics).toContain(`vllm:${name}${labels} ${value}\n`);
  }
  expect(metrics).toMatch(/vllm:request_success_total{server=.*,finished_reason="stop"} 1\n/);
  expect(metrics).not.toMatch(/num_preemptions_total{/);
});

test("Anthropic's messages become a conversation, and its answer blocks again", async () => {
  const call = (part: object) => chunk({ tool_calls: [{ index: 0, ...part }] });
  const { app, fakes } = await front([
    (response) =>
      stream(response, [
        chunk({ role: "assistant", content: "" }),
        chunk({ reasoning_content: "hm" }),
        chunk({ content: "so" }),
        call({ id: "call_9", type: "function", function: { name: "f", arguments: "" } }),
        call({ function: { arguments: '{"a":' } }),
        call({ function: { arguments: "1}" } }),
        chunk({}, "tool_calls"),
        {
          ...chunk({}),
          choices: [],
          usage: { ...usage, prompt_tokens_details: { cached_tokens: 4 } },
        },
      ]),
  ]);
  const use = { type: "tool_use", id: "call_8", name: "f", input: { a: 0 } };
  const result = { type: "tool_result", tool_use_id: "call_8", content: "none" };
  const body = {
    ...{ model: "m", max_tokens: 9, system: "be brief", stop_sequences: ["x"], top_k: 5 },
    messages: [
      ...messages,
      { role: "assistant", content: [use] },
      { role: "user", content: [result] },
    ],
    ...{
      tools: [{ name: "f", input_schema: { type: "object" } }],
      thinking: { type: "enabled", budget_tokens: 1024 },
    },
    metadata: { user_id: "u" },
  };
  const whole = await told(await post(app, "/v1/messages", body));
  expect(whole).toMatchObject({
    ...{ type: "message", role: "assistant", model: "m", stop_reason: "tool_use" },
    content: [
      { type: "thinking", thinking: "hm" },
      { type: "text", text: "so" },
      { type: "tool_use", id: "call_9", name: "f", input: { a: 1 } },
    ],
    usage: { input_tokens: 6, cache_read_input_tokens: 4, output_tokens: 2 },
  });
  expect(fakes[0]!.asked[0]).toMatchObject({
    path: chat,
    body: {
      ...{ model: "m", max_tokens: 9, stop: ["x"], top_k: 5, stream: true, cache_salt: "u" },
      chat_template_kwargs: { thinking: true },
      messages: [
        { role: "system", content: "be brief" },
        ...messages,
        {
          role: "assistant",
          tool_calls: [{ id: "call_8", function: { name: "f", arguments: '{"a":0}' } }],
        },
        { role: "tool", tool_call_id: "call_8", content: "none" },
      ],
      tools: [{ type: "function", function: { name: "f", parameters: { type: "object" } } }],
    },
  });
  expect(fakes[0]!.asked[0]!.body.messages[1]).not.toHaveProperty("tool_calls");
  const events = eventsIn(
    await (await post(app, "/v1/messages", { ...body, stream: true })).text(),
  );
  expect(events.map((event) => (event as { type: string }).type)).toEqual([
    "message_start",
    ...["content_block_start", "content_block_delta", "content_block_stop"],
    ...["content_block_start", "content_block_delta", "content_block_stop"],
    ...["content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"],
    ...["message_delta", "message_stop"],
  ]);
  expect(events.at(-2)).toMatchObject({
    delta: { stop_reason: "tool_use" },
    usage: { input_tokens: 6, cache_read_input_tokens: 4, output_tokens: 2 },
  });
});

test.each([
  ["vLLM's", { stop_reason: "END" }, "stop_sequence", "END"],
  ["SGLang's", { matched_stop: "END" }, "stop_sequence", "END"],
  ["an id", { stop_reason: 5 }, "end_turn", null],
  ["none", {}, "end_turn", null],
])("what stopped an answer has a name of %s", async (_, more, stop_reason, stop_sequence) => {
  const { app } = await front([
    (response) => stream(response, [chunk({ content: "a" }, "stop", more)]),
  ]);
  const whole = await post(app, "/v1/messages", { model: "m", messages, max_tokens: 5 });
  expect(await told(whole)).toMatchObject({ stop_reason, stop_sequence });
});

test("responses are conversations too", async () => {
  const { app, fakes } = await front([says("a")]);
  const input = [
    { role: "user", content: "x" },
    { type: "function_call", call_id: "c", name: "f", arguments: "{}" },
    { type: "function_call_output", call_id: "c", output: "y" },
  ];
  const body = { model: "m", input, instructions: "be brief", max_output_tokens: 20 };
  expect(await told(await post(app, "/v1/responses", body))).toMatchObject({
    ...{ object: "response", status: "completed", model: "m" },
    output: [{ type: "message", content: [{ type: "output_text", text: "a" }] }],
    usage: { input_tokens: 10, output_tokens: 2, total_tokens: 12 },
  });
  expect(fakes[0]!.asked[0]!.body).toMatchObject({
    max_tokens: 20,
    messages: [
      { role: "system", content: "be brief" },
      { role: "user", content: "x" },
      { role: "assistant", tool_calls: [{ id: "c", function: { name: "f", arguments: "{}" } }] },
      { role: "tool", tool_call_id: "c", content: "y" },
    ],
  });
});

test("other routes are passed on as they are", async () => {
  const { app, fakes } = await front([json(200, { count: 7, tokens: [1] })]);
  expect(await told(await post(app, "/tokenize", { prompt: "x" }))).toEqual({
    count: 7,
    tokens: [1],
  });
  const count = { model: "m", messages, system: "be brief" };
  const counted = await post(app, "/anthropic/v1/messages/count_tokens", count);
  expect(await told(counted)).toEqual({ input_tokens: 7 });
  fakes[0]!.answer = json(200, { data: [{ embedding: "AAAA" }], usage: { prompt_tokens: 3 } });
  const embedded = await post(app, "/v1/embeddings", { model: "m", input: "x", user: "u" });
  expect(await told(embedded)).toEqual({
    data: [{ embedding: "AAAA" }],
    usage: { prompt_tokens: 3 },
  });
  expect(fakes[0]!.asked.map(({ path, body }) => [path, body])).toEqual([
    ["/tokenize", { prompt: "x" }],
    ["/tokenize", { model: "m", messages: [{ role: "system", content: "be brief" }, ...messages] }],
    ["/v1/embeddings", { model: "m", input: "x", user: "u" }],
  ]);
});

test("errors have each interface's body and status", async () => {
  const { app, fakes } = await front([
    json(400, { error: { message: "n: must be 1", param: "n", code: "invalid_value" } }),
  ]);
  const ask = async (path: string, more: object = {}) => {
    const answer = await post(app, path, { model: "m", messages, max_tokens: 5, ...more });
    return [answer.status, await told(answer)];
  };
  expect(await ask(chat)).toMatchObject([400, { error: { param: "n", code: "invalid_value" } }]);
  expect(await ask("/chat/completions")).toMatchObject([
    422,
    { error: { message: "n: must be 1", param: null, code: "invalid_request_error" } },
  ]);
  expect(await ask("/v1/messages")).toMatchObject([
    400,
    { type: "error", error: { type: "invalid_request_error", message: "n: must be 1" } },
  ]);
  expect(await ask("/chat/completions", { model: "x" })).toMatchObject([
    400,
    { error: { message: "Model Not Exist" } },
  ]);
  const before = fakes[0]!.asked.length;
  expect(await ask("/v1/messages", { max_tokens: 0 })).toMatchObject([400, { type: "error" }]);
  expect(await ask(chat, { stream: "true" })).toMatchObject([400, { error: { param: "stream" } }]);
  expect(fakes[0]!.asked).toHaveLength(before);
});

test("whatever is sent is passed on or refused", async () => {
  const { app } = await front([says("a")]);
  const value = fc.oneof(
    fc.jsonValue({ maxDepth: 3 }),
    fc.constantFrom(messages, [null], [[]], ""),
  );
  const fields = ["messages", "prompt", "stop", "stream_options", "tools", "thinking", "user_id"];
  const more = ["structured_outputs", "guided_json", "max_completion_tokens", "system", "input"];
  const body = fc.dictionary(fc.constantFrom(...fields, ...more), value, { maxKeys: 5 });
  const path = fc.constantFrom(chat, "/v1/completions", "/v1/messages", "/v1/responses");
  await fc.assert(
    fc.asyncProperty(path, body, fc.boolean(), async (path, body, stream) => {
      const answer = await post(app, path, { ...body, model: "m", stream });
      await answer.text();
      expect(answer.status).toBeLessThan(500);
    }),
    { numRuns: 300, seed: 1 },
  );
});
