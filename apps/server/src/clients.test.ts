/** The clients that people use, against the server on a port. */
import { createDeepSeek } from "@ai-sdk/deepseek";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { ChatDeepSeek } from "@langchain/deepseek";
import { embedMany, generateText, jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";
import { afterEach, expect, test } from "vitest";
import { createApp } from "./app.ts";
import { type Listening, listen } from "./listen.ts";
import { Models } from "./models.ts";
import { tiny } from "./testing/tiny.ts";

const make = tiny();
const open: Listening[] = [];
afterEach(async () => {
  for (const server of open.splice(0)) await server.close(0);
});

async function serveTiny(): Promise<string> {
  const server = await listen(make({ apiKeys: ["secret"] }).app, { port: 0 });
  open.push(server);
  return server.url;
}

const schema = {
  type: "object" as const,
  properties: { city: { type: "string" as const, maxLength: 6 } },
  required: ["city"],
  additionalProperties: false,
};
const city = { city: expect.any(String) };

test("Anthropic's client converses, streams, calls tools, counts tokens and knows our errors", async () => {
  const client = new Anthropic({ baseURL: await serveTiny(), apiKey: "secret", maxRetries: 0 });
  const messages = [{ role: "user" as const, content: "some words" }];
  const base = { model: "tiny", max_tokens: 8, messages, temperature: 0 };
  const whole = await client.messages.create(base);
  const stream = client.messages.stream(base);
  const streamed = await stream.finalMessage();
  expect(streamed.content).toEqual(whole.content);
  expect(streamed.stop_reason).toBe(whole.stop_reason);
  expect(streamed.usage.output_tokens).toBe(whole.usage.output_tokens);
  const tools = [{ name: "weather", input_schema: schema }];
  const asked = { ...base, max_tokens: 80, tools, tool_choice: { type: "any" as const } };
  for (const { content } of [
    await client.messages.create(asked),
    await client.messages.stream(asked).finalMessage(),
  ]) {
    expect(content).toMatchObject([{ type: "tool_use", name: "weather", input: city }]);
  }
  const count = await client.messages.countTokens({ model: "tiny", messages });
  expect(count.input_tokens).toBe(
    whole.usage.input_tokens + (whole.usage.cache_read_input_tokens ?? 0),
  );
  const wrong = client.messages.create({ ...base, model: "x" });
  await expect(wrong).rejects.toThrow(Anthropic.NotFoundError);
  await expect(wrong).rejects.toMatchObject({ requestID: expect.stringMatching(/^[\da-f-]{36}$/) });
});

test.each(["deepseek", "openai-compatible"])("the AI SDK's %s provider", async (name) => {
  const baseURL = `${await serveTiny()}/v1`;
  const settings = { baseURL, apiKey: "secret" };
  const model =
    name === "deepseek"
      ? createDeepSeek(settings)("tiny")
      : createOpenAICompatible({ name: "ours", ...settings })("tiny");
  const base = { model, prompt: "some words", temperature: 0, maxOutputTokens: 8, maxRetries: 0 };
  const whole = await generateText(base);
  expect(whole.usage.outputTokens).toBe(8);
  const streamed = streamText(base);
  let text = "";
  for await (const piece of streamed.textStream) text += piece;
  expect(text).toBe(whole.text);

  const tools = { weather: tool({ inputSchema: jsonSchema(schema) }) };
  const asked = { ...base, maxOutputTokens: 80, tools, toolChoice: "required" as const };
  expect((await generateText(asked)).toolCalls).toMatchObject([
    { toolName: "weather", input: city },
  ]);
  expect(await streamText(asked).toolCalls).toMatchObject([{ toolName: "weather", input: city }]);
});

test("the AI SDK's deepseek provider knows DeepSeek's errors, at its own base URL", async () => {
  const deepseek = createDeepSeek({ baseURL: await serveTiny(), apiKey: "secret" });
  const ask = (name: string) =>
    generateText({ model: deepseek(name), prompt: "some", maxOutputTokens: 2, maxRetries: 0 });
  expect((await ask("tiny")).usage.outputTokens).toBe(2);
  await expect(ask("other")).rejects.toThrow(/^Model Not Exist$/);
});

test("the AI SDK's embeddings", async () => {
  const settings = { name: "ours", baseURL: `${await serveTiny()}/v1`, apiKey: "secret" };
  const model = createOpenAICompatible(settings).embeddingModel("tiny");
  const { embeddings, usage } = await embedMany({ model, values: ["some", "some words"] });
  expect(embeddings).toHaveLength(2);
  expect(Math.hypot(...embeddings[1]!)).toBeCloseTo(1, 5);
  expect(usage.tokens).toBeGreaterThan(2);
});

test("a failure that comes after the stream has begun is an error for each client", async () => {
  const load = () =>
    new Promise<never>((_, reject) => setTimeout(reject, 30, new Error("is broken")));
  // A load that failed is not tried again at once.
  const begin = async () => {
    const models = new Models([{ name: "tiny", load }]);
    const server = await listen(createApp({ models, keepAlive: 5 }), { port: 0 });
    open.push(server);
    return server.url;
  };
  const base = { model: "tiny", messages: [{ role: "user" as const, content: "some words" }] };
  const asked = { ...base, stream: true as const, max_tokens: 5 };
  const settings = { apiKey: "x", maxRetries: 0 };
  const openai = async () => new OpenAI({ baseURL: `${await begin()}/v1`, ...settings });
  const anthropic = new Anthropic({ baseURL: await begin(), ...settings });
  for (const stream of [
    await (await openai()).chat.completions.create(asked),
    await (await openai()).responses.create({ model: "tiny", input: "x", stream: true }),
    await anthropic.messages.create(asked),
  ]) {
    const reading = (async () => {
      for await (const _ of stream as AsyncIterable<unknown>);
    })();
    await expect(reading).rejects.toThrow("could not be loaded");
  }
});

test("LangChain's client of DeepSeek", async () => {
  const client = new ChatDeepSeek({
    model: "tiny",
    apiKey: "secret",
    configuration: { baseURL: `${await serveTiny()}/v1` },
    temperature: 0,
    maxTokens: 80,
    maxRetries: 0,
  });
  const whole = await client.invoke("some words", { stop: [] });
  let text = "";
  for await (const chunk of await client.stream("some words")) text += chunk.text;
  expect(text).toBe(whole.text);
  const weather = {
    type: "function" as const,
    function: { name: "weather", description: "tells it", parameters: schema },
  };
  const called = await client.bindTools([weather], { tool_choice: "required" }).invoke("words");
  expect(called.tool_calls).toMatchObject([{ name: "weather", args: city }]);
});
