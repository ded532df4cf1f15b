/** The routes that tell of the server, and need neither a body nor a loaded model. */
import { readFileSync } from "node:fs";
import type { Context } from "hono";
import { modelAnswer, modelsAnswer, stateAnswer } from "./answer-schemas.ts";
import { DOCS_HEADERS, docsPage } from "./docs-page.ts";
import type { Gateway } from "./gateway/gateway.ts";
import { Exposition, exposeModels, seriesOf } from "./metrics.ts";
import { type Models, modelNotFound } from "./models.ts";
import { type OpenApi, openApi, type PlainRoute } from "./openapi.ts";
import { MODEL_ROUTES } from "./routes.ts";

export interface HandledRoute extends PlainRoute {
  handle(c: Context): Response | Promise<Response>;
}

const { version } = JSON.parse(
  readFileSync(new URL("../package.json", import.meta.url), "utf8"),
) as { version: string };

/** `ready` says whether new work is taken, `keys` whether routes want any. */
export function plainRoutes(
  models: Models,
  gateway: Gateway | null,
  { ready, keys }: { ready(): boolean; readonly keys: boolean },
): HandledRoute[] {
  const created = Math.floor(Date.now() / 1000);
  /** Every model once: this machine's, then those of others. */
  const entries = () => {
    const here = models.list().map((model) => ({ ...model, kind: "dsv3" }));
    const there = (gateway?.list() ?? []).filter(({ name }) => !models.has(name));
    return [...here, ...there].map(({ name, maxContext, loaded, kind }) => ({
      id: name,
      object: "model",
      created,
      owned_by: kind,
      max_model_len: maxContext,
      loaded,
    }));
  };
  const entry = (name: string) => {
    const all = entries();
    const found = all.find(({ id }) => id === name);
    if (found) return found;
    throw modelNotFound(
      name,
      all.map(({ id }) => id),
    );
  };
  /** Whether requests would find anybody, and what of the upstreams all may know. */
  const state = () => {
    const upstreams = gateway?.health;
    const none = upstreams?.healthy === 0 && models.list().length === 0;
    const status = !ready() ? "stopping" : none ? "no upstream" : "ok";
    return { status, ...(upstreams && { upstreams }) };
  };
  const ofModels = (prefix: string): HandledRoute[] => [
    {
      path: `${prefix}/models`,
      summary: "The models that can be asked for",
      answer: modelsAnswer,
      handle: (c) => c.json({ object: "list", data: entries() }),
    },
    {
      path: `${prefix}/models/{name}`,
      summary: "One of them",
      answer: modelAnswer,
      handle: (c) => c.json(entry(c.req.param("name")!)),
    },
  ];
  const routes: HandledRoute[] = [
    {
      path: "/health",
      summary: "Whether the server is there",
      answer: stateAnswer,
      open: true,
      handle: (c) => c.json({ status: "ok" }),
    },
    {
      path: "/ready",
      summary: "Whether it takes requests; 503 while it stops, or no engine is well",
      answer: stateAnswer,
      statuses: [200, 503],
      open: true,
      handle: (c) => {
        const told = state();
        return c.json(told, told.status === "ok" ? 200 : 503);
      },
    },
    {
      path: "/metrics",
      summary: "Counters and histograms for Prometheus, by vLLM's names",
      type: "text/plain",
      handle: (c) => {
        const out = new Exposition();
        exposeModels(out, [...models.list().map(seriesOf), ...(gateway?.series() ?? [])]);
        gateway?.expose(out);
        return c.text(out.text());
      },
    },
    ...["/v1", "", "/beta"].flatMap(ofModels),
    {
      path: "/openapi.json",
      summary: "This interface as an OpenAPI document",
      handle: (c) => c.json(description()),
    },
    {
      path: "/docs",
      summary: "The same to read",
      type: "text/html",
      handle: (c) => c.html(docsPage(description()), 200, DOCS_HEADERS),
    },
  ];
  let made: OpenApi | undefined;
  const description = () => (made ??= openApi(routes, MODEL_ROUTES, { version, keys }));
  return routes;
}
