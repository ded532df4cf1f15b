/** What clients can do to a server on a port, by the figures that other servers are tested with. */
import { createHash } from "node:crypto";
import { connect, type Socket } from "node:net";
import { afterEach, expect, test, vi } from "vitest";
import { type Listening, listen } from "./listen.ts";
import { MODEL_ROUTES } from "./routes.ts";
import { post, tiny } from "./testing/tiny.ts";

const make = tiny();
const open: Listening[] = [];
afterEach(async () => {
  for (const server of open.splice(0)) await server.close(0);
});

async function serveTiny(...options: Parameters<typeof make>) {
  const { app, engine } = make(...options);
  const server = await listen(app, { port: 0 });
  open.push(server);
  return { url: server.url, engine };
}

const idle = { running: 0, waiting: 0, usedBlocks: 0 };
const chat = "/v1/chat/completions";
const messages = [{ role: "user", content: "some words" }];
const endless = { model: "tiny", messages, ignore_eos: true };

/** Sends a request by hand, so that the client can do what no client library does. */
function send(url: string, body: object, headers = ""): Socket {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  const text = JSON.stringify(body);
  const type = `content-type: application/json\r\ncontent-length: ${text.length}`;
  socket.write(`POST ${chat} HTTP/1.1\r\nhost: x\r\n${headers}${type}\r\n\r\n${text}`);
  return socket;
}

const json = { "content-type": "application/json" };
const ask = (url: string, body: object) =>
  fetch(url + chat, { method: "POST", headers: json, body: JSON.stringify(body) });

test("16 clients that are killed in their streams leave nothing behind", async () => {
  const lines: object[] = [];
  const log = { debug() {}, info: (line: object) => lines.push(line), error: vi.fn() };
  const printed = vi.spyOn(console, "info");
  const { url, engine } = await serveTiny({ apiKeys: ["secret"], log });
  const header = "authorization: Bearer secret\r\n";
  const clients = Array.from({ length: 16 }, () => send(url, { ...endless, stream: true }, header));
  await Promise.all(
    clients.map((client) => new Promise((resolve) => client.once("data", resolve))),
  );
  for (const client of clients) client.resetAndDestroy();
  await expect.poll(() => engine.stats(), { timeout: 5000 }).toMatchObject(idle);
  await expect.poll(() => lines.length).toBe(16);
  expect(lines[0]).toMatchObject({ status: 200, stream: true, error: "client_gone" });
  expect(log.error).not.toHaveBeenCalled();
  expect(printed).not.toHaveBeenCalled();
});

test("the queue takes as many as it holds from a burst, and tells the rest to come again", async () => {
  const { url, engine } = await serveTiny({}, { maxRunning: 1, maxQueued: 3, maxContext: 512 });
  const first = send(url, { ...endless, stream: true });
  await new Promise((resolve) => first.once("data", resolve));
  const burst = await Promise.all(
    Array.from({ length: 50 }, () => ask(url, { ...endless, max_tokens: 2, stream: true })),
  );
  const statuses = burst.map(({ status }) => status).toSorted();
  expect(statuses).toEqual([...Array(3).fill(200), ...Array(47).fill(429)]);
  for (const response of burst) {
    if (response.status === 429) expect(response.headers.get("retry-after")).toBe("1");
    await response.text();
  }
  first.destroy();
  await expect.poll(() => engine.stats(), { timeout: 5000 }).toMatchObject(idle);
});

test("a client that does not read is dropped before its answers are whole", async () => {
  const { url, engine } = await serveTiny({ writeTimeout: 300 });
  // More than sockets hold.
  const body = { ...endless, n: 16, logprobs: true, top_logprobs: 20, stream: true };
  const client = send(url, body);
  let text = "";
  const closed = new Promise((resolve) => client.on("close", resolve).on("error", () => {}));
  client.once("data", () => client.pause());
  await expect.poll(() => engine.stats().running, { interval: 1, timeout: 5000 }).toBe(16);
  await expect.poll(() => engine.stats(), { timeout: 20_000 }).toMatchObject(idle);
  client.on("data", (data) => {
    text += data;
  });
  client.resume();
  await closed;
  expect(text).toContain("data: {");
  expect(text).not.toContain("[DONE]");
  expect((await ask(url, { ...endless, max_tokens: 1 })).status).toBe(200);
}, 30_000);

