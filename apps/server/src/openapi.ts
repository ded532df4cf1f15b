/** The interface as an OpenAPI 3.1 document, made of the schemas that requests are checked by. */
import { z } from "zod";
import { errorAnswer, modelAnswer, modelsAnswer, stateAnswer } from "./answer-schemas.ts";
import { dialectOf } from "./errors.ts";
import { messagesError } from "./messages-answers.ts";
import type { DescribedRoute } from "./routes.ts";

/** A route that needs no body. */
export interface PlainRoute {
  readonly path: string;
  readonly summary: string;
  /** What it answers with; JSON unless given. */
  readonly type?: string;
  readonly answer?: z.ZodType;
  /** With which statuses; 200 unless given. */
  readonly statuses?: readonly number[];
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
  readonly requestBody?: { readonly content: Content };
  readonly responses: { readonly [status: string]: Answered };
}

export interface Answered {
  readonly description: string;
  readonly headers?: object;
  readonly content: Content;
}

interface Content {
  readonly [type: string]: { readonly schema?: JsonSchema };
}

export type JsonSchema = z.core.JSONSchema.BaseSchema;

/** What errors look like, by whose interface a path is of. */
const ERRORS = { openai: errorAnswer, deepseek: errorAnswer, anthropic: messagesError };

/** Statuses of requests that fail, and why they do. */
const FAILURES: readonly (readonly [status: number, why: string])[] = [
  [400, "the request is wrong; its message names the field"],
  [401, "a key is missing, or is none"],
  [404, "the model is not there"],
  [413, "the body is too large"],
  [422, "a value does not fit, where DeepSeek says so"],
  [429, "too many wait; Retry-After says when to come again"],
  [500, "the server failed"],
  [502, "an engine elsewhere failed"],
  [503, "it takes too long, or the server stops; Retry-After says when to come again"],
];

/** Describes every route. `version` is the server's; `keys`: whether it wants any. */
export function openApi(
  plain: readonly PlainRoute[],
  routes: readonly DescribedRoute[],
  { version, keys }: { readonly version: string; readonly keys: boolean },
): OpenApi {
  const named = z.registry<{ id: string }>();
  const shared = { Model: modelAnswer, Models: modelsAnswer, State: stateAnswer };
  const errors = { Error: errorAnswer, MessagesError: messagesError };
  for (const [id, schema] of Object.entries({ ...shared, ...errors })) named.add(schema, { id });
  for (const { name, request, answer, event } of routes) {
    named.add(request, { id: `${name}Request` });
    named.add(answer, { id: `${name}Answer` });
    if (event) named.add(event, { id: `${name}Event` });
  }
  const ref = (schema: z.ZodType) => ({
    schema: { $ref: `#/components/schemas/${named.get(schema)!.id}` },
  });
  const json = (schema: z.ZodType): Content => ({ "application/json": ref(schema) });
  const failed = (path: string, statuses: (status: number) => boolean) => {
    const content = json(ERRORS[dialectOf(path)]);
    const those = FAILURES.filter(([status]) => statuses(status) && (keys || status !== 401));
    return Object.fromEntries(
      those.map(([status, description]): [string, Answered] => {
        const again = { "Retry-After": { schema: { type: "string" } } };
        const headers = status === 429 || status === 503 ? { headers: again } : {};
        return [`${status}`, { description, ...headers, content }];
      }),
    );
  };

  const paths: Record<string, Record<string, Operation>> = {};
  for (const { paths: its, summary, request, answer, event } of routes) {
    for (const path of its) {
      const deepseek = dialectOf(path) === "deepseek";
      const content = { ...json(answer), ...(event && { "text/event-stream": ref(event) }) };
      const streams = event ? "; with stream: true, events, each with such data" : "";
      const post: Operation & { requestBody: { required: true } } = {
        summary,
        requestBody: { required: true, content: json(request) },
        responses: {
          200: { description: `The answer${streams}`, content },
          ...failed(path, (status) => status !== (deepseek ? 404 : 422)),
        },
      };
      paths[path] = { post };
    }
  }
  for (const { path, summary, type = "application/json", answer, statuses, open } of plain) {
    const name = /\{(\w+)\}/.exec(path)?.[1];
    const parameter = { name, in: "path", required: true, schema: { type: "string" } };
    const content = answer ? json(answer) : { [type]: {} };
    const told = (statuses ?? [200]).map((status): [string, Answered] => {
      return [`${status}`, { description: summary, content }];
    });
    const missing = name === undefined ? null : dialectOf(path) === "deepseek" ? 400 : 404;
    const fails = (status: number) => (status === 401 && !open) || status === missing;
    paths[path] = {
      get: {
        summary,
        ...(name !== undefined && { parameters: [parameter] }),
        ...(open && { security: [] }),
        responses: { ...Object.fromEntries(told), ...failed(path, fails) },
      },
    };
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
      schemas: schemasOf(named),
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

/** Schemas as the document has them: open, so that those who read it are not surprised by a new field. */
function schemasOf(named: z.core.$ZodRegistry<{ id: string }>): Record<string, JsonSchema> {
  const uri = (id: string) => `#/components/schemas/${id}`;
  const { schemas } = z.toJSONSchema(named, { io: "input", unrepresentable: "any", uri });
  return Object.fromEntries(
    Object.entries(schemas).map(([name, { $id: _, $schema: __, ...schema }]) => [name, schema]),
  );
}
