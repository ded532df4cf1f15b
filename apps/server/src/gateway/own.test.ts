/** Our own servers as upstreams: what they answer is the same with a gateway before them. */
import { afterEach, expect, test } from "vitest";
import { type App, createApp } from "../app.ts";
import { type Listening, listen } from "../listen.ts";
import { Models } from "../models.ts";
import { config, post, tinyModels } from "../testing/tiny.ts";
import { Gateway } from "./gateway.ts";

const load = tinyModels();
const make = () => {
  const model = load();
  const models = new Models([{ name: "tiny", maxContext: 512, load: async () => model }]);
  return { app: createApp({ models }), engine: model.engine };
};
const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

/** A gateway before servers on ports. */
async function before(
  ...apps: App[]
): Promise<{ app: App; servers: Listening[]; gateway: Gateway }> {
  const servers = await Promise.all(apps.map((app) => listen(app, { port: 0 })));
  const gateway = await Gateway.open({ upstreams: servers.map(({ url }) => ({ url })) });
  ends.push(...servers.map((server) => () => server.close(0)), () => gateway.close());
  return { app: createApp({ models: new Models([]), gateway }), servers, gateway };
}

/** What differs between two answers to the same request. */
const masked = (text: string) =>
  text
    .replaceAll(/[\da-f]{8}-?[\da-f]{4}-?[\da-f]{4}-?[\da-f]{4}-?[\da-f]{12}/g, "ID")
    .replaceAll(/"(created|created_at|completed_at)":\d+/g, '"$1":0');

const messages = [{ role: "user", content: "some words" }];
const common = { model: "tiny", seed: 7, max_tokens: 12, max_output_tokens: 16 };
const functions = [
  {
    type: "function",
    function: {
      name: "f",
      parameters: {
        type: "object",
        properties: { a: { type: "integer", maximum: 9 } },
        required: ["a"],
      },
    },
  },
];
const schema = { type: "object", properties: { a: { enum: [1, 2] } }, required: ["a"] };
const asks: [string, string, object][] = [
  ["a conversation", "/v1/chat/completions", { messages, n: 2, logprobs: true, top_logprobs: 2 }],
  ["thoughts", "/v1/chat/completions", { messages, thinking: { type: "enabled" } }],
  ["a call", "/v1/chat/completions", { messages, tools: functions, tool_choice: "required" }],
  [
    "bound answers",
    "/v1/chat/completions",
    { messages, structured_outputs: { json: schema }, max_completion_tokens: 40 },
  ],
  [
    "DeepSeek's prefix",
    "/beta/chat/completions",
    { messages: [...messages, { role: "assistant", content: "some", prefix: true }] },
  ],
  ["a text", "/v1/completions", { prompt: ["some", "words"], echo: true, logprobs: 1 }],
  ["a hole", "/beta/completions", { prompt: "some", suffix: "words" }],
  ["embeddings", "/v1/embeddings", { input: ["some", "words"], encoding_format: "base64" }],
  ["a response", "/v1/responses", { input: "some words", instructions: "be brief" }],
  ["Anthropic's messages", "/v1/messages", { messages, stop_sequences: ["zzz"] }],
  [
    "its call",
    "/anthropic/v1/messages",
    {
      messages,
      tools: [{ name: "f", input_schema: functions[0]!.function.parameters }],
      tool_choice: { type: "any" },
    },
  ],
  ["its count", "/v1/messages/count_tokens", { messages, system: "be brief" }],
  ["ids of a text", "/tokenize", { prompt: "some words" }],
  ["ids of a conversation", "/tokenize", { messages }],
  ["the text of ids", "/detokenize", { tokens: [20, 21] }],
  ["another model", "/v1/chat/completions", { messages, model: "x" }],
  ["a wrong value", "/v1/chat/completions", { messages, temperature: 9 }],
  ["a wrong value at DeepSeek's", "/chat/completions", { messages, temperature: 9 }],
  ["a wrong value at Anthropic's", "/v1/messages", { messages, temperature: 9 }],
  ["too long", "/v1/completions", { prompt: Array(600).fill(20) }],
  ["nothing", "/v1/responses", {}],
];

