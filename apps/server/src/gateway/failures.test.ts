/** Engines that fail in the middle of an answer, hang, or say what nobody can read. */
import { once } from "node:events";
import { afterEach, expect, test } from "vitest";
import { type Listening, listen } from "../listen.ts";
import { type Answering, chunk, json, says, stream } from "../testing/fake-upstream.ts";
import { chat, eventsIn, favouring, fronts, messages } from "../testing/gateway.ts";
import { post } from "../testing/tiny.ts";

const front = fronts();
const open: Listening[] = [];
afterEach(async () => {
  for (const server of open.splice(0)) await server.close(0);
});

const hello = chunk({ role: "assistant", content: "hello" });
const data = (value: unknown) =>
  `data: ${typeof value === "string" ? value : JSON.stringify(value)}\n\n`;

/** Sends a head and these bytes, and then dies, ends, or says no more. */
const sends =
  (bytes: string, then: "dies" | "ends" | "hangs"): Answering =>
  (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(bytes, () => {
      if (then === "dies") response.destroy();
      if (then === "ends") response.end();
    });
  };

const FAULTS: [string, string, "dies" | "ends"][] = [
  ["dies", "", "dies"],
  ["ends without its end", "", "ends"],
  ["breaks off in an event", 'data: {"choices": [', "ends"],
  ["sends what is no JSON", data("{choices}"), "ends"],
  ["sends what is no chunk", data("[1]"), "ends"],
  ["sends an event without end", `data: "${"x".repeat(5 * 2 ** 20)}`, "ends"],
  [
    "sends an event of many lines",
    "data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n".repeat(120_000),
    "ends",
  ],
  [
    "tells an error",
    data({ error: { message: "at 0x7f", type: "server_error", code: 500 } }),
    "ends",
  ],
];

test.each(FAULTS)(
  "one that %s before its first chunk is not the last that is asked",
  async (_, bytes, then) => {
    const fronted = await front([sends(bytes, then), says("b")]);
    const answer = await post(fronted.app, chat, { ...favouring(fronted, 0), stream: true });
    expect(answer.status).toBe(200);
    expect(eventsIn(await answer.text()).at(-2)).toMatchObject({
      choices: [{ delta: { content: "b" } }],
    });
  },
);

test.each(FAULTS)("one that %s later is told of, and no other is asked", async (_, bytes, then) => {
  const fronted = await front([sends(data(hello) + bytes, then), says("b")]);
  const { app, fakes, lines } = fronted;
  const answer = await post(app, chat, { ...favouring(fronted, 0), stream: true });
  const text = await answer.text();
  const events = eventsIn(text);
  expect(events).toMatchObject([
    { choices: [{ delta: { content: "hello" } }] },
    { error: { type: "server_error", code: "upstream_failed" } },
  ]);
  expect(text).not.toMatch(/0x7f|DONE/);
  expect(fakes[1]!.asked).toEqual([]);
  expect(lines.at(-1)).toMatchObject({ message: "request", error: "upstream_failed" });
});

test("answers in one piece that nobody can read go elsewhere, and are told where there is nobody", async () => {
  const broken: Answering[] = [
    (response) => void response.end("{broken"),
    (response) => void response.end("[1]"),
    (response) => void response.end(`"${"x".repeat(65 * 2 ** 20)}`),
    (response) => {
      response.writeHead(200, { "content-length": "100" });
      response.write("{", () => response.destroy());
    },
    (response) => void response.socket!.destroy(),
  ];
  for (const answer of broken) {
    const fronted = await front([answer, says("b")]);
    expect((await post(fronted.app, chat, favouring(fronted, 0))).status).toBe(200);
    await fronted.fakes[1]!.close();
    const alone = await post(fronted.app, chat, favouring(fronted, 1));
    expect([alone.status, await alone.json()]).toMatchObject([
      502,
      { error: { code: "upstream_failed" } },
    ]);
  }
});

