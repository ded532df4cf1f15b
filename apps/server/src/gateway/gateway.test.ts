/** Which engine is asked, and who is asked next. */
import { expect, test } from "vitest";
import { createApp } from "../app.ts";
import { Models } from "../models.ts";
import { fakeUpstream, json, says } from "../testing/fake-upstream.ts";
import { chat, diary, favouring, fronts, messages } from "../testing/gateway.ts";
import { post } from "../testing/tiny.ts";
import { Gateway } from "./gateway.ts";

const front = fronts();

const get = (app: { fetch(request: Request): Response | Promise<Response> }, path: string) =>
  app.fetch(new Request(`http://server${path}`));

// biome-ignore lint/suspicious/noExplicitAny: what a client sees is what is tested
const told = async (response: Response): Promise<any> => response.json();

test.each<[string, number, object]>([
  ["has failed", 500, { error: { message: "CUDA error at 0x7f00", type: "server_error" } }],
  ["is dead", 503, { detail: "engine dead" }],
  ["is busy", 429, { error: { message: "queue full" } }],
  ["has no such model any more", 404, { error: { message: "no model m", code: 404 } }],
  ["does not know our key", 401, { error: { message: "who is upstream-secret?" } }],
  ["is a proxy to nowhere", 502, {}],
  ["leads elsewhere", 307, {}],
])("one that %s is not the last that is asked: %i", async (_, status, body) => {
  const fronted = await front([json(status, body, { location: "http://127.0.0.1:1/" }), says("b")]);
  const { app, fakes, lines } = fronted;
  for (const stream of [false, true]) {
    const answer = await post(app, chat, { ...favouring(fronted, 0), stream });
    expect(answer.status).toBe(200);
    expect(await answer.text()).toContain('"content":"b"');
  }
  expect(fakes.map(({ asked }) => asked.length)).toEqual([2, 2]);
  const refused = lines.filter(({ message }) => message === "upstream refused");
  expect(refused).toMatchObject(Array(2).fill({ level: "info", upstream: fakes[0]!.url }));
  expect(lines.filter(({ message }) => message === "request")).toMatchObject(
    Array(2).fill({ upstream: fakes[1]!.url, status: 200, model: "m", completionTokens: 2 }),
  );
  const metrics = await (await get(app, "/metrics")).text();
  expect(metrics).toContain(`dsv3:upstream_retries_total{server="${fakes[0]!.url}"} 2`);
  expect(metrics).toContain(
    `dsv3:upstream_requests_total{server="${fakes[0]!.url}",outcome="${status}"} 2`,
  );
  expect(metrics).toContain(`dsv3:upstream_retries_total{server="${fakes[1]!.url}"} 0`);
});

test.each<[string, number, object, object]>([
  [
    "a value that does not fit",
    400,
    { error: { message: "top_p must be at most 1", param: "top_p", code: 400 } },
    {
      type: "invalid_request_error",
      message: "top_p must be at most 1",
      param: "top_p",
      code: null,
    },
  ],
  [
    "vLLM's older errors",
    400,
    { object: "error", message: "too long", type: "BadRequestError", code: 400 },
    { type: "invalid_request_error", message: "too long" },
  ],
  ["FastAPI's", 422, { detail: "no" }, { message: "no" }],
  ["our own", 400, { error: { message: "n", code: "invalid_value" } }, { code: "invalid_value" }],
])(
  "what is wrong in a request is told at once, in the engine's words: %s",
  async (_, status, body, error) => {
    const fronted = await front([json(status, body), says("b")]);
    const answer = await post(fronted.app, chat, favouring(fronted, 0));
    expect([answer.status, await told(answer)]).toMatchObject([status, { error }]);
    expect(fronted.fakes[1]!.asked).toEqual([]);
  },
);

test("where all refuse, clients hear when to come again, and nothing of what is broken", async () => {
  const busy = json(429, { error: { message: "queue full" } }, { "retry-after": "7" });
  const broken = json(500, { error: { message: "CUDA error at 10.0.0.5" } });
  const dead = json(503, { detail: "stack: /usr/lib" }, { "retry-after": "9" });
  for (const [answers, status, after] of [
    [[broken, busy], 429, "7"],
    [[busy, broken], 429, "7"],
    [[broken, dead], 503, "9"],
    [[dead, broken], 500, null],
  ] as const) {
    const fronted = await front(answers);
    const answer = await post(fronted.app, chat, favouring(fronted, 0));
    expect([answer.status, answer.headers.get("retry-after")]).toEqual([status, after]);
    const text = await answer.text();
    expect(text).not.toMatch(/CUDA|10\.0\.0|usr/);
    if (status !== 429)
      expect(JSON.stringify(fronted.lines.map(({ problem }) => problem))).toMatch(/CUDA|usr/);
  }
});

