import { expect, test } from "vitest";
import { createApp } from "./app.ts";
import { Models } from "./models.ts";
import { post, tiny, tokenizer } from "./testing/tiny.ts";

const make = tiny();
const chat = "/v1/chat/completions";
const messages = [{ role: "user", content: "some words" }];
const base = { model: "tiny", messages, max_tokens: 3, seed: 1 };

// biome-ignore lint/suspicious/noExplicitAny: what a client sees is what is tested
const json = async (response: Response): Promise<any> => response.json();

test("chat and completions count tokens as the tokenizer does, and the cache's too", async () => {
  const { app } = make();
  const words = "some words and more ".repeat(20);
  const ask = async () =>
    json(await post(app, "/v1/completions", { model: "tiny", prompt: words, max_tokens: 2 }));
  const length = tokenizer.encode(words, { addSpecial: true }).length;
  const cached = Math.floor((length - 1) / 64) * 64;
  expect((await ask()).usage).toMatchObject({ prompt_tokens: length, prompt_cache_hit_tokens: 0 });
  expect((await ask()).usage).toEqual({
    prompt_tokens: length,
    completion_tokens: 2,
    total_tokens: length + 2,
    prompt_tokens_details: { cached_tokens: cached },
    prompt_cache_hit_tokens: cached,
    prompt_cache_miss_tokens: length - cached,
  });
});

test("a conversation is what DeepSeek's template makes of it", async () => {
  const { app } = make();
  const ids = (s: string) => Array.from(tokenizer.encode(s, { allowSpecial: true }));
  const conversation = [
    { role: "system", content: "be brief" },
    {
      role: "user",
      content: [
        { type: "text", text: "some " },
        { type: "text", text: "words" },
      ],
    },
  ];
  const expected = ids("<｜begin▁of▁sentence｜>be brief<｜User｜>some words<｜Assistant｜>");
  const greedy = { model: "tiny", max_tokens: 12, temperature: 0, ignore_eos: true };
  const spoken = await json(await post(app, chat, { ...greedy, messages: conversation }));
  const raw = await json(await post(app, "/v1/completions", { ...greedy, prompt: expected }));
  expect(spoken.choices[0].message.content).toBe(raw.choices[0].text);
  expect(spoken.usage.prompt_tokens).toBe(expected.length);

  const opened = [...conversation, { role: "assistant", content: "well,", prefix: true }];
  const goesOn = await json(await post(app, chat, { ...greedy, messages: opened }));
  expect(goesOn.usage.prompt_tokens).toBe(expected.length + ids("well,").length);
});

test("answers are bound by OpenAI's fields and by vLLM's", async () => {
  const { app } = make();
  const content = async (more: object) =>
    (await json(await post(app, chat, { ...base, max_tokens: 60, ...more }))).choices[0].message
      .content;
  expect(JSON.parse(await content({ response_format: { type: "json_object" } }))).toBeTypeOf(
    "object",
  );
  const schema = { type: "object", properties: { ok: { type: "boolean" } }, required: ["ok"] };
  const response_format = {
    type: "json_schema",
    json_schema: { name: "ok", strict: true, schema },
  };
  expect(JSON.parse(await content({ response_format })).ok).toBeTypeOf("boolean");
  expect(await content({ structured_outputs: { choice: ["yes", "no"] } })).toMatch(/^(yes|no)$/);
  expect(await content({ structured_outputs: { regex: "a{3}" } })).toBe("aaa");
  expect(JSON.parse(await content({ structured_outputs: { json: { const: 5 } } }))).toBe(5);
  const grammar = 'root ::= "no" | "yes" tail\ntail ::= "!"*';
  expect(await content({ structured_outputs: { grammar } })).toMatch(/^(no|yes!*)$/);
  const text = {
    model: "tiny",
    prompt: "x",
    max_tokens: 9,
    structured_outputs: { choice: ["ab"] },
  };
  expect((await json(await post(app, "/v1/completions", text))).choices[0].text).toBe("ab");
});

test("the middle is filled between DeepSeek's tokens", async () => {
  const { app } = make();
  const body = { model: "tiny", prompt: "some", suffix: "words", max_tokens: 1 };
  const { usage } = await json(await post(app, "/v1/completions", body));
  const around = tokenizer.encode("some").length + tokenizer.encode("words").length;
  expect(usage.prompt_tokens).toBe(around + 4);
});

