import OpenAI from "openai";
import { expect, test } from "vitest";
import { post, tiny } from "./testing/tiny.ts";

const make = tiny();
const path = "/v1/responses";

/** OpenAI's client, without a port. */
function connect() {
  const { app } = make();
  const fetch = async (url: unknown, init?: RequestInit) =>
    app.fetch(new Request(url as string, init));
  const settings = { baseURL: "http://server/v1", apiKey: "x", maxRetries: 0, fetch };
  return { app, client: new OpenAI(settings) };
}

const base = { model: "tiny", input: "some words", temperature: 0, max_output_tokens: 8 };
const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 6 } },
  required: ["city"],
};
const tools = [{ type: "function" as const, name: "weather", parameters, strict: true }];

test("a response says what a chat completion says, whole and streamed", async () => {
  const { client } = connect();
  const chat = await client.chat.completions.create({
    model: "tiny",
    temperature: 0,
    max_tokens: 8,
    messages: [
      { role: "system", content: "be brief" },
      { role: "user", content: "some words" },
    ],
  });
  const asked = { ...base, instructions: "be brief" };
  const whole = await client.responses.create(asked);
  expect(whole.output_text).toBe(chat.choices[0]!.message.content);
  expect(whole.usage!.input_tokens).toBe(chat.usage!.prompt_tokens);
  expect([whole.status, whole.incomplete_details]).toEqual([
    "incomplete",
    { reason: "max_output_tokens" },
  ]);
  expect(whole.output).toMatchObject([{ type: "message", status: "incomplete" }]);

  const types: string[] = [];
  let text = "";
  let number = 0;
  const stream = await client.responses.create({ ...asked, stream: true });
  for await (const event of stream) {
    types.push(event.type);
    expect((event as { sequence_number: number }).sequence_number).toBe(number++);
    if (event.type === "response.output_text.delta") text += event.delta;
    if (event.type === "response.output_text.done") expect(event.text).toBe(text);
  }
  expect(text).toBe(whole.output_text);
  expect(types.slice(0, 4)).toEqual([
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
  ]);
  expect(types.slice(-4)).toEqual([
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.incomplete",
  ]);
});

test("functions are called, and their results go back", async () => {
  const { client } = connect();
  const asked = { ...base, max_output_tokens: 80, tools, tool_choice: "required" as const };
  const whole = await client.responses.create(asked);
  const [call] = whole.output;
  expect([whole.status, whole.output.length]).toEqual(["completed", 1]);
  if (call?.type !== "function_call") throw new Error("no call");
  expect([call.name, Object.keys(JSON.parse(call.arguments))]).toEqual(["weather", ["city"]]);
  const streamed = await client.responses.stream(asked).finalResponse();
  expect(streamed.output).toMatchObject([{ type: "function_call", arguments: call.arguments }]);
  const input = [
    { role: "user" as const, content: "some words" },
    call,
    { type: "function_call_output" as const, call_id: call.call_id, output: "sun" },
  ];
  const next = await client.responses.create({ ...base, input });
  expect(next.output[0]!.type).toBe("message");
  expect(next.usage!.input_tokens).toBeGreaterThan(10);
});

test("texts are bound to schemas", async () => {
  const { client } = connect();
  const format = { type: "json_schema" as const, name: "city", schema: parameters };
  const asked = { ...base, max_output_tokens: 80, text: { format } };
  expect(Object.keys(JSON.parse((await client.responses.create(asked)).output_text))).toEqual([
    "city",
  ]);
});

test.each<[string, object, string]>([
  ["an earlier response", { previous_response_id: "resp_1" }, "is not kept here"],
  ["work in the background", { background: true }, "is not served here"],
  ["a picture", { input: [{ role: "user", content: [{ type: "input_image" }] }] }, "input"],
  ["nothing", { input: [] }, "input"],
  ["a tool of the web's", { tools: [{ type: "web_search" }] }, "tools.0"],
  ["no room for an answer", { max_output_tokens: 0 }, "max_output_tokens"],
])("%s is refused", async (_, more, message) => {
  const { app } = connect();
  const response = await post(app, path, { ...base, ...more });
  const { error } = (await response.json()) as { error: { message: string } };
  expect([response.status, error.message]).toEqual([400, expect.stringContaining(message)]);
});
