/** What routes send is what /openapi.json says of them: every status, body and event, and no field more. */
import { Ajv2020 } from "ajv/dist/2020.js";
import { beforeAll, expect, test } from "vitest";
import type { App } from "./app.ts";
import type { OpenApi } from "./openapi.ts";
import { eventsIn } from "./testing/gateway.ts";
import { post, tiny } from "./testing/tiny.ts";

const make = tiny();
const ajv = new Ajv2020({ allErrors: true, strict: false });
let document: OpenApi;
beforeAll(async () => {
  document = await described(make().app);
  ajv.addSchema(closed(document) as object, "document");
});

const described = async (app: App): Promise<OpenApi> => {
  const response = await app.fetch(new Request("http://server/openapi.json"));
  return (await response.json()) as OpenApi;
};

/** The same, but that objects have no other fields than those named. */
function closed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(closed);
  if (typeof value !== "object" || value === null) return value;
  const inner = Object.entries(value).map(([key, one]) => [key, closed(one)]);
  const object = Object.fromEntries(inner);
  return "properties" in object && object.type === "object"
    ? { ...object, additionalProperties: false }
    : object;
}

/** What is wrong with a value, by a schema of the document. */
function problems(reference: string, value: unknown): unknown[] {
  const validate = ajv.getSchema(`document${reference}`)!;
  if (validate(value)) return [];
  return validate.errors!.map(({ instancePath, message, params }) => [
    instancePath,
    message,
    params,
  ]);
}

const answered = new Set<string>();

/** What is wrong with an answer, by what is said of its path. */
async function wrong(method: string, path: string, response: Response): Promise<unknown[]> {
  const { status, headers } = response;
  const { responses } = document.paths[path]![method]!;
  const type = headers.get("content-type")!.split(";")[0]!;
  const schema = responses[status]?.content[type]?.schema;
  const text = await response.text();
  answered.add(`${method} ${path} ${status} ${type}`);
  if (!responses[status]?.content[type]) return [`status ${status} of ${type} is not described`];
  if (responses[status].headers) expect(headers.get("retry-after")).toMatch(/^\d+$/);
  if (!schema) return type === "application/json" && path !== "/openapi.json" ? ["no schema"] : [];
  if (type !== "text/event-stream") return problems(schema.$ref!, JSON.parse(text));
  const events = eventsIn(text).filter((event) => typeof event === "object");
  expect(events.length).toBeGreaterThan(1);
  const failed = responses[400]!.content["application/json"]!.schema!.$ref!;
  return events.flatMap((event, i) => {
    // An answer that cannot go on ends with an error.
    const isError = i === events.length - 1 && "error" in (event as object);
    return problems(isError ? failed : schema.$ref!, event);
  });
}

const messages = [{ role: "user", content: "some words" }];
const parameters = {
  type: "object",
  properties: { a: { type: "integer", maximum: 9 } },
  required: ["a"],
};
const functions = [{ type: "function", function: { name: "f", parameters } }];
const thinking = { type: "enabled" };
const counts = { stream_options: { include_usage: true } };
const limits = { max_tokens: 30, max_output_tokens: 30, seed: 1 };

const asks: [string, object[]][] = [
  [
    "/v1/chat/completions",
    [
      { n: 2, ...counts },
      { logprobs: true, top_logprobs: 2, thinking },
      { tools: functions, tool_choice: "required", max_tokens: 200 },
    ],
  ],
  ["/chat/completions", [{}, { user_id: "u" }]],
  [
    "/beta/chat/completions",
    [{ messages: [...messages, { role: "assistant", content: "x", prefix: true }] }],
  ],
  ["/v1/completions", [{ n: 2, logprobs: 2, echo: true, ...counts }, { prompt: ["a", "b"] }]],
  ["/completions", [{}]],
  ["/beta/completions", [{ suffix: "words" }]],
  ["/v1/embeddings", [{ input: ["a", "b"] }, { encoding_format: "base64" }]],
  [
    "/v1/responses",
    [
      { instructions: "be brief", metadata: { a: "b" } },
      { tools: [{ type: "function", name: "f", parameters }], tool_choice: "required" },
      {
        text: {
          format: { type: "json_schema", name: "x", schema: { type: "integer", maximum: 5 } },
        },
      },
    ],
  ],
  [
    "/v1/messages",
    [
      { thinking },
      { stop_sequences: ["e", "o", "a", " "], max_tokens: 200 },
      {
        tools: [{ name: "f", input_schema: parameters }],
        tool_choice: { type: "any" },
        max_tokens: 200,
      },
    ],
  ],
  ["/anthropic/v1/messages", [{}]],
  ["/v1/messages/count_tokens", [{}]],
  ["/anthropic/v1/messages/count_tokens", [{}]],
  ["/tokenize", [{ prompt: "some" }, { messages, prompt: undefined }]],
  ["/detokenize", [{ tokens: [20] }]],
];

