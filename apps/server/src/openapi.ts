/** The interface as an OpenAPI 3.1 document, made of the schemas that requests are checked by. */
import { z } from "zod";
import type { DescribedRoute } from "./routes.ts";

/** A route that needs no body. */
export interface PlainRoute {
  readonly path: string;
  readonly summary: string;
  /** What it answers with; JSON unless given. */
  readonly type?: string;
  /** Whether it wants no key. */
  readonly open?: boolean;
}

/** As much of a document as its page shows. */
export interface OpenApi {
  readonly openapi: "3.1.1";
  readonly info: { readonly title: string; readonly version: string; readonly description: string };
  readonly paths: { readonly [path: string]: { readonly [method: string]: Operation } };
  readonly components: { readonly schemas: { readonly [name: string]: JsonSchema } };
}

export interface Operation {
  readonly summary: string;
  readonly requestBody?: object;
}

export type JsonSchema = z.core.JSONSchema.BaseSchema;

const errorSchema: JsonSchema = z.toJSONSchema(
  z.object({
    error: z.object({
      message: z.string(),
      type: z.string(),
      param: z.string().nullable(),
      code: z.string().nullable(),
    }),
  }),
);

const json = (schema: object) => ({ content: { "application/json": { schema } } });

/** Describes every route. `version` is the server's; `keys`: whether it wants any. */
export function openApi(
  plain: readonly PlainRoute[],
  routes: readonly DescribedRoute[],
  { version, keys }: { readonly version: string; readonly keys: boolean },
): OpenApi {
  const schemas: Record<string, JsonSchema> = { Error: errorSchema };
  const paths: Record<string, Record<string, Operation>> = {};
  const failed = {
    default: {
      description: "What was wrong; 4xx in the request, 5xx in the server",
      ...json({ $ref: "#/components/schemas/Error" }),
    },
  };
  for (const route of routes) {
    schemas[route.name] = z.toJSONSchema(route.request, { io: "input", unrepresentable: "any" });
    const events = route.streams && { "text/event-stream": {} };
    const post = {
      summary: route.summary,
      requestBody: { required: true, ...json({ $ref: `#/components/schemas/${route.name}` }) },
      responses: {
        200: { description: route.summary, content: { "application/json": {}, ...events } },
        ...failed,
      },
    };
    for (const path of route.paths) paths[path] = { post };
  }
  for (const { path, summary, type = "application/json", open = false } of plain) {
    const name = /\{(\w+)\}/.exec(path)?.[1];
    const parameter = { name, in: "path", required: true, schema: { type: "string" } };
    const get = {
      summary,
      ...(name !== undefined && { parameters: [parameter] }),
      ...(open && { security: [] }),
      responses: { 200: { description: summary, content: { [type]: {} } }, ...failed },
    };
    paths[path] = { get };
  }
  return {
    openapi: "3.1.1",
    info: {
      title: "dsv3",
      version,
      description: "DeepSeek-V3 models behind OpenAI's, Anthropic's and DeepSeek's interfaces.",
    },
    paths,
    components: {
      schemas,
      ...(keys && {
        securitySchemes: {
          bearer: { type: "http", scheme: "bearer" },
          header: { type: "apiKey", in: "header", name: "x-api-key" },
        },
      }),
    },
    ...(keys && { security: [{ bearer: [] }, { header: [] }] }),
  };
}