test("several prompts and several answers have their indices, streamed or not", async () => {
  const { app } = make();
  const body = { model: "tiny", prompt: ["some", [17, 18], "more"], n: 2, max_tokens: 4, seed: 9 };
  const mixed = await post(app, "/v1/completions", body);
  expect(mixed.status).toBe(400); // texts and ids do not mix

  const even = { ...body, prompt: ["some", "words", "more"], echo: true, ignore_eos: true };
  const whole = await json(await post(app, "/v1/completions", even));
  expect(whole.choices.map((choice: { index: number }) => choice.index)).toEqual([
    0, 1, 2, 3, 4, 5,
  ]);
  expect(whole.choices[2].text.startsWith("words")).toBe(true);
  const streamed = await (await post(app, "/v1/completions", { ...even, stream: true })).text();
  const texts = Array(6).fill("");
  const lines = streamed.trim().split("\n\n");
  expect(lines.pop()).toBe("data: [DONE]");
  for (const line of lines) {
    const [choice] = JSON.parse(line.slice(6)).choices;
    texts[choice.index] += choice.text;
  }
  expect(texts).toEqual(whole.choices.map((choice: { text: string }) => choice.text));
});

test("log-probabilities of completions stand beside their tokens and places", async () => {
  const { app } = make();
  const body = {
    model: "tiny",
    prompt: [20, 21],
    max_tokens: 5,
    logprobs: 2,
    ignore_eos: true,
    seed: 2,
  };
  const { choices } = await json(await post(app, "/v1/completions", body));
  const { tokens, token_logprobs, top_logprobs, text_offset } = choices[0].logprobs;
  expect([tokens, token_logprobs, top_logprobs, text_offset].map((x) => x.length)).toEqual([
    5, 5, 5, 5,
  ]);
  expect(text_offset[0]).toBe(0);
  expect(text_offset.at(-1)).toBeLessThanOrEqual(choices[0].text.length);
});

test("an echo with log-probabilities has the prompt's, streamed or not", async () => {
  const { app } = make();
  const path = "/v1/completions";
  const drawn = { model: "tiny", prompt: [20, 21, 22], max_tokens: 6, ignore_eos: true, seed: 4 };
  const body = { ...drawn, prompt: ["some words", "words"], n: 2, echo: true, logprobs: 2 };
  const whole = await json(await post(app, path, body));
  for (const [index, choice] of whole.choices.entries()) {
    const prompt = body.prompt[Math.floor(index / 2)]!;
    const length = tokenizer.encode(prompt, { addSpecial: true }).length;
    const { tokens, token_logprobs, top_logprobs, text_offset } = choice.logprobs;
    expect(tokens).toHaveLength(length + 6);
    expect([token_logprobs[0], top_logprobs[0], text_offset[0]]).toEqual([null, null, 0]);
    expect(token_logprobs.slice(1).every((x: number) => x <= 0)).toBe(true);
    expect(Object.keys(top_logprobs[1]).length).toBeGreaterThan(0);
    expect(choice.text.startsWith(prompt)).toBe(true);
    expect(text_offset[length]).toBe(prompt.length);
    expect(text_offset).toEqual(text_offset.toSorted((a: number, b: number) => a - b));
  }

  const streamed = await (await post(app, path, { ...body, stream: true })).text();
  const lines = streamed.trim().split("\n\n").slice(0, -1);
  // biome-ignore lint/suspicious/noExplicitAny: what a client sees is what is tested
  const seen: any[] = Array.from({ length: 4 }, () => ({ text: "", tokens: [], text_offset: [] }));
  for (const line of lines) {
    const [{ index, text, logprobs }] = JSON.parse(line.slice(6)).choices;
    seen[index].text += text;
    seen[index].tokens.push(...logprobs.tokens);
    seen[index].text_offset.push(...logprobs.text_offset);
  }
  expect(seen).toEqual(
    // biome-ignore lint/suspicious/noExplicitAny: what a client sees is what is tested
    whole.choices.map(({ text, logprobs: { tokens, text_offset } }: any) => {
      return { text, tokens, text_offset };
    }),
  );
});

