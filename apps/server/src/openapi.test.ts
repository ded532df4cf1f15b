import { Validator } from "@seriousme/openapi-schema-validator";
import { expect, test } from "vitest";
import { MODEL_ROUTES } from "./routes.ts";
import { tiny } from "./testing/tiny.ts";

const make = tiny();
const get = async (path: string) => make().app.fetch(new Request(`http://server${path}`));

test("the document is valid, and has every route of the router and no other", async () => {
  const document = (await (await get("/openapi.json")).json()) as { paths: object };
  const validator = new Validator();
  const { valid, errors } = await validator.validate(document);
  expect([valid, errors, validator.version]).toEqual([true, undefined, "3.1"]);
  const described = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  );
  const routes = make().app.routes.map(({ method, path }) => {
    return `${method} ${path.replace(":name{.+}", "{name}")}`;
  });
  expect(described.toSorted()).toEqual(routes.toSorted());
});

test("keys are asked for where there are some, but for two routes", async () => {
  const { app } = make({ apiKeys: ["key"] });
  const headers = { "x-api-key": "key" };
  const response = await app.fetch(new Request("http://server/openapi.json", { headers }));
  const { paths, security } = (await response.json()) as {
    paths: Record<string, Record<string, { security?: unknown }>>;
    security: object[];
  };
  expect(security).toHaveLength(2);
  const open = Object.keys(paths).filter((path) => paths[path]!.get?.security !== undefined);
  expect(open).toEqual(["/health", "/ready"]);
  const { security: none } = (await (await get("/openapi.json")).json()) as { security?: object };
  expect(none).toBeUndefined();
});

test("schemas in it are those that requests are checked by: every number has bounds", async () => {
  const { components } = (await (await get("/openapi.json")).json()) as {
    components: { schemas: Record<string, { required?: string[] }> };
  };
  expect(components.schemas.ChatRequest!.required).toEqual(["model", "messages"]);
  const unbounded: string[] = [];
  const visit = (value: unknown, place: string) => {
    if (typeof value !== "object" || value === null) return;
    const { type, minimum, maximum } = value as Record<string, unknown>;
    if (type === "number" || type === "integer") {
      if (typeof minimum !== "number" || typeof maximum !== "number") unbounded.push(place);
    }
    for (const [key, inner] of Object.entries(value)) visit(inner, `${place}.${key}`);
  };
  for (const { name } of MODEL_ROUTES) visit(components.schemas[`${name}Request`], name);
  expect(unbounded).toEqual([]);
});

test("the page shows every route and field, runs no script and loads nothing", async () => {
  const response = await get("/docs");
  expect(response.headers.get("content-type")).toMatch(/^text\/html/);
  expect(response.headers.get("content-security-policy")).toMatch(
    /^default-src 'none'; style-src 'sha256-/,
  );
  const page = await response.text();
  for (const { method, path } of make().app.routes) {
    const shown = path.replace(":name{.+}", "{name}");
    expect(page).toContain(`id="${method.toLowerCase()}${shown}"`);
  }
  for (const field of ["messages", "temperature", "encoding_format", "stop_sequences"]) {
    expect(page).toContain(`<td><code>${field}</code></td>`);
  }
  expect(page).toContain("<td><code>stream</code></td><td>true or false</td>");
  for (const field of ["choices[].message.reasoning_content", "data[].embedding", "upstreams"]) {
    expect(page).toContain(`<td><code>${field}</code></td>`);
  }
  for (const [event, holds] of [
    ["message_start", "message"],
    [
      "response.output_text.delta",
      "item_id, output_index, content_index, delta, logprobs, sequence_number",
    ],
    ["choices[].delta.content", "text"],
  ]) {
    expect(page).toContain(`<td><code>${event}</code></td><td>${holds}</td>`);
  }
  expect(page).toContain("<li><b>429</b> too many wait");
  expect(page).not.toMatch(/undefined|\[object|<script|https?:\/\/|src=/);
});