test("errors in streams have each route's form, and the status that their words stand for", async () => {
  const full = data({ error: { message: "queue full", type: "rate_limit_error" } });
  const { app, fakes } = await front([sends(full, "ends")]);
  const busy = await post(app, chat, { model: "m", messages, stream: true });
  expect([busy.status, await busy.json()]).toMatchObject([
    429,
    { error: { message: "queue full" } },
  ]);
  fakes[0]!.answer = sends(data(hello), "dies");
  const said = await post(app, "/v1/messages", {
    model: "m",
    messages,
    max_tokens: 5,
    stream: true,
  });
  expect((await said.text()).split("\n\n").at(-2)).toMatch(
    /^event: error\ndata: {"type":"error","error":{"type":"api_error"/,
  );
  const response = await post(app, "/v1/responses", { model: "m", input: "x", stream: true });
  expect((await response.text()).split("\n\n").at(-2)).toMatch(
    /^event: error\ndata: {"type":"error","code":"upstream_failed"/,
  );
  fakes[0]!.answer = (response) => stream(response, [hello, chunk({}, "abort")]);
  const cut = await post(app, "/v1/messages", { model: "m", messages, max_tokens: 5 });
  expect([cut.status, await cut.json()]).toMatchObject([
    503,
    { error: { type: "overloaded_error" } },
  ]);
});

test("a request that an engine hangs on ends at its time", async () => {
  const { app, fakes } = await front([() => {}], { timeout: 200 });
  for (const stream of [true, false]) {
    const began = performance.now();
    const answer = await post(app, chat, { model: "m", messages, stream });
    expect([answer.status, await answer.json()]).toMatchObject([
      503,
      { error: { code: "timeout" } },
    ]);
    expect(performance.now() - began).toBeLessThan(2000);
  }
  fakes[0]!.answer = sends(data(hello), "hangs");
  const begun = await post(app, chat, { model: "m", messages, stream: true });
  expect(eventsIn(await begun.text()).at(-1)).toMatchObject({ error: { code: "timeout" } });
  await expect.poll(() => fakes[0]!.asked.map(({ gone }) => gone)).toEqual([true, true, true]);
});

test("an engine that says nothing to three checks loses its requests; who waits is answered elsewhere", async () => {
  const fronted = await front([() => {}, says("b")], { interval: 250 });
  const { app, fakes } = fronted;
  const body = favouring(fronted, 0);
  fakes[0]!.answer = sends(data(hello), "hangs");
  const begun = await post(app, chat, { ...body, stream: true });
  fakes[0]!.answer = () => {};
  fakes[0]!.health = null;
  const waiting = [false, true].map((stream) => post(app, chat, { ...body, stream }));
  for (const answer of waiting) expect(await (await answer).text()).toContain('"content":"b"');
  expect(eventsIn(await begun.text())).toMatchObject([
    hello,
    { error: { code: "upstream_failed" } },
  ]);
  await expect.poll(() => fakes[0]!.asked.map(({ gone }) => gone)).toEqual([true, true, true]);
}, 10_000);

test("an engine that does not end its stream after its end is left, and the client is not kept", async () => {
  const { app, fakes } = await front([sends(`${data(hello)}data: [DONE]\n\n`, "hangs")]);
  const began = performance.now();
  const answer = await post(app, chat, { model: "m", messages, stream: true });
  expect(eventsIn(await answer.text())).toMatchObject([hello, "[DONE]"]);
  expect(performance.now() - began).toBeLessThan(800);
  await expect.poll(() => fakes[0]!.asked[0]!.gone, { timeout: 3000 }).toBe(true);
});

test("a check that is refused is no silence: what is at work goes on", async () => {
  const held: (() => void)[] = [];
  const slow: Answering = (response, asked) =>
    new Promise<void>((resolve) => held.push(resolve)).then(() => says("a")(response, asked));
  const { app, fakes, gateway } = await front([slow]);
  const answer = post(app, chat, { model: "m", messages });
  await expect.poll(() => held.length).toBe(1);
  fakes[0]!.health = 503;
  for (let i = 0; i < 4; i++) await gateway.check();
  held[0]!();
  expect((await answer).status).toBe(200);
});

test("who waits for a slow engine is sent comments, and empty lines on DeepSeek's paths", async () => {
  const slow: Answering = async (response, asked) => {
    await new Promise((resolve) => setTimeout(resolve, 250));
    await says("a")(response, asked);
  };
  const { app, fakes } = await front([slow], { keepAlive: 40 });
  const streamed = await (await post(app, chat, { model: "m", messages, stream: true })).text();
  expect(streamed).toMatch(/^(: keep-alive\n\n){3,}data: {/);
  const whole = await (await post(app, "/chat/completions", { model: "m", messages })).text();
  expect(whole).toMatch(/^\n{3,}{.*"content":"a"/);
  fakes[0]!.answer = async (response, asked) => {
    await new Promise((resolve) => setTimeout(resolve, 250));
    json(503, {})(response, asked);
  };
  const late = await (await post(app, chat, { model: "m", messages, stream: true })).text();
  expect(late).toMatch(
    /^(: keep-alive\n\n){3,}event: error\ndata: {"error":{"message":"the engine takes no/,
  );
});

test.each<[string, Answering, boolean]>([
  ["in a stream", sends(data(hello), "hangs"), true],
  ["before a stream's head", () => {}, true],
  ["before a whole answer", () => {}, false],
])("an engine hears at once of a client that goes: %s", async (_, answer, stream) => {
  const { app, fakes, lines } = await front([answer, answer]);
  const { url } = await listen(app, { port: 0 }).then((server) => {
    open.push(server);
    return server;
  });
  const controller = new AbortController();
  const asking = fetch(url + chat, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "m", messages, stream }),
    signal: controller.signal,
  }).then((response) => response.text());
  const asked = () => fakes.flatMap(({ asked }) => asked);
  await expect.poll(() => asked().length).toBe(1);
  const left = performance.now();
  controller.abort();
  await expect(asking).rejects.toThrow();
  await expect.poll(() => asked()[0]!.gone, { interval: 5 }).toBe(true);
  expect(performance.now() - left).toBeLessThan(500);
  // Nobody else is asked for it.
  await expect.poll(() => lines.at(-1)).toMatchObject({ message: "request", error: "client_gone" });
  expect(asked()).toHaveLength(1);
});

test("a client that reads slowly slows its engine down", async () => {
  let written = 0;
  const flood: Answering = async (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    const text = data(chunk({ content: "x".repeat(20_000) }));
    const closed = once(response, "close");
    while (!response.destroyed) {
      written += text.length;
      if (!response.write(text)) await Promise.race([once(response, "drain"), closed]);
    }
  };
  const { app, fakes } = await front([flood]);
  const server = await listen(app, { port: 0 });
  open.push(server);
  const controller = new AbortController();
  await fetch(server.url + chat, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "m", messages, stream: true }),
    signal: controller.signal,
  });
  const rests = async () => {
    const before = written;
    await new Promise((resolve) => setTimeout(resolve, 200));
    return written === before;
  };
  await expect.poll(rests, { timeout: 10_000 }).toBe(true);
  expect(written).toBeLessThan(64 * 2 ** 20);
  controller.abort();
  await expect.poll(() => fakes[0]!.asked[0]!.gone).toBe(true);
}, 15_000);

test("connections serve one request after another, and one that was closed meanwhile is no failure", async () => {
  const { app, fakes } = await front([says("a")]);
  for (let i = 0; i < 20; i++) {
    await (await post(app, chat, { model: "m", messages, stream: i % 2 === 0 })).text();
  }
  expect(fakes[0]!.connections()).toBeLessThanOrEqual(2);
  const slams: Answering = (response, asked) => {
    response.on("finish", () => setTimeout(() => response.socket?.resetAndDestroy(), 5));
    return says("a")(response, asked);
  };
  fakes[0]!.answer = slams;
  for (let i = 0; i < 10; i++) {
    expect((await post(app, chat, { model: "m", messages })).status).toBe(200);
    await new Promise((resolve) => setTimeout(resolve, i));
  }
});
