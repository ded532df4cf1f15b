import { expect, test } from "vitest";
import { post, tiny, tokenizer } from "./testing/tiny.ts";

const make = tiny();
const chat = "/v1/chat/completions";

// biome-ignore lint/suspicious/noExplicitAny: what a client sees is what is tested
const json = async (response: Response): Promise<any> => response.json();

const tool = (name: string, properties: object) => ({
  type: "function",
  function: {
    name,
    description: `calls ${name}`,
    parameters: { type: "object", properties, required: Object.keys(properties) },
  },
});
const tools = [
  tool("weather", { city: { type: "string", maxLength: 6 } }),
  tool("add", { a: { type: "integer" }, b: { type: "integer" } }),
];
const base = {
  model: "tiny",
  messages: [{ role: "user", content: "some words" }],
  max_tokens: 80,
  seed: 1,
  tools,
};

test("a required call is one of the functions, with arguments that fit", async () => {
  const { app } = make();
  for (let seed = 0; seed < 4; seed++) {
    const body = { ...base, seed, tool_choice: "required" };
    const { choices, usage } = await json(await post(app, chat, body));
    const { message, finish_reason } = choices[0];
    expect([finish_reason, message.content, message.tool_calls.length]).toEqual([
      "tool_calls",
      null,
      1,
    ]);
    const [{ id, type, function: called }] = message.tool_calls;
    expect([id, type]).toEqual([expect.stringMatching(/^call_/), "function"]);
    const expected = called.name === "add" ? ["a", "b"] : ["city"];
    expect(Object.keys(JSON.parse(called.arguments))).toEqual(expected);
    expect(usage.completion_tokens_details).toEqual({ reasoning_tokens: 0 });
  }
});

test("a named call, streamed, is the same as whole", async () => {
  const { app } = make();
  const tool_choice = { type: "function", function: { name: "weather" } };
  const whole = (await json(await post(app, chat, { ...base, tool_choice }))).choices[0].message;
  const streamed = await post(app, chat, { ...base, tool_choice, stream: true });
  const lines = (await streamed.text()).trim().split("\n\n").slice(0, -1);
  const choices = lines.map((line) => JSON.parse(line.slice(6)).choices[0]);
  const parts = choices.flatMap(({ delta }) => delta.tool_calls ?? []);
  expect(parts[0]).toMatchObject({ index: 0, type: "function", function: { name: "weather" } });
  expect(parts.slice(1).every(({ index, id }) => index === 0 && id === undefined)).toBe(true);
  const text = parts.map((part) => part.function.arguments).join("");
  expect(text).toBe(whole.tool_calls[0].function.arguments);
  expect(choices.at(-1).finish_reason).toBe("tool_calls");
  expect(choices.map(({ delta }) => delta.content ?? "").join("")).toBe("");
});

test("control tokens of calls are read where tools are, and leave no trace elsewhere", async () => {
  const { app } = make();
  const logit_bias = { [tokenizer.specialId("toolCallsBegin")]: 100 };
  const content = async (more: object) => {
    const body = { ...base, temperature: 0, max_tokens: 1, logit_bias, ...more };
    return (await json(await post(app, chat, body))).choices[0].message.content;
  };
  // A list that was begun and holds no call is words.
  expect(await content({})).toBe("<｜tool▁calls▁begin｜>");
  expect(await content({ tool_choice: "none" })).toBe("");
});

test("functions, calls and results are part of the prompt", async () => {
  const { app } = make();
  const count = async (more: object) =>
    (await json(await post(app, chat, { ...base, max_tokens: 1, ...more }))).usage.prompt_tokens;
  const plain = await count({ tools: [] });
  expect(await count({ tool_choice: "none" })).toBe(plain);
  expect(await count({})).toBeGreaterThan(plain + 50);

  const call = { id: "1", type: "function", function: { name: "add", arguments: "{}" } };
  const messages = (content: string | null) => [
    ...base.messages,
    { role: "assistant", content, tool_calls: [call] },
    { role: "tool", tool_call_id: "1", content: "3" },
  ];
  const written =
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{}\n```<｜tool▁call▁end｜>";
  const result =
    "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>3<｜tool▁output▁end｜><｜tool▁outputs▁end｜>";
  const length = tokenizer.encode(written + result, { allowSpecial: true }).length;
  // After results the template asks for no new turn, but the turn of the calls has its own sign.
  expect(await count({ tools: [], messages: messages(null) })).toBe(plain + length);
  expect(await count({ tools: [], messages: messages("") })).toBe(plain + length);
  expect(await count({ tools: [], messages: messages("some") })).toBeGreaterThan(plain + length);
});

test("thoughts stand apart from words, and are counted", async () => {
  const { app } = make();
  const body = { ...base, tools: [], max_tokens: 6, ignore_eos: true };
  const plain = await json(await post(app, chat, body));
  for (const asked of [
    { thinking: { type: "enabled" } },
    { chat_template_kwargs: { thinking: true } },
  ]) {
    const { choices, usage } = await json(await post(app, chat, { ...body, ...asked }));
    expect(usage.prompt_tokens).toBe(plain.usage.prompt_tokens + 1);
    expect(choices[0].message.content).toBe("");
    expect(choices[0].message.reasoning_content.length).toBeGreaterThan(0);
    expect(usage.completion_tokens_details.reasoning_tokens).toBe(6);
    const streamed = await post(app, chat, { ...body, ...asked, stream: true });
    expect(await streamed.text()).toContain('"reasoning_content":');
  }
  const not = await json(await post(app, chat, { ...body, thinking: { type: "disabled" } }));
  expect(not.choices[0].message).not.toHaveProperty("reasoning_content");
  expect(not.usage.prompt_tokens).toBe(plain.usage.prompt_tokens + 1);
});

test.each<[string, object, string]>([
  ["a tool without a function", { tools: [{}] }, "tools.0"],
  ["a name with spaces", { tools: [tool("a b", {})] }, "tools.0.function.name"],
  ["too many", { tools: Array(129).fill(tools[0]) }, "tools"],
  ["a call of nothing", { tools: [], tool_choice: "required" }, "tool_choice: no tools"],
  [
    "a call of what is not there",
    { tool_choice: { type: "function", function: { name: "x" } } },
    'tool_choice: there is no tool "x"',
  ],
  [
    "a call and a format",
    { tool_choice: "required", response_format: { type: "json_object" } },
    "tool_choice: an answer cannot be",
  ],
  [
    "a call and a thought",
    { tool_choice: "required", thinking: { type: "enabled" } },
    "tool_choice: a call cannot be forced",
  ],
  [
    "parameters that cannot bind",
    { tools: [tool("f", { a: { type: "x" } })], tool_choice: "required" },
    'type "x" is none',
  ],
])("%s is refused", async (_, more, message) => {
  const { app } = make();
  const response = await post(app, chat, { ...base, ...more });
  expect(response.status).toBe(400);
  expect((await json(response)).error.message).toContain(message);
});