test.each(asks)("POST %s", async (path, bodies) => {
  const { app } = make();
  for (const more of bodies) {
    for (const stream of [false, true]) {
      const body = { model: "tiny", messages, prompt: "some", input: "some", ...limits, ...more };
      const response = await post(app, path, { ...body, stream });
      expect(response.status).toBe(200);
      expect(await wrong("post", path, response)).toEqual([]);
    }
  }
});

test("GET", async () => {
  const { app } = make();
  for (const path of Object.keys(document.paths).filter((path) => document.paths[path]!.get)) {
    for (const name of path.includes("{name}") ? ["tiny", "none"] : [""]) {
      const url = `http://server${path.replace("{name}", name)}`;
      expect(await wrong("get", path, await app.fetch(new Request(url)))).toEqual([]);
    }
  }
  app.drain();
  const ready = await app.fetch(new Request("http://server/ready"));
  expect([ready.status, await wrong("get", "/ready", ready)]).toEqual([503, []]);
});

test("errors: in a field, in the model's name, in size, without room, without time, at the end", async () => {
  const { app } = make({ maxBody: 500 });
  const stopped = make().app;
  stopped.drain();
  const hurried = make({ timeout: 1 }).app;
  // Where the head was sent already, the status is 200.
  const cut = make({ timeout: 40 }).app;
  const endless = { ignore_eos: true, max_tokens: 400 };
  for (const [path] of asks) {
    const failing = async (app: App, more: object, statuses: number[]) => {
      const common = { model: "tiny", messages, prompt: "some", input: "some", tokens: [20] };
      const response = await post(app, path, { ...common, ...limits, ...more });
      expect([path, more, statuses.includes(response.status)]).toEqual([path, more, true]);
      expect(await wrong("post", path, response)).toEqual([]);
    };
    await failing(app, { model: 5 }, [400, 422]);
    await failing(app, { model: "none" }, [404, 400]);
    await failing(app, { x: "x".repeat(600) }, [413]);
    await failing(stopped, {}, [503]);
    if (!/completions$|responses$|messages$/.test(path)) continue;
    await failing(hurried, endless, [503]);
    await failing(cut, { ...endless, stream: true, n: 4 }, [200, 503]);
  }
  const busy = make({}, { maxRunning: 1, maxQueued: 1, maxContext: 512 }).app;
  const many = Array.from({ length: 8 }, () =>
    post(busy, "/v1/chat/completions", { model: "tiny", messages, max_tokens: 2 }),
  );
  for (const answer of many) {
    expect(await wrong("post", "/v1/chat/completions", await answer)).toEqual([]);
  }
  expect(answered).toContain("post /v1/chat/completions 429 application/json");
});

test("a missing key, where keys are asked for", async () => {
  const { app } = make({ apiKeys: ["key"] });
  const response = await app.fetch(
    new Request("http://server/openapi.json", { headers: { "x-api-key": "key" } }),
  );
  const { paths } = (await response.json()) as OpenApi;
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, { responses }] of Object.entries(methods)) {
      const url = `http://server${path.replace("{name}", "tiny")}`;
      const refused = await app.fetch(new Request(url, { method: method.toUpperCase() }));
      const open = path === "/health" || path === "/ready";
      expect([path, refused.status]).toEqual([path, open ? 200 : 401]);
      if (open) continue;
      const { $ref } = responses[401]!.content["application/json"]!.schema!;
      expect(problems($ref!, await refused.json())).toEqual([]);
    }
  }
});

test("every route was asked, and what is wrong would be found", () => {
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const [method, { responses }] of Object.entries(methods)) {
      for (const type of Object.keys(responses[200]!.content)) {
        expect(answered).toContain(`${method} ${path} 200 ${type}`);
      }
    }
  }
  const names = Object.keys(document.components.schemas);
  expect(names).toEqual(expect.arrayContaining(["ChatAnswer", "ChatEvent", "ResponsesEvent"]));
  for (const name of names) {
    const reference = `#/components/schemas/${name}`;
    expect(problems(reference, [])).not.toEqual([]);
    expect(problems(reference, { surprise: 1 })).not.toEqual([]);
  }
});
