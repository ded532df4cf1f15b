/** Every answer is as OpenAI's published schemas have it. */
import { Ajv2020 } from "ajv/dist/2020.js";
import { expect, test } from "vitest";
import { OPENAI } from "./testing/openai-schemas.ts";
import { post, tiny } from "./testing/tiny.ts";

const make = tiny();
const ajv = new Ajv2020({ allErrors: true, strict: false });
const schemas = new Map(
  Object.entries(OPENAI).map(([name, schema]) => [name, ajv.compile(schema)]),
);

/** What is wrong with a body, by one of the schemas. */
function problems(name: string, body: unknown): unknown {
  const validate = schemas.get(name)!;
  return validate(body)
    ? []
    : validate.errors!.map(({ instancePath, message }) => `${instancePath} ${message}`);
}

/** The events of a stream, without its end. */
function eventsOf(stream: string): unknown[] {
  const lines = stream.split("\n").filter((line) => line.startsWith("data: {"));
  return lines.map((line) => JSON.parse(line.slice(6)));
}

const messages = [{ role: "user", content: "some words" }];
const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 6 } },
  required: ["city"],
};
const limits = { max_tokens: 60, max_output_tokens: 60, seed: 1 };
const common = { model: "tiny", messages, prompt: "some", input: "some words", ...limits };

test.each<[string, string, string, object]>([
  ["chat", "CreateChatCompletionResponse", "/v1/chat/completions", {}],
  ["several", "CreateChatCompletionResponse", "/v1/chat/completions", { n: 3 }],
  [
    "log-probabilities",
    "CreateChatCompletionResponse",
    "/v1/chat/completions",
    { logprobs: true, top_logprobs: 2 },
  ],
  [
    "a call",
    "CreateChatCompletionResponse",
    "/v1/chat/completions",
    { tools: [{ type: "function", function: { name: "f", parameters } }], tool_choice: "required" },
  ],
  [
    "a thought",
    "CreateChatCompletionResponse",
    "/v1/chat/completions",
    { thinking: { type: "enabled" }, logprobs: true },
  ],
  ["completions", "CreateCompletionResponse", "/v1/completions", { n: 2 }],
  ["scored", "CreateCompletionResponse", "/v1/completions", { logprobs: 2 }],
  ["a response", "Response", "/v1/responses", {}],
  [
    "a call in a response",
    "Response",
    "/v1/responses",
    { tools: [{ type: "function", name: "f", parameters }], tool_choice: "required" },
  ],
])("%s: %s", async (_, name, path, more) => {
  const { app } = make();
  const body = { ...common, ...more };
  const whole = await post(app, path, body);
  expect(whole.status).toBe(200);
  expect(problems(name, await whole.json())).toEqual([]);
  const options = path === "/v1/responses" ? {} : { stream_options: { include_usage: true } };
  const streamed = await post(app, path, { ...body, ...options, stream: true });
  const events = eventsOf(await streamed.text());
  expect(events.length).toBeGreaterThan(2);
  const names: Record<string, string> = {
    CreateChatCompletionResponse: "CreateChatCompletionStreamResponse",
    Response: "ResponseStreamEvent",
  };
  for (const event of events) expect(problems(names[name] ?? name, event)).toEqual([]);
});

test("embeddings and models", async () => {
  const { app } = make();
  const embeddings = await post(app, "/v1/embeddings", { model: "tiny", input: ["a", "b"] });
  expect(problems("CreateEmbeddingResponse", await embeddings.json())).toEqual([]);
  const get = async (path: string) => (await app.fetch(new Request(`http://server${path}`))).json();
  expect(problems("ListModelsResponse", await get("/v1/models"))).toEqual([]);
  expect(problems("Model", await get("/v1/models/tiny"))).toEqual([]);
});

test.each<[string, string, unknown]>([
  ["another model", "/v1/chat/completions", { ...common, model: "x" }],
  ["a wrong value", "/v1/completions", { ...common, temperature: 9 }],
  ["no JSON", "/v1/responses", "{"],
  ["too long", "/v1/embeddings", { model: "tiny", input: Array(600).fill(5) }],
  ["nowhere", "/v1/nowhere", {}],
])("an error: %s", async (_, path, body) => {
  const { app } = make();
  const response = await post(app, path, body);
  expect(response.status).toBeGreaterThanOrEqual(400);
  expect(problems("ErrorResponse", await response.json())).toEqual([]);
});

test("what is not so is found", () => {
  const wrong = { id: "1", object: "chat.completion", created: 1.5, model: "tiny", choices: [{}] };
  expect(problems("CreateChatCompletionResponse", wrong)).toHaveLength(5);
});