test("a body that grows without telling its size ends at the limit", async () => {
  const { url } = await serveTiny();
  let sent = 0;
  const body = new ReadableStream({
    pull(controller) {
      sent += 2 ** 16;
      controller.enqueue(new Uint8Array(2 ** 16).fill(32));
    },
  });
  const init = { method: "POST", headers: json, body, duplex: "half" } as RequestInit;
  expect((await fetch(url + chat, init)).status).toBe(413);
  expect(sent).toBeLessThan(16 * 2 ** 20);
});

test("every number of every route has a range, and what is outside is refused by name", async () => {
  const { app } = make();
  const right = { model: "tiny", messages, prompt: "x", input: "x", tokens: [20], max_tokens: 1 };
  const { components } = (await (
    await app.fetch(new Request("http://server/openapi.json"))
  ).json()) as { components: { schemas: Record<string, { properties?: object }> } };
  let tried = 0;
  for (const { name, paths } of MODEL_ROUTES) {
    for (const [field, schema] of Object.entries(
      components.schemas[`${name}Request`]!.properties ?? {},
    )) {
      const kinds = [schema, ...(schema.anyOf ?? [])];
      const number = kinds.find(({ type }) => type === "number" || type === "integer");
      if (!number) continue;
      const { minimum, maximum, type } = number;
      const outside = [-1e300, 1e300, "1e999", "NaN", "-1e999", JSON.stringify("1")];
      if (minimum > Number.MIN_SAFE_INTEGER) outside.push(minimum - 1);
      if (maximum < Number.MAX_SAFE_INTEGER) outside.push(maximum + 1);
      if (type === "integer") outside.push(1.5);
      for (const value of outside) {
        const text = JSON.stringify({ ...right, [field]: "@" }).replace('"@"', String(value));
        const response = await post(app, paths[0], text);
        const told = await response.text();
        expect([paths[0], field, value, response.status]).toEqual([paths[0], field, value, 400]);
        if (value !== "NaN") expect(told).toContain(field);
        tried++;
      }
    }
  }
  expect(tried).toBeGreaterThan(200);
});

test("n of 2^31 is refused at once", async () => {
  const { url, engine } = await serveTiny();
  const response = await ask(url, { ...endless, n: 2 ** 31 });
  expect([response.status, engine.stats().promptTokens]).toEqual([400, 0]);
});

test("a key may be known by its hash alone", async () => {
  const hash = createHash("sha256").update("secret").digest("hex");
  const { app } = make({ apiKeys: [`sha256:${hash}`] });
  const status = async (key: string) =>
    (
      await app.fetch(
        new Request("http://server/v1/models", { headers: { authorization: `Bearer ${key}` } }),
      )
    ).status;
  expect(await status("secret")).toBe(200);
  expect(await status(`sha256:${hash}`)).toBe(401);
  expect(await status("")).toBe(401);
  expect(() => make({ apiKeys: [`sha256:${hash.slice(1)}`] })).toThrow(
    "goes on with 63 characters",
  );
});

test("pages of other origins are not let in", async () => {
  const { app } = make();
  const headers = { origin: "http://evil.example", "access-control-request-method": "POST" };
  for (const { path } of app.routes) {
    const url = `http://server${path.replace(":name{.+}", "tiny")}`;
    for (const method of ["OPTIONS", "GET"]) {
      const response = await app.fetch(new Request(url, { method, headers }));
      const named = [...response.headers.keys()].filter((name) =>
        name.startsWith("access-control"),
      );
      expect([path, named]).toEqual([path, []]);
      if (method === "OPTIONS") expect(response.status).toBe(404);
    }
  }
});