test.each(asks)("%s: %s", async (_, path, more) => {
  const { app: own } = make();
  const { app } = await before(own);
  // Sampled with a seed where a route takes one, and the likeliest token elsewhere.
  const body = { ...common, ...(/messages$|responses$/.test(path) && { temperature: 0 }), ...more };
  const streams = /completions$|responses$|messages$/.test(path);
  for (const stream of streams ? [false, true] : [false]) {
    const options = stream &&
      path.endsWith("completions") && { stream_options: { include_usage: true } };
    const given = { ...body, ...(streams && { stream }), ...options };
    // The first one fills the cache, so that both others find the same in it.
    await (await post(own, path, given)).text();
    const direct = await post(own, path, given);
    const passed = await post(app, path, given);
    expect([passed.status, passed.headers.get("content-type")]).toEqual([
      direct.status,
      direct.headers.get("content-type"),
    ]);
    const [one, other] = [masked(await direct.text()), masked(await passed.text())];
    if (stream && /messages$|responses$/.test(path) && direct.status === 200) {
      // Of a model elsewhere, the tokens of the prompt are known at the end.
      const untold = (text: string) => text.replace(/"usage":{"input_tokens":\d+/, '"usage":{');
      expect(untold(other)).toBe(untold(one));
    } else expect(other.replace("ID", "")).toBe(one.replace("ID", ""));
  }
});

test("a client that goes frees the cache of the server behind", async () => {
  const { app: own, engine } = make();
  const { app } = await before(own);
  const front = await listen(app, { port: 0 });
  ends.push(() => front.close(0));
  const controller = new AbortController();
  const asked = Array.from({ length: 8 }, async (_, i) => {
    const response = await fetch(`${front.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "tiny", messages, ignore_eos: true, stream: i % 2 === 0 }),
      signal: controller.signal,
    });
    return response.text();
  });
  await expect.poll(() => engine.stats().running).toBe(8);
  controller.abort();
  await Promise.allSettled(asked);
  const idle = { running: 0, waiting: 0, usedBlocks: 0 };
  await expect.poll(() => engine.stats(), { timeout: 2000 }).toMatchObject(idle);
});

test("of two servers one is killed under load: who had no byte is answered, the rest is told", async () => {
  const one = make();
  const two = make();
  const { app, servers } = await before(one.app, two.app);
  const ask = async (i: number) => {
    const body = { ...common, max_tokens: 200, ignore_eos: true, stream: i % 2 === 0 };
    const content = `question ${i}`;
    const answer = await post(app, "/v1/chat/completions", {
      ...body,
      messages: [{ role: "user", content }],
    });
    return [answer.status, await answer.text()] as const;
  };
  const asked = Array.from({ length: 16 }, (_, i) => ask(i));
  await expect.poll(() => one.engine.stats().running).toBeGreaterThan(1);
  await servers[0]!.close(0);
  let cut = 0;
  for (const [i, answer] of (await Promise.all(asked)).entries()) {
    const [status, text] = answer;
    expect(status).toBe(200);
    if (i % 2 === 1) expect(JSON.parse(text).choices[0].finish_reason).toBe("length");
    else if (text.includes('"error"')) cut++;
    else expect(text).toMatch(/"finish_reason":"length".*\n\n(.*\n\n)*data: \[DONE\]\n\n$/);
  }
  expect(cut).toBeLessThan(8);
  expect((await ask(99))[0]).toBe(200);
});

test("this machine's own model is one more that may answer, and its lack of room a refusal", async () => {
  const there = make();
  const { gateway } = await before(there.app);
  const here = load({ maxRunning: 1, maxQueued: 1, maxContext: config.maxPositionEmbeddings });
  const models = new Models([
    { name: "tiny", load: async () => here },
    { name: "own", load: async () => load() },
  ]);
  const app = createApp({ models, gateway });
  const list = await app.fetch(new Request("http://server/v1/models"));
  expect(await list.json()).toMatchObject({ data: [{ id: "tiny" }, { id: "own" }] });
  const ask = async (model: string, i: number) => {
    const body = {
      model,
      max_tokens: 20,
      ignore_eos: true,
      messages: [{ role: "user", content: `${i}` }],
    };
    const answer = await post(app, "/v1/chat/completions", body);
    return answer.status;
  };
  const statuses = await Promise.all(Array.from({ length: 24 }, (_, i) => ask("tiny", i)));
  expect(statuses).toEqual(Array(24).fill(200));
  expect(here.engine.stats().generatedTokens).toBeGreaterThanOrEqual(20);
  expect(there.engine.stats().generatedTokens + here.engine.stats().generatedTokens).toBe(24 * 20);
  expect(await ask("own", 1)).toBe(200);
  const metrics = await (await app.fetch(new Request("http://server/metrics"))).text();
  const names = metrics
    .split("\n")
    .filter((line) => line.startsWith("vllm:generation_tokens_total"));
  expect(names).toHaveLength(3);
  const lines = metrics.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  const labels = lines.map((line) => line.slice(0, line.lastIndexOf(" ")));
  expect(new Set(labels).size).toBe(labels.length);
});