test("every route but two wants a key, with every method that it has", async () => {
  const { app } = make({ apiKeys: ["first-key", "second-key"] });
  const wrong: Record<string, string>[] = [
    {},
    { authorization: "Bearer first-ke" },
    { "x-api-key": "" },
  ];
  const ask = (path: string, method: string, headers: Record<string, string>) =>
    app.fetch(new Request(`http://server${path}`, { method, headers }));
  const paths = app.routes.map(({ method, path }) => [method, path.replace(":name{.+}", "tiny")]);
  expect(paths.length).toBeGreaterThanOrEqual(7);
  for (const [method, path] of [...paths, ["GET", "/nowhere"], ["OPTIONS", chat]] as [
    string,
    string,
  ][]) {
    const open = path === "/health" || path === "/ready";
    for (const variant of [path, `${path}/`]) {
      if (open && variant === path) continue;
      for (const headers of wrong) {
        const response = await ask(variant, method, headers);
        expect([variant, response.status]).toEqual([variant, 401]);
        expect((await json(response)).error.type).toBe("authentication_error");
      }
    }
    const known = await ask(path, method, { authorization: "Bearer second-key" });
    expect(known.status).not.toBe(401);
    expect((await ask(path, method, { "x-api-key": "first-key" })).status).not.toBe(401);
  }
  expect((await ask("/health", "GET", {})).status).toBe(200);
});

test.each<[string, unknown, number, string]>([
  ["no JSON", "{", 400, "the body is no JSON"],
  ["a list", "[]", 400, "must be a JSON object"],
  ["a pit", `{"tools":${"[".repeat(100_000)}${"]".repeat(100_000)}}`, 400, "64 deep"],
  ["no model", { messages }, 400, "model: is missing"],
  [
    "another model",
    { ...base, model: "gpt-9" },
    404,
    '"gpt-9" is not served here; there is "tiny"',
  ],
  ["no messages", { ...base, messages: [] }, 400, "messages"],
  [
    "an unknown role",
    { ...base, messages: [{ role: "king", content: "" }] },
    400,
    "messages.0.role",
  ],
  [
    "a picture",
    { ...base, messages: [{ role: "user", content: [{ type: "image_url" }] }] },
    400,
    "messages.0.content",
  ],
  ["n of 2^31", { ...base, n: 2 ** 31 }, 400, "n: "],
  ["n of -1", { ...base, n: -1 }, 400, "n: "],
  [
    "NaN",
    '{"model":"tiny","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    400,
    "no JSON",
  ],
  ["too hot", { ...base, temperature: 2.1 }, 400, "temperature"],
  ["too many stops", { ...base, stop: Array(17).fill("x") }, 400, "stop"],
  ["an empty stop", { ...base, stop: "" }, 400, "stop: an empty text"],
  [
    "a bias on no token",
    { ...base, logit_bias: { 99999: 1 } },
    400,
    "logit_bias: token 0 is 99999",
  ],
  ["a bias on a word", { ...base, logit_bias: { x: 1 } }, 400, "logit_bias"],
  ["too long an answer", { ...base, max_tokens: 1e6 }, 400, "more than the context of 512"],
  ["an unknown format", { ...base, response_format: { type: "xml" } }, 400, "response_format.type"],
  [
    "a schema that is none",
    {
      ...base,
      response_format: { type: "json_schema", json_schema: { name: "x", schema: { type: "x" } } },
    },
    400,
    'format: schema, at #: type "x" is none',
  ],
  ["a pattern that is none", { ...base, structured_outputs: { regex: "(" } }, 400, 'pattern "("'],
  ["a grammar that is none", { ...base, structured_outputs: { grammar: "root ::= x" } }, 400, "x"],
])("%s is refused", async (_, body, status, message) => {
  const { app } = make();
  for (const stream of [false, true]) {
    const sent = typeof body === "string" ? body : { ...(body as object), stream };
    const response = await post(app, chat, sent);
    const { error } = await json(response);
    expect([response.status, error.message]).toEqual([status, expect.stringContaining(message)]);
    expect(error).toHaveProperty("type");
  }
});