test("one that is gone is left out after three failures, and is asked again once it is back", async () => {
  const fronted = await front([says("a"), says("b")]);
  const { app, fakes, gateway, lines } = fronted;
  const body = favouring(fronted, 0);
  const word = async () => (await told(await post(app, chat, body))).choices[0].message.content;
  expect(await word()).toBe("a");
  await fakes[0]!.close();
  for (let i = 0; i < 5; i++) expect(await word()).toBe("b");
  expect(gateway.health).toEqual({ healthy: 1, total: 2 });
  const refusals = lines.filter(({ message }) => message === "upstream refused");
  expect(refusals).toHaveLength(3);
  await gateway.check();
  await gateway.check();
  const again = await fakeUpstream(says("a again"), { port: Number(new URL(fakes[0]!.url).port) });
  expect(await word()).toBe("b");
  await gateway.check();
  expect(await word()).toBe("a again");
  await again.close();
  const logged = lines.filter(
    ({ upstream, message }) => upstream && message !== "request" && message !== "upstream refused",
  );
  expect(logged).toMatchObject([
    { level: "info", message: "upstream is well" },
    { level: "info", message: "upstream is well" },
    { level: "error", message: "upstream does not answer" },
    { level: "debug", message: "upstream does not answer" },
    { level: "info", message: "upstream is well" },
  ]);
});

test("with none that is well, /ready and requests say so; models stay known", async () => {
  const { app, fakes, gateway } = await front([says("a")]);
  fakes[0]!.health = 503;
  for (let i = 0; i < 3; i++) {
    expect((await get(app, "/ready")).status).toBe(200);
    await gateway.check();
  }
  const ready = await get(app, "/ready");
  expect([ready.status, await told(ready)]).toEqual([
    503,
    { status: "no upstream", upstreams: { healthy: 0, total: 1 } },
  ]);
  expect(await told(await get(app, "/v1/models/m"))).toMatchObject({
    owned_by: "vllm",
    loaded: false,
    max_model_len: 4096,
  });
  const answer = await post(app, chat, { model: "m", messages });
  expect([answer.status, answer.headers.get("retry-after")]).toEqual([503, "1"]);
  expect(await told(answer)).toMatchObject({ error: { code: "upstream_unavailable" } });
  expect((await get(app, "/health")).status).toBe(200);
});

test("models of one that was never heard of may still come; of others they are not there", async () => {
  const spare = await fakeUpstream(says("a"));
  await spare.close();
  const { log, lines } = diary();
  const gateway = await Gateway.open({ upstreams: [{ url: spare.url }], log });
  const app = createApp({ models: new Models([]), gateway });
  const ask = () => post(app, chat, { model: "m", messages });
  expect((await ask()).status).toBe(503);
  expect(lines).toMatchObject([{ level: "error", message: "upstream does not answer" }]);
  const back = await fakeUpstream(says("a"), { port: Number(new URL(spare.url).port) });
  await gateway.check();
  expect((await ask()).status).toBe(200);
  const missing = await post(app, chat, { model: "x", messages });
  expect([missing.status, await told(missing)]).toMatchObject([
    404,
    { error: { message: 'model: "x" is not served here; there is "m"' } },
  ]);
  gateway.close();
  await back.close();
});

test("conversations stay where they began, different ones go everywhere", async () => {
  const { app, fakes } = await front([says("a"), says("b"), says("c")]);
  const ask = async (turns: object[]) => {
    const body = await told(await post(app, chat, { model: "m", messages: turns }));
    return body.choices[0].message;
  };
  for (let i = 0; i < 30; i++) {
    const turns: object[] = [{ role: "user", content: `question ${i}` }];
    const first = await ask(turns);
    for (let turn = 0; turn < 2; turn++) {
      turns.push(first, { role: "user", content: `and ${turn}?` });
      expect((await ask(turns)).content).toBe(first.content);
    }
  }
  // 30 of three with the same chance: one below 3 is rarer than 1 in 1000.
  for (const { asked } of fakes) expect(asked.length).toBeGreaterThanOrEqual(3 * 3);
});

