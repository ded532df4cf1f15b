/** The routes that tell of the server, and need neither a body nor a loaded model. */
import { readFileSync } from "node:fs";
import type { Context } from "hono";
import { DOCS_HEADERS, docsPage } from "./docs-page.ts";
import { metricsText } from "./metrics.ts";
import type { ModelState, Models } from "./models.ts";
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
  { ready, keys }: { ready(): boolean; readonly keys: boolean },
): HandledRoute[] {
  const created = Math.floor(Date.now() / 1000);
  const entry = ({ name, maxContext, loaded }: ModelState) => ({
    id: name,
    object: "model",
    created,
    owned_by: "dsv3",
    max_model_len: maxContext,
    loaded,
  });
  const ofModels = (prefix: string): HandledRoute[] => [
    {
      path: `${prefix}/models`,
      summary: "The models that can be asked for",
      handle: (c) => c.json({ object: "list", data: models.list().map(entry) }),
    },
    {
      path: `${prefix}/models/{name}`,
      summary: "One of them",
      handle: (c) => c.json(entry(models.find(c.req.param("name")!))),
    },
  ];
  const routes: HandledRoute[] = [
    {
      path: "/health",
      summary: "Whether the server is there",
      open: true,
      handle: (c) => c.json({ status: "ok" }),
    },
    {
      path: "/ready",
      summary: "Whether it takes requests; 503 while it stops",
      open: true,
      handle: (c) => (ready() ? c.json({ status: "ok" }) : c.json({ status: "stopping" }, 503)),
    },
    {
      path: "/metrics",
      summary: "Counters and histograms for Prometheus, by vLLM's names",
      type: "text/plain",
      handle: (c) => c.text(metricsText(models.list())),
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
