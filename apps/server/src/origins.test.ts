import { expect, test } from "vitest";
import { createApp } from "./app.ts";
import { Models } from "./models.ts";

const models = new Models([{ name: "a", load: () => Promise.reject(new Error("not here")) }]);
const page = "https://chat.example";

function make(origins: string[]) {
  const app = createApp({ models, origins, apiKeys: ["key"] });
  return async (method: string, headers: Record<string, string>) =>
    app.fetch(new Request("http://server/v1/models", { method, headers }));
}
const named = ({ headers }: Response) =>
  [...headers.keys()].filter((name) => name.startsWith("access-control"));

test("pages of named origins may ask beforehand without a key, and read with one", async () => {
  const ask = make([page]);
  const question = {
    origin: page,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,x-stainless-os",
  };
  const before = await ask("OPTIONS", question);
  expect([before.status, await before.text()]).toEqual([204, ""]);
  expect(before.headers.get("access-control-allow-origin")).toBe(page);
  expect(before.headers.get("access-control-allow-headers")).toBe("authorization,x-stainless-os");
  const read = await ask("GET", { origin: page, "x-api-key": "key" });
  expect([read.status, read.headers.get("access-control-allow-origin")]).toEqual([200, page]);
  expect(read.headers.get("vary")).toBe("Origin");
  // A page must be able to read why it was refused.
  const refused = await ask("GET", { origin: page });
  expect([refused.status, refused.headers.get("access-control-allow-origin")]).toEqual([401, page]);
});

test("other pages may not, and OPTIONS that asks nothing needs a key", async () => {
  const ask = make([page]);
  const other = { origin: "https://evil.example", "access-control-request-method": "POST" };
  for (const headers of [other, { origin: `${page}.evil.example` }, {}]) {
    const response = await ask("OPTIONS", headers as Record<string, string>);
    expect([response.status, named(response)]).toEqual([401, []]);
  }
  expect((await ask("OPTIONS", { origin: page })).status).toBe(401);
  const any = await make(["*"])("OPTIONS", other);
  expect(any.headers.get("access-control-allow-origin")).toBe(other.origin);
});

test.each(["chat.example", "https://chat.example/", "https://chat.example/page", "null", ""])(
  "%j is no origin",
  (origin) => {
    expect(() => make([origin])).toThrow("is no origin");
  },
);