test("one that is busy with many is spared, and all are at work at what they were given", async () => {
  const held: (() => void)[] = [];
  const hold =
    (name: string) =>
    (...[response, asked]: Parameters<ReturnType<typeof says>>) =>
      new Promise<void>((resolve) => held.push(resolve)).then(() => says(name)(response, asked));
  const fronted = await front([hold("a"), hold("b")]);
  const body = favouring(fronted, 0);
  const answers = Array.from({ length: 12 }, () => post(fronted.app, chat, body));
  await expect.poll(() => held.length).toBe(12);
  const counts = fronted.fakes.map(({ asked }) => asked.length);
  expect(counts.toSorted((a, b) => a - b)).toEqual([counts[1], counts[0]]);
  expect(counts[1]).toBeGreaterThanOrEqual(4);
  const metrics = await (await get(fronted.app, "/metrics")).text();
  expect(metrics).toContain(
    `vllm:num_requests_running{server="${fronted.fakes[0]!.url}"} ${counts[0]}`,
  );
  for (const go of held) go();
  for (const answer of answers) expect((await answer).status).toBe(200);
  expect(await (await get(fronted.app, "/metrics")).text()).toContain(
    `vllm:num_requests_running{server="${fronted.fakes[0]!.url}"} 0`,
  );
});

test("keys stay on their side", async () => {
  const leak = json(400, { error: { message: "your key upstream-secret is odd" } });
  const { app, fakes, lines } = await front([leak], { apiKeys: ["client-secret"] });
  const headers = {
    authorization: "Bearer client-secret",
    cookie: "a=b",
    "x-forwarded-for": "1.2.3.4",
  };
  expect((await post(app, chat, { model: "m", messages })).status).toBe(401);
  expect(fakes[0]!.asked).toEqual([]);
  const answer = await post(app, chat, { model: "m", messages }, headers);
  const [asked] = fakes[0]!.asked;
  expect(asked!.headers).toMatchObject({
    authorization: "Bearer upstream-secret",
    "x-request-id": answer.headers.get("x-request-id"),
  });
  expect(JSON.stringify(asked)).not.toMatch(/client-secret|a=b|1\.2\.3\.4/);
  for (const check of fakes[0]!.checks) expect(check.authorization).toBe("Bearer upstream-secret");
  const text = await answer.text();
  expect(text).toContain("your key (hidden) is odd");
  expect(text + JSON.stringify([...answer.headers]) + JSON.stringify(lines)).not.toContain(
    "secret",
  );
  for (const path of ["/metrics", "/v1/models", "/openapi.json"]) {
    const shown = await app.fetch(new Request(`http://server${path}`, { headers }));
    expect(await shown.text()).not.toContain("secret");
  }
});

test("traces go on there: ours, or the client's", async () => {
  const { app, fakes } = await front([says("a")]);
  const traceparent = `00-${"a".repeat(32)}-${"b".repeat(16)}-01`;
  await post(app, chat, { model: "m", messages }, { traceparent, tracestate: "x=1" });
  await post(app, chat, { model: "m", messages }, { traceparent: "odd\u00e9", tracestate: "x=1" });
  const [first, second] = fakes[0]!.asked;
  expect(first!.headers).toMatchObject({ traceparent, tracestate: "x=1" });
  expect(second!.headers).not.toHaveProperty("traceparent");
  expect(second!.headers).not.toHaveProperty("tracestate");
});

test.each([
  ["ftp://x", "is no address"],
  ["10.0.0.5:8000", "is no address"],
  ["http://x/?a=b", "is no address"],
  ["http://me:word@x", "has a password"],
])("%s is refused as an upstream", async (url, problem) => {
  const opened = Gateway.open({ upstreams: [{ url }] });
  await expect(opened).rejects.toThrow(problem);
  await expect(opened).rejects.not.toThrow("word@");
});

test("an upstream is given once", async () => {
  const upstreams = [{ url: "http://127.0.0.1:1" }, { url: "http://127.0.0.1:1/v1/" }];
  await expect(Gateway.open({ upstreams })).rejects.toThrow("http://127.0.0.1:1 is given twice");
});
