/** The OpenAPI document as a page to read: one file, no scripts, nothing from elsewhere. */
import { createHash } from "node:crypto";
import { html, raw } from "hono/html";
import { eventsOf, type Row, rowsOf } from "./docs-words.ts";
import type { OpenApi, Operation } from "./openapi.ts";

const STYLE = `
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 2rem 1rem 6rem; }
h2 { margin: 3rem 0 0; font-size: 1.1rem; overflow-wrap: anywhere; }
h2 b, nav b { display: inline-block; min-width: 3rem; font-size: 0.75rem; letter-spacing: 0.05em; }
h3 { margin: 1.5rem 0 0.25rem; font-size: 0.875rem; }
p { margin: 0.25rem 0 0.75rem; }
.failures { list-style: none; margin: 0; padding: 0; }
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
  { method, paths, operation: { summary, requestBody, responses } }: Section,
  { schemas }: OpenApi["components"],
): Markup {
  const [path, ...others] = paths.map((path) => html`<code id="${method}${path}">${path}</code>`);
  const also = others.map((other, i) => html`${i === 0 ? "Also at " : ", "}${other}`);
  const request = requestBody?.content["application/json"]?.schema;
  const answer = responses[200]?.content["application/json"]?.schema;
  const event = responses[200]?.content["text/event-stream"]?.schema;
  return html`<article>
<h2><b>${method.toUpperCase()}</b> ${path!}</h2>
<p>${summary}. ${also}</p>
${request ? table("Request", "What it may be", rowsOf(request, schemas)) : ""}
${answer ? table("Answer", "What it is", rowsOf(answer, schemas, true)) : ""}
${event ? table("Events, with stream: true", "What each holds", eventsOf(event, schemas)) : ""}
${failures(responses)}
</article>
`;
}

function table(title: string, what: string, rows: readonly Row[]): Markup {
  const line = ({ name, type, description }: Row) =>
    html`<tr><td><code>${name}</code></td><td>${type}</td><td>${description}</td></tr>
`;
  return html`<h3>${title}</h3>
<div class="fields" tabindex="0"><table>
<thead><tr><th scope="col">Field</th><th scope="col">${what}</th><th scope="col">${title === "Request" ? "What it does" : "What it means"}</th></tr></thead>
<tbody>${rows.map(line)}</tbody>
</table></div>`;
}

function failures(responses: Operation["responses"]): Markup | string {
  const list = Object.entries(responses).filter(([status]) => status !== "200");
  if (list.length === 0) return "";
  const one = ([status, { description }]: (typeof list)[number]) =>
    html`<li><b>${status}</b> ${description}</li>
`;
  return html`<h3>Failures</h3>
<ul class="failures">${list.map(one)}</ul>`;
}