test("a prompt longer than the context is refused by OpenAI's code, and an empty one by name", async () => {
  const { app } = make();
  const ask = async (prompt: unknown) =>
    (await json(await post(app, "/v1/completions", { model: "tiny", prompt, max_tokens: 1 })))
      .error;
  expect(await ask(Array(600).fill(5))).toMatchObject({
    code: "context_length_exceeded",
    param: "prompt",
  });
  expect(await ask([])).toMatchObject({ param: "prompt" });
  expect(await ask([99999])).toMatchObject({ param: "prompt" });
});

test("bodies have a limit and a type, and unknown places a 404", async () => {
  const { app } = make({ maxBody: 1000 });
  expect((await post(app, chat, { ...base, user: "x".repeat(1000) })).status).toBe(413);
  expect((await post(app, chat, "x=1", { "content-type": "text/plain" })).status).toBe(415);
  expect((await post(app, "/v1/nowhere", {})).status).toBe(404);
  const { data } = await json(await app.fetch(new Request("http://server/v1/models")));
  expect(data).toMatchObject([{ id: "tiny", object: "model", max_model_len: 512 }]);
});

test("a full queue is status 429, and the client is told to come again", async () => {
  const { app, engine } = make({}, { maxQueued: 2 });
  const responses = await Promise.all([0, 1, 2, 3].map(() => post(app, chat, base)));
  expect(responses.map(({ status }) => status)).toEqual([200, 200, 429, 429]);
  expect(responses[2]!.headers.get("retry-after")).toBe("1");
  expect((await json(responses[3]!)).error.code).toBe("rate_limit_exceeded");
  const many = await post(app, "/v1/completions", { model: "tiny", prompt: ["a", "b", "c"] });
  expect(many.status).toBe(429);
  await expect.poll(() => engine.stats()).toMatchObject({ running: 0, waiting: 0, usedBlocks: 0 });
});

test("a request that takes too long is ended, in a stream by an event", async () => {
  const { app, engine } = make({ timeout: 30 });
  const long = { model: "tiny", messages, ignore_eos: true };
  const whole = await post(app, chat, long);
  expect(whole.status).toBe(503);
  const streamed = await post(app, chat, { ...long, stream: true });
  expect(streamed.status).toBe(200);
  const last = (await streamed.text()).trim().split("\n\n").at(-1)!;
  expect(JSON.parse(last.slice(6)).error.code).toBe("timeout");
  await expect.poll(() => engine.stats().usedBlocks).toBe(0);
});

test("an error inside is not told to clients, but to the log", async () => {
  const errors: object[] = [];
  const log = { debug() {}, info() {}, error: (fields: object) => errors.push(fields) };
  const load = () => Promise.reject(new Error("no such secret place"));
  const app = createApp({ models: new Models([{ name: "tiny", load }]), log });
  const response = await post(app, chat, base, { "x-request-id": "mine" });
  expect(response.status).toBe(503);
  expect(await response.text()).not.toContain("secret");
  expect(errors).toMatchObject([{ requestId: "mine", err: { message: "no such secret place" } }]);
});

test("an engine that has failed is replaced by the next request", async () => {
  const { app, engine } = make();
  expect((await post(app, chat, base)).status).toBe(200);
  await engine.dispose();
  expect((await post(app, chat, base)).status).toBe(200);
});

test("metrics are exact", async () => {
  const { app } = make();
  const body = {
    model: "tiny",
    prompt: [
      [5, 6, 7],
      [8, 9],
    ],
    max_tokens: 10,
    ignore_eos: true,
  };
  await post(app, "/v1/completions", body);
  const text = await (await app.fetch(new Request("http://server/metrics"))).text();
  for (const line of [
    'vllm:prompt_tokens_total{model_name="tiny"} 5',
    'vllm:generation_tokens_total{model_name="tiny"} 20',
    'vllm:request_success_total{model_name="tiny",finished_reason="length"} 2',
    'vllm:time_to_first_token_seconds_count{model_name="tiny"} 2',
    'vllm:inter_token_latency_seconds_count{model_name="tiny"} 18',
    'vllm:e2e_request_latency_seconds_count{model_name="tiny"} 2',
    'vllm:num_requests_running{model_name="tiny"} 0',
    'vllm:kv_cache_usage_perc{model_name="tiny"} 0',
  ]) {
    expect(text.split("\n")).toContain(line);
  }
});
