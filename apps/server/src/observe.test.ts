import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { SimpleSpanProcessor, TracerProvider } from "@opentelemetry/sdk-trace";
import { expect, test } from "vitest";
import { post, tiny } from "./testing/tiny.ts";

const make = tiny();
const chat = "/v1/chat/completions";
const words = "a very private question";
const body = {
  model: "tiny",
  messages: [{ role: "user", content: words }],
  max_tokens: 3,
  ignore_eos: true,
  temperature: 0.5,
  user_id: "someone",
};

function diary() {
  const lines: Record<string, unknown>[] = [];
  const write = (level: string) => (fields: object, message: string) =>
    lines.push({ level, message, ...fields });
  return { lines, log: { debug: write("debug"), info: write("info"), error: write("error") } };
}

test("each request has a line with its id and its numbers, and none of its words", async () => {
  const { lines, log } = diary();
  const { app } = make({ log, apiKeys: ["top-secret"] });
  const headers = { authorization: "Bearer top-secret", "x-request-id": "id-1" };
  const whole = await post(app, chat, body, headers);
  expect(whole.headers.get("x-request-id")).toBe("id-1");
  const streamed = await post(app, chat, { ...body, stream: true }, headers);
  expect(lines).toHaveLength(1); // the second is not at its end
  await streamed.text();
  const injected = await post(app, chat, { ...body, n: 0 }, { ...headers, "x-request-id": "a b" });
  await post(app, chat, body);
  await app.fetch(new Request("http://server/health"));

  const common = { level: "info", message: "request", method: "POST", path: chat };
  const done = { status: 200, model: "tiny", completionTokens: 3, finishReasons: ["length"] };
  const numbers = { ms: expect.any(Number), firstTokenMs: expect.any(Number) };
  expect(lines).toMatchObject([
    { ...common, ...done, ...numbers, requestId: "id-1", stream: false },
    { ...common, ...done, ...numbers, requestId: "id-1", stream: true },
    {
      ...common,
      requestId: injected.headers.get("x-request-id"),
      status: 400,
      error: "invalid_value",
    },
    { ...common, status: 401 },
    { level: "debug", path: "/health" },
  ]);
  expect(injected.headers.get("x-request-id")).toMatch(/^[\da-f-]{36}$/);
  for (const hidden of [words, "private", "top-secret", "someone"]) {
    expect(JSON.stringify(lines)).not.toContain(hidden);
  }
});

test("each request is a span below its client's, by the conventions for generative AI", async () => {
  const received: unknown[] = [];
  const collector = createServer(async (request, response) => {
    let text = "";
    for await (const chunk of request) text += chunk;
    received.push(...JSON.parse(text).resourceSpans[0].scopeSpans[0].spans);
    response.end("{}");
  });
  await new Promise<void>((resolve) => collector.listen(0, "127.0.0.1", resolve));
  const { port } = collector.address() as AddressInfo;
  const exporter = new OTLPTraceExporter({ url: `http://127.0.0.1:${port}/v1/traces` });
  const provider = new TracerProvider({ spanProcessors: [new SimpleSpanProcessor({ exporter })] });
  const { app } = make({ tracer: provider.getTracer("test") });

  const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  await (await post(app, chat, { ...body, stream: true }, { traceparent })).text();
  await post(app, "/v1/embeddings", { model: "tiny", input: words }, { traceparent: "00-0-0-01" });
  await post(app, chat, { ...body, model: "x" });
  await provider.shutdown();
  collector.close();

  // biome-ignore lint/suspicious/noExplicitAny: what a collector gets is what is tested
  const spans = (received as any[]).map(({ attributes, ...span }) => ({
    ...span,
    // biome-ignore lint/suspicious/noExplicitAny: one of several kinds of value
    attributes: Object.fromEntries(attributes.map(({ key, value }: any) => [key, value])),
  }));
  expect(spans).toMatchObject([
    {
      name: "chat tiny",
      traceId: "0af7651916cd43dd8448eb211c80319c",
      parentSpanId: "b7ad6b7169203331",
      attributes: {
        "gen_ai.operation.name": { stringValue: "chat" },
        "gen_ai.request.model": { stringValue: "tiny" },
        "gen_ai.request.temperature": { doubleValue: 0.5 },
        "gen_ai.request.max_tokens": { intValue: 3 },
        "gen_ai.usage.output_tokens": { intValue: 3 },
        "gen_ai.response.finish_reasons": { arrayValue: { values: [{ stringValue: "length" }] } },
        "http.response.status_code": { intValue: 200 },
      },
    },
    { name: "embeddings tiny" },
    { name: "POST", attributes: { "error.type": { stringValue: "model_not_found" } } },
  ]);
  expect(spans[1].parentSpanId ?? "").toBe("");
  expect(JSON.stringify(received)).not.toContain("private");
});
