/** The OpenAPI document as a page to read: one file, no scripts, nothing from elsewhere. */
import { createHash } from "node:crypto";
import { html, raw } from "hono/html";
import type { JsonSchema, OpenApi, Operation } from "./openapi.ts";

const STYLE = `
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 2rem 1rem 6rem; }
h2 { margin: 3rem 0 0; font-size: 1.1rem; overflow-wrap: anywhere; }
h2 b, nav b { display: inline-block; min-width: 3rem; font-size: 0.75rem; letter-spacing: 0.05em; }
p { margin: 0.25rem 0 0.75rem; }
nav ul { list-style: none; padding: 0; columns: 20rem; }
nav a { text-decoration: none; }
nav a:hover, nav a:focus-visible { text-decoration: underline; }
code { font: 0.875em ui-monospace, monospace; overflow-wrap: anywhere; }
.fields { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.375rem 1rem 0.375rem 0; border-top: 1px solid #8884; }
th { font-weight: 600; }
td:first-child { white-space: nowrap; }
`;

export const DOCS_HEADERS: Readonly<Record<string, string>> = {
  "content-security-policy": `default-src 'none'; style-src 'sha256-${createHash("sha256")
    .update(STYLE)
    .digest("base64")}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
  "x-content-type-options": "nosniff",
};

type Markup = ReturnType<typeof html>;

/** One thing that can be asked, at all its paths. */
interface Section {
  readonly method: string;
  readonly paths: string[];
  readonly operation: Operation;
}

export function docsPage({ info, paths, components }: OpenApi): Markup {
  const sections = new Map<string, Section>();
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const key = `${method} ${operation.summary}`;
      const section = sections.get(key) ?? { method, paths: [], operation };
      section.paths.push(path);
      sections.set(key, section);
    }
  }
  const list = [...sections.values()];
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${info.title} ${info.version}: interface</title>
<style>${raw(STYLE)}</style>
</head>
<body>
<header>
<h1>${info.title} ${info.version}</h1>
<p>${info.description} For machines: <a href="/openapi.json"><code>/openapi.json</code></a>.</p>
</header>
<nav aria-label="Routes"><ul>${list.map(link)}</ul></nav>
<main>${list.map((section) => article(section, components))}</main>
</body>
</html>`;
}

function link({ method, paths: [path] }: Section): Markup {
  return html`<li><a href="#${method}${path}"><b>${method.toUpperCase()}</b> <code>${path}</code></a></li>
`;
}

function article(
  { method, paths, operation: { summary, requestBody } }: Section,
  { schemas }: OpenApi["components"],
): Markup {
  const [path, ...others] = paths.map((path) => html`<code id="${method}${path}">${path}</code>`);
  const also = others.map((other, i) => html`${i === 0 ? "Also at " : ", "}${other}`);
  const name = /"#\/components\/schemas\/(\w+)"/.exec(JSON.stringify(requestBody ?? ""))?.[1];
  return html`<article>
<h2><b>${method.toUpperCase()}</b> ${path!}</h2>
<p>${summary}. ${also}</p>
${name === undefined ? "" : fields(schemas[name]!)}
</article>
`;
}

/** A table of what a request may hold; of several kinds of request, what any may. */
function fields(schema: JsonSchema): Markup {
  const kinds = (schema.anyOf ?? [schema]) as JsonSchema[];
  const rows = new Map<string, { of: JsonSchema; required: boolean }>();
  for (const kind of kinds) {
    for (const [name, of] of Object.entries(kind.properties ?? {})) {
      const required = kinds.every((one) => one.required?.includes(name));
      rows.set(name, { of: of as JsonSchema, required });
    }
  }
  const row = ([name, { of, required }]: [string, { of: JsonSchema; required: boolean }]) =>
    html`<tr><td><code>${name}</code></td><td>${typeOf(of)}${required ? ", required" : ""}</td><td>${of.description ?? ""}</td></tr>
`;
  return html`<div class="fields" tabindex="0"><table>
<thead><tr><th scope="col">Field</th><th scope="col">What it may be</th><th scope="col">What it does</th></tr></thead>
<tbody>${[...rows].map(row)}</tbody>
</table></div>`;
}

/** A schema in words: "number from 0 to 2", "list of texts, 16 at most". */
function typeOf(schema: JsonSchema): string {
  const { anyOf, oneOf, enum: values, const: constant, type } = schema;
  const several = anyOf ?? oneOf;
  if (several) {
    const kinds = (several as JsonSchema[]).filter((one) => one.type !== "null").map(typeOf);
    return [...new Set(kinds)].join(" or ");
  }
  if (values) return values.map((value) => JSON.stringify(value)).join(", ");
  if (constant !== undefined) return JSON.stringify(constant);
  const [only] = [type].flat().filter((one) => one !== "null");
  switch (only) {
    case "number":
    case "integer":
      return `${only === "integer" ? "whole number" : "number"}${range(schema)}`;
    case "string":
      return `text${schema.maxLength === undefined ? "" : `, ${schema.maxLength} characters at most`}`;
    case "array":
      return `list of ${typeOf((schema.items ?? {}) as JsonSchema)}${
        schema.maxItems === undefined ? "" : `, ${schema.maxItems} at most`
      }`;
    case "boolean":
      return "true or false";
    case "object": {
      const names = Object.keys(schema.properties ?? {});
      return names.length === 0 ? "object" : `{ ${names.join(", ")} }`;
    }
    default:
      return "anything";
  }
}

function range({ minimum, maximum }: JsonSchema): string {
  const low = minimum === Number.MIN_SAFE_INTEGER ? undefined : minimum;
  const high = maximum === Number.MAX_SAFE_INTEGER ? undefined : maximum;
  if (low !== undefined && high !== undefined) return ` from ${low} to ${high}`;
  if (low !== undefined) return `, ${low} at least`;
  return high === undefined ? "" : `, ${high} at most`;
}
