import { connect } from "node:net";
import OpenAI from "openai";
import { afterEach, expect, test } from "vitest";
import { type Listening, listen } from "./listen.ts";
import { tiny } from "./testing/tiny.ts";

const make = tiny();
const open: Listening[] = [];
afterEach(async () => {
  for (const server of open.splice(0)) await server.close(0);
});

async function serveTiny(...options: Parameters<typeof make>) {
  const { app, engine } = make(...options);
  const server = await listen(app, { port: 0 });
  open.push(server);
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "secret", maxRetries: 0 });
  return { server, engine, client };
}

const idle = { running: 0, waiting: 0, usedBlocks: 0 };
const messages = [{ role: "user" as const, content: "some words" }];
const base = { model: "tiny", messages, max_tokens: 8, seed: 4 };
const endless = { model: "tiny", messages, ignore_eos: true };
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

test("OpenAI's client chats, streams, asks for log-probabilities and lists models", async () => {
  const { client } = await serveTiny({ apiKeys: ["secret"] });
  const whole = await client.chat.completions.create({ ...base, logprobs: true, top_logprobs: 3 });
  const { message, finish_reason, logprobs } = whole.choices[0]!;
  expect(finish_reason).toMatch(/stop|length/);
  expect(logprobs!.content).toHaveLength(whole.usage!.completion_tokens);
  expect(logprobs!.content![0]!.top_logprobs).toHaveLength(3);

  const stream = await client.chat.completions.create({
    ...base,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage: unknown;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  expect(text).toBe(message.content);
  expect(usage).toMatchObject({ completion_tokens: whole.usage!.completion_tokens });

  expect((await client.models.list()).data.map(({ id }) => id)).toEqual(["tiny"]);
  expect((await client.models.retrieve("tiny")).id).toBe("tiny");
  const completion = await client.completions.create({
    model: "tiny",
    prompt: "some",
    max_tokens: 2,
  });
  expect(completion.object).toBe("text_completion");
});

test("answers that begin before they are there are whole", async () => {
  const { client, server, engine } = await serveTiny({ keepAlive: 1 });
  const whole = await client.chat.completions.create(base);
  const stream = await client.chat.completions.create({ ...base, stream: true });
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]!.delta.content ?? "";
  expect(text).toBe(whole.choices[0]!.message.content);
  // On DeepSeek's paths those without a stream do so too.
  const deepseek = new OpenAI({ baseURL: server.url, apiKey: "x", maxRetries: 0 });
  expect((await deepseek.chat.completions.create(base)).choices).toEqual(whole.choices);
  const gone = await client.chat.completions.create({ ...endless, stream: true });
  for await (const _ of gone) break;
  await expect.poll(() => engine.stats(), { timeout: 5000 }).toMatchObject(idle);
});

test("OpenAI's client knows our errors", async () => {
  const { client, server } = await serveTiny({ apiKeys: ["secret"] });
  const create = (body: object) => client.chat.completions.create({ ...base, ...body });
  await expect(create({ model: "other" })).rejects.toThrow(OpenAI.NotFoundError);
  await expect(create({ n: -1 })).rejects.toThrow(OpenAI.BadRequestError);
  const stranger = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "wrong", maxRetries: 0 });
  await expect(stranger.models.list()).rejects.toThrow(OpenAI.AuthenticationError);
});

test("clients that leave free their blocks: before, during and without a stream", async () => {
  const { client, engine } = await serveTiny();
  const stream = await client.chat.completions.create({ ...endless, stream: true });
  for await (const _ of stream) break;
  const controller = new AbortController();
  const whole = client.chat.completions.create(endless, { signal: controller.signal });
  await pause(20);
  controller.abort();
  await expect(whole).rejects.toThrow();
  await expect.poll(() => engine.stats(), { timeout: 5000 }).toMatchObject(idle);
});

test("after a storm of clients that give up, the next one is answered at once", async () => {
  const { client, engine } = await serveTiny({}, { maxRunning: 8 });
  const storm = Array.from({ length: 200 }, () =>
    client.chat.completions.create(endless, { timeout: 500 }).then(
      () => "answered",
      () => "gave up",
    ),
  );
  await Promise.all(storm);
  const began = performance.now();
  await client.chat.completions.create(base);
  expect(performance.now() - began).toBeLessThan(5000);
  await expect.poll(() => engine.stats(), { timeout: 5000 }).toMatchObject(idle);
}, 30_000);

test("connections wait two minutes for the next request, and clients are told so", async () => {
  const { server } = await serveTiny();
  const health = await fetch(`${server.url}/health`);
  expect(health.headers.get("keep-alive")).toBe("timeout=120");
});

test("closing lets answers at work end, and takes no new ones", async () => {
  const { client, server, engine } = await serveTiny();
  const answer = client.chat.completions.create({ ...endless, max_tokens: 200 });
  await expect.poll(() => engine.stats().running, { interval: 1 }).toBe(1);
  const closed = server.close(10_000);
  await expect(client.chat.completions.create(base)).rejects.toThrow();
  expect((await answer).choices).toHaveLength(1);
  await closed;
});

test("closing without patience ends answers with an error, not cut off in silence", async () => {
  const { client, server } = await serveTiny({}, { maxContext: 512 });
  const body = { ...endless, n: 16, stream: true as const };
  const stream = await client.chat.completions.create(body);
  const reading = (async () => {
    for await (const _ of stream) await pause(0);
  })();
  const failed = expect(reading).rejects.toThrow("the server stopped");
  await pause(20);
  const began = performance.now();
  await server.close(10);
  expect(performance.now() - began).toBeLessThan(2000);
  await failed;
});

test("giant headers are refused", async () => {
  const { server } = await serveTiny();
  const { hostname, port } = new URL(server.url);
  const answer = await new Promise<string>((resolve, reject) => {
    const socket = connect(Number(port), hostname);
    socket.on("data", (data) => resolve(String(data)));
    socket.on("error", reject);
    socket.write(`GET /health HTTP/1.1\r\nhost: x\r\nx: ${"a".repeat(20_000)}\r\n\r\n`);
  });
  expect(answer).toMatch(/^HTTP\/1.1 431/);
});

test("a port that is taken is an error", async () => {
  const { server } = await serveTiny();
  const { app } = make();
  const port = Number(new URL(server.url).port);
  await expect(listen(app, { port })).rejects.toThrow(/EADDRINUSE/);
});

test("a connection waits for its answer as long as that takes, but not for its request", async () => {
  const fetched = async (request: Request) => {
    await request.text();
    await pause(700);
    return new Response("late");
  };
  const app = { fetch: fetched, routes: [], drain() {}, abort() {} };
  const server = await listen(app, { port: 0, idleTimeout: 150 });
  open.push(server);
  const body = { method: "POST", body: "whole" };
  expect(await (await fetch(server.url, body)).text()).toBe("late");
  const began = performance.now();
  const silent = ["", "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf"].map((text) => {
    const socket = connect(Number(new URL(server.url).port));
    socket.write(text);
    socket.resume();
    return new Promise((resolve) => socket.on("error", () => {}).on("close", resolve));
  });
  await Promise.all(silent);
  expect(performance.now() - began).toBeLessThan(650);
});
