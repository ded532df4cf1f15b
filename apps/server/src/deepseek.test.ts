/** What DeepSeek's own interface has beside OpenAI's (https://api-docs.deepseek.com). */
import OpenAI from "openai";
import { expect, test } from "vitest";
import { type AppOptions, createApp } from "./app.ts";
import { Models } from "./models.ts";
import { post, tinyModels, tokenizer } from "./testing/tiny.ts";

const load = tinyModels();
function make(options: Partial<AppOptions> = {}) {
  const models = new Models([{ name: "tiny", load: async () => load() }]);
  return { app: createApp({ models, ...options }) };
}
const messages = [{ role: "user", content: "some words" }];
const base = { model: "tiny", messages, max_tokens: 4, temperature: 0, ignore_eos: true };

// biome-ignore lint/suspicious/noExplicitAny: what a client sees is what is tested
const json = async (response: Response): Promise<any> => response.json();
const ids = (s: string) => Array.from(tokenizer.encode(s, { allowSpecial: true }));

test.each(["", "/beta", "/v1"])("its base URL is the server's own, with %j", async (prefix) => {
  const { app } = make();
  const fetch = async (url: unknown, init?: RequestInit) =>
    app.fetch(new Request(url as string, init));
  const client = new OpenAI({ baseURL: `http://server${prefix}`, apiKey: "x", fetch });
  expect((await client.models.list()).data[0]!.id).toBe("tiny");
  const chat = await client.chat.completions.create(base as never);
  expect(chat.object).toBe("chat.completion");
  const filled = await client.completions.create({ ...base, prompt: "some", suffix: "words" });
  expect(filled.choices[0]!.finish_reason).toBe("length");
});

test("its errors have its statuses and body", async () => {
  const { app } = make({ apiKeys: ["key"] });
  const key = { authorization: "Bearer key" };
  const told = async (body: unknown, headers: Record<string, string> = key) => {
    const response = await post(app, "/chat/completions", body, headers);
    return [response.status, (await json(response)).error];
  };
  const error = { type: "invalid_request_error", param: null, code: "invalid_request_error" };
  const message = expect.any(String);
  expect(await told({ ...base, model: "x" })).toEqual([
    400,
    { ...error, message: "Model Not Exist" },
  ]);
  expect(await told({ ...base, temperature: 3 })).toEqual([422, { ...error, message }]);
  expect(await told("{")).toEqual([400, { ...error, message }]);
  expect(await told(base, {})).toEqual([401, { ...error, message, type: "authentication_error" }]);
});

test("an answer goes on from given words and thoughts", async () => {
  const { app } = make();
  const start = "<｜begin▁of▁sentence｜><｜User｜>some words<｜Assistant｜>";
  const ask = async (last: object, more: object = {}) => {
    const opened = [...messages, { role: "assistant", prefix: true, ...last }];
    return json(await post(app, "/beta/chat/completions", { ...base, ...more, messages: opened }));
  };
  const raw = async (prompt: string) =>
    (await json(await post(app, "/v1/completions", { ...base, prompt: ids(prompt) }))).choices[0]
      .text;
  const words = await ask({ content: "well," });
  expect(words.choices[0].message.content).toBe(await raw(`${start}well,`));
  const thought = await ask({ content: "well,", reasoning_content: "hm" });
  expect(thought.choices[0].message).toMatchObject({
    content: await raw(`${start}<think>hm</think>well,`),
  });
  expect(thought.choices[0].message).not.toHaveProperty("reasoning_content");
  // Where the model is to think, the words that are given are its first thoughts.
  const thinking = await ask({ content: "well," }, { thinking: { type: "enabled" } });
  expect(thinking.choices[0].message.reasoning_content).toBe(await raw(`${start}<think>well,`));

  expect((await ask({ content: "" })).error.message).toContain("nothing to go on from");
  const tool_calls = [{ function: { name: "f", arguments: "{}" } }];
  expect((await ask({ content: "x", tool_calls })).error.message).toContain("not from calls");
});

test("thoughts of earlier turns are taken, and left out of the prompt", async () => {
  const { app } = make();
  const count = async (turn: object) => {
    const body = { ...base, messages: [...messages, { role: "assistant", ...turn }, ...messages] };
    return (await json(await post(app, "/chat/completions", body))).usage.prompt_tokens;
  };
  expect(await count({ content: "yes", reasoning_content: "hm, well" })).toBe(
    await count({ content: "yes" }),
  );
});

test("log-probabilities of thoughts stand apart from those of words", async () => {
  const { app } = make();
  const logit_bias = { [tokenizer.specialId("thinkEnd")]: 100 };
  const body = { ...base, logprobs: true, thinking: { type: "enabled" }, logit_bias };
  const whole = (await json(await post(app, "/chat/completions", body))).choices[0].logprobs;
  // The first token ends the thoughts.
  expect([whole.reasoning_content.length, whole.content.length]).toEqual([1, 3]);
  const text = await (await post(app, "/chat/completions", { ...body, stream: true })).text();
  const chunks = text.trim().split("\n\n").slice(1, -1);
  const kinds = chunks.map((chunk) => {
    const { logprobs } = JSON.parse(chunk.slice(6)).choices[0];
    return logprobs.content ? "content" : logprobs.reasoning_content ? "reasoning" : "none";
  });
  expect(kinds).toEqual(["reasoning", "content", "content", "content"]);
});

test("who waits is sent what clients skip: comments in streams, empty lines before JSON", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const model = load();
  const models = new Models([{ name: "tiny", load: async () => promise.then(() => model) }]);
  const app = createApp({ models, keepAlive: 5 });
  const whole = await post(app, "/chat/completions", base);
  const streamed = await post(app, "/chat/completions", { ...base, stream: true });
  const wrong = await post(app, "/chat/completions", { ...base, max_tokens: 9999 });
  const wrongStream = await post(app, "/v1/messages", { ...base, max_tokens: 9999, stream: true });
  const patient = post(app, "/v1/chat/completions", { ...base, max_tokens: 9999 });
  expect([whole.status, whole.headers.get("content-type")]).toEqual([200, "application/json"]);
  expect(streamed.headers.get("content-type")).toMatch(/^text\/event-stream/);
  setTimeout(resolve, 30);
  const text = await whole.text();
  expect(text).toMatch(/^\n{2,}\{/);
  expect(JSON.parse(text).choices).toHaveLength(1);
  const events = await streamed.text();
  expect(events).toMatch(/^(: keep-alive\n\n){2,}data: \{/);
  expect(events.endsWith("data: [DONE]\n\n")).toBe(true);
  expect((await json(wrong)).error.message).toContain("more than the context");
  expect(await wrongStream.text()).toMatch(/\n\nevent: error\ndata: \{"type":"error",.*\}\n\n$/);
  // OpenAI's clients look at the status.
  expect((await patient).status).toBe(400);
});
